"""HTTP client with one policy for addresses, redirects, deadlines, sizes and secrets.

Everything in this package that opens an http address does so here. `hide_secrets` is applied to
every address that reaches a log, a result or an error message.
"""

import base64
import io
import re
import socket
import string
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from pgvision.errors import PgvisionError

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_CHUNK: Final = 1 << 16
_MAX_ERROR_TEXT: Final = 500  # bytes of an error reply that are quoted

# An address in a text. Local paths ("/home/key/a.jpg") are left as they are.
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]*", re.IGNORECASE)
# User and password: up to the last "@" before the host ends. A password may contain an unquoted
# "/", "?" or "#": then what follows the first ":" is not a port, and an "@" follows.
_USER: Final = re.compile(r"(?<=://)(?:[^/?#]*@|[^/?#@:]*:(?!\d*(?:[/?#]|$))[^@]*@)")
_NAME: Final = (
    r"(?:[\w.%-]*?(?:pwd|psw|pass(?:w(?:or)?d|code|phrase)?|pas|token|key|secret|credentials?)"
    r"|(?:[\w.%-]*[-_.])?(?:auth|sig|signature))(?:[-_]?id)?"
)
_QUERY: Final = re.compile(rf"([?&]{_NAME}=)[^&;#\s\"'<>]+", re.IGNORECASE)
_IN_PATH: Final = (
    re.compile(rf"([;/]{_NAME}=)[^&;#]+", re.IGNORECASE),  # /user=me&password=...
    re.compile(rf"(_{_NAME}=)[^&;/?#]+?(?=_[a-z0-9]+=|[&;/?#]|$)", re.IGNORECASE),
    re.compile(rf"(?<=[^:/])(/{_NAME}/)[^/?#]+", re.IGNORECASE),  # /token/...
)
# Authorization headers, as FFmpeg and proxies quote them.
_HEADER: Final = re.compile(
    r"(authorization\s*[:=]\s*(?:(?:basic|bearer|digest|token)\s+)?)[\w.~+/=:*-]{3,}", re.IGNORECASE
)


class HttpError(PgvisionError, OSError):
    """A request without a usable reply.

    Args:
        message: Address (without secrets) and reason.
        status: Status of the reply; None: no reply.
        retry_after: Seconds after which the server wants the request again; 0: not given.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(hide_secrets(message))
        self.status, self.retry_after = status, retry_after


def hide_secrets(text: str) -> str:
    """Replace passwords, tokens and keys of the addresses in a text by ``***``.

    Hidden are user and password, up to the last ``@`` before the host; the values of queries and
    path parts called pwd, password, token, key, auth, sig and the like; and Authorization headers.

    Example:
        >>> hide_secrets("rtsp://me:p@ss@10.0.0.7/live: cannot be opened")
        'rtsp://***@10.0.0.7/live: cannot be opened'
        >>> hide_secrets("http://cam/shot.jpg?user=me&pwd=secret&n=1")
        'http://cam/shot.jpg?user=me&pwd=***&n=1'
        >>> hide_secrets("rtsp://cam/user=me_password=secret_channel=1.sdp")
        'rtsp://cam/user=me_password=***_channel=1.sdp'
    """
    text = _ADDRESS.sub(_hide_in_address, text)
    return _HEADER.sub(r"\1***", _QUERY.sub(r"\1***", text))


def parse_host(text: str) -> tuple[str, int | None]:
    """Read a host rule: a name or address, with or without a port.

    Args:
        text: ``name``, ``name:port``, ``[::1]:port`` or ``::1``.

    Returns:
        The name in lower case and the port; None: the default ports 80 and 443.

    Raises:
        ValueError: If it is not a host.

    Example:
        >>> parse_host("Studio.example.org:8080"), parse_host("::1")
        (('studio.example.org', 8080), ('::1', None))
    """
    bare = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    parts = urlsplit(f"//{bare}")
    is_name = re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", parts.hostname or "")
    if not is_name or parts.netloc != bare or "@" in bare:
        raise ValueError(f"{hide_secrets('//' + bare)!r} is not a host")
    return parts.hostname or "", parts.port


def origin_of(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address.

    Raises:
        HttpError: If it is not an http or https address.

    Example:
        >>> origin_of("https://me:secret@Example.org/a.jpg")
        ('https', 'example.org', 443)
    """
    parts = _split(address)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


@dataclass(frozen=True, kw_only=True)
class HttpPolicy:
    """Limits of one request, redirects included.

    Attributes:
        seconds: Total time from the first connection to the last byte.
        max_bytes: Largest reply.
        hosts: Host rules (see `parse_host`) that may be asked; None: every host.
        max_redirects: Redirects of a GET that are followed; those of a POST are errors.
        use_proxies: Whether the environment's proxies are used.

    Example:
        >>> HttpPolicy(hosts=(("example.org", None),)).allows("http://example.org:8080/")
        False
    """

    seconds: float = 15.0
    max_bytes: int = 1 << 28
    hosts: tuple[tuple[str, int | None], ...] | None = None
    max_redirects: int = 5
    use_proxies: bool = True

    def allows(self, address: str) -> bool:
        """Whether an address may be asked; a rule without a port means ports 80 and 443."""
        _, name, port = origin_of(address)
        return self.hosts is None or any(
            name == host and port in ((80, 443) if rule is None else (rule,))
            for host, rule in self.hosts
        )


class Reply:
    """An open reply with status 200 to 299.

    Attributes:
        address: Where it came from, after redirects, without secrets.
        content_type: In lower case, without parameters; "" if not sent.
    """

    def __init__(self, response: HTTPResponse, address: str, policy: HttpPolicy) -> None:
        self._response, self._policy, self._num_read = response, policy, 0
        self.address = hide_secrets(address)
        kind = response.headers.get("Content-Type") or ""
        self.content_type = kind.partition(";")[0].strip().lower()

    def read(self, size: int | None = None) -> bytes:
        """Read ``size`` bytes, fewer at the end; None: all that is left.

        Raises:
            HttpError: If the reply is too large, too slow or cut short.
        """
        data = bytearray()
        # 1. Read in chunks, within the limits on time and size.
        while size is None or len(data) < size:
            wanted = _CHUNK if size is None else min(_CHUNK, size - len(data))
            with _errors_of(self.address, self._policy):
                chunk = self._response.read(wanted)
            if not chunk:
                break
            data += chunk
            self._num_read += len(chunk)
            if self._num_read > self._policy.max_bytes:
                raise HttpError(f"{self.address} sends more than {self._policy.max_bytes} bytes")
        # 2. A connection that closes early is an error only if the length is known.
        declared = self._response.headers.get("Content-Length") or ""
        if size is None and declared.isdecimal() and self._num_read < int(declared):
            raise HttpError(f"{self.address}: {self._num_read} of {declared} bytes came")
        return bytes(data)


@contextmanager
def open_address(
    address: str,
    *,
    policy: HttpPolicy,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Iterator[Reply]:
    """Open an address; the deadline includes reading its reply.

    Args:
        address: With or without user and password, which become basic authentication.
        policy: The limits.
        headers: Sent to the address's own origin, and to no other that it redirects to.
        body: Sent by POST; None: GET.

    Yields:
        The reply.

    Raises:
        HttpError: If the address is not allowed, does not answer in time, or refuses.
    """
    with _errors_of(address, policy):
        response, address = _follow(address, policy, headers or {}, body)
    with response:
        yield Reply(response, address, policy)


def fetch(
    address: str,
    *,
    policy: HttpPolicy,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> bytes:
    """Return the body of the reply to one request; see `open_address`.

    Raises:
        HttpError: If there is none.
    """
    with open_address(address, policy=policy, headers=headers, body=body) as reply:
        return reply.read()


def _hide_in_address(match: re.Match[str]) -> str:
    text = _USER.sub("***@", match[0])
    for pattern in _IN_PATH:
        text = pattern.sub(r"\1***", text)
    return text


@contextmanager
def _errors_of(address: str, policy: HttpPolicy) -> Iterator[None]:
    """Turn the errors of a connection into `HttpError`."""
    try:
        yield
    except HttpError:
        raise
    except TimeoutError as error:
        raise HttpError(f"{address}: no answer within {policy.seconds:g} s") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {policy.seconds:g} s"
        raise HttpError(f"{address}: {reason}") from error


def _follow(
    address: str, policy: HttpPolicy, headers: Mapping[str, str], body: bytes | None
) -> tuple[HTTPResponse, str]:
    """Open an address and what it redirects to; return the last reply and its address."""
    deadline = time.monotonic() + policy.seconds
    origin, private = origin_of(address), _with_login(address, headers)
    for _ in range(policy.max_redirects + 1):
        # 1. Check each hop. Only the first origin gets the caller's headers.
        if not policy.allows(address):
            raise HttpError(f"{address}: this host is not allowed")
        sent = private if origin_of(address) == origin else {}
        response = _open_once(address, sent, body, deadline, policy)
        # 2. Follow a redirect, refuse an error, or return the reply.
        to = response.headers.get("Location")
        if 200 <= response.status < 300:
            return response, address
        with response:
            if response.status not in _REDIRECTS or not to or body is not None:
                raise _refusal(address, response)
        address = urljoin(address, to)
    raise HttpError(f"{address}: more than {policy.max_redirects} redirects")


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise HttpError(f"expected http://host/... or https://host/..., got {address[:200]!r}")
    return parts


def _with_login(address: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Add basic authentication for the user and password of an address."""
    parts = _split(address)
    if parts.username is None:
        return headers
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}", **headers}


def _open_once(
    address: str,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline: float,
    policy: HttpPolicy,
) -> HTTPResponse:
    parts = _split(address)
    # Quote blanks and letters outside of ASCII, as browsers do.
    path, query = (quote(text, safe=string.punctuation) for text in (parts.path, parts.query))
    host = parts.netloc.rpartition("@")[2]
    bare = parts._replace(netloc=host, path=path, query=query, fragment="").geturl()
    # An opener without urllib's own redirect and error handlers: every status comes back.
    opener = OpenerDirector()
    proxies = ProxyHandler() if policy.use_proxies else ProxyHandler({})
    for handler in (proxies, _TimedHandler(deadline)):
        opener.add_handler(handler)
    request = Request(bare, data=body, headers={"User-Agent": "pgvision"})  # noqa: S310 (_split)
    for name, value in headers.items():
        request.add_header(name, value)
    response: HTTPResponse = opener.open(request, timeout=_left(deadline))
    return response


def _refusal(address: str, response: HTTPResponse) -> HttpError:
    text = response.read(_MAX_ERROR_TEXT).decode(errors="replace").strip()
    after = response.headers.get("Retry-After") or ""
    return HttpError(
        f"{address}: HTTP {response.status}: {text or response.reason}",
        status=response.status,
        retry_after=float(after) if after.isdecimal() else 0.0,
    )


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# --- a deadline for a whole reply ----------------------------------------------------------------
# A socket's timeout starts anew with every byte, so that a server which sends one byte a second
# would never end. The time left is therefore set before each read, of headers as of the body.


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: Any, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        num_read: int | None = self._raw.readinto(buffer)
        return num_read

    def close(self) -> None:
        self._raw.close()
        super().close()


def _timed_response(
    sock: socket.socket, *args: Any, deadline: float, **options: Any
) -> HTTPResponse:
    response = HTTPResponse(sock, *args, **options)
    raw: Any = response.fp
    response.fp = io.BufferedReader(_TimedReader(raw.detach(), sock, deadline))
    return response


class _TimedHandler(HTTPHandler, HTTPSHandler):
    """Opens connections that end replies at the deadline."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(self._connected(HTTPConnection), req)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(self._connected(HTTPSConnection), req)

    def _connected(self, kind: Any) -> Any:
        def _connection(host: str, **options: Any) -> HTTPConnection:
            made: HTTPConnection = kind(host, **options)
            timed: Any = partial(_timed_response, deadline=self._deadline)
            made.response_class = timed
            return made

        return _connection
