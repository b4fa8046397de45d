"""ASGI middleware: hosts, origins, keys, size and deadline of bodies, places, counts, log."""

import asyncio
import base64
import hmac
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgvision.server.engine import Metrics
from pgvision.server.errors import ApiError, api_error_of, deadline_error
from pgvision.server.settings import ServeSettings

_LOG = logging.getLogger(__name__)
_OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/health", "/openapi.json"})
_OPEN_FOLDER: Final = "/page/"
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DRAIN_SECONDS: Final = 2.0  # how long the rest of a refused body is read
_BODIES: Final = 8  # of the largest size, that may be in memory at one time
_GRACE: Final = 0.5  # seconds after the deadline in which a route may end by itself


class RequestContext:
    """One request: its deadline, its body and the status of its answer.

    Attributes:
        deadline: `time.monotonic` at which it is answered 504.
        body: What has arrived of the body that the route reads.
        num_bytes: What the body counts towards the bytes of all requests.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        self.headers, self.path = Headers(scope=scope), str(scope["path"])
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.status, self.num_bytes = 499, 0
        self._receive, self._send = receive, send
        # GET and HEAD have no body: waiting for its end would be waiting for the client to hang up.
        self._is_whole = scope["method"] in ("GET", "HEAD")
        self._is_handed_out, self.body = False, bytearray()

    async def next_chunk(self) -> bytes | None:
        """Return the next part of the body; None at its end.

        Raises:
            ConnectionResetError: If the caller hung up.
        """
        if self._is_whole:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        self._is_whole = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def receive(self) -> Message:
        """Return the whole body to the route, then the connection's messages (a disconnect)."""
        if self._is_handed_out:
            return await self._receive()
        body, self.body, self._is_handed_out = bytes(self.body), bytearray(), True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Pass the answer on; a caller that still sends reads no answer, so drain first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            with suppress(TimeoutError, ConnectionResetError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while await self.next_chunk() is not None:
                        pass
        await self._send(message)


class ServiceMiddleware:
    """Check and count every request before its route runs.

    Args:
        app: The wrapped application.
        settings: The limits.
        metrics: The counts.
        routes: Paths that are counted by name.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServeSettings, metrics: Metrics, routes: Iterable[str]
    ) -> None:
        self.app, self._settings, self._metrics = app, settings, metrics
        self._routes = frozenset(routes)
        self._num_inside = self._num_bytes = 0
        names = {urlsplit(origin).hostname for origin in settings.allow_origins}
        self._host_names = _LOOPBACK_HOSTS | {settings.host.lower(), *filter(None, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = RequestContext(scope, receive, send, self._settings.deadline)
        scope["pgvision"] = context
        try:
            await self._answer(scope, context)
        except ConnectionResetError:
            pass  # the client has disconnected; counted as 499
        except Exception as error:  # noqa: BLE001  (logged and answered)
            # Its bytes first: held until the client has read the refusal, they refuse all others.
            self._drop_body(context)
            await api_error_of(error).response()(scope, context.receive, context.send)
        finally:
            self._drop_body(context)
            self._count(scope, context)

    async def _answer(self, scope: Scope, context: RequestContext) -> None:
        # 1. Check host, origin and key.
        self._require_host(context.headers)
        self._require_origin(scope, context.headers)
        self._require_key(context)
        if scope["method"] != "POST":
            # Monitors ask by HEAD. Routes know GET only; the server leaves the body out.
            scope = {**scope, "method": scope["method"].replace("HEAD", "GET")}
            await self.app(scope, context.receive, context.send)
            return
        # 2. Read the body before taking a place in the queue: slow senders must not block others.
        self._require_room()
        await self._read_body(context)
        self._require_room()
        # 3. Run the route, with a deadline; meanwhile it counts as in progress.
        self._num_inside += 1
        try:
            with self._metrics.inside.track_inprogress():
                async with asyncio.timeout(context.deadline + _GRACE - time.monotonic()):
                    await self.app(scope, context.receive, context.send)
        except TimeoutError as error:
            if context.status != 499:
                raise  # a part of the answer was sent already
            self._metrics.late.inc()
            raise deadline_error(self._settings.deadline) from error
        finally:
            self._num_inside -= 1

    # --- authentication --------------------------------------------------------------------------

    def _require_host(self, headers: Headers) -> None:
        """Refuse other names for a local service: a web page could rebind its own name to it."""
        name = _host_name(headers.get("host", ""))
        if self._settings.is_local and name not in self._host_names:
            raise ApiError(
                "wrong_host",
                f"Host: this service is for {', '.join(sorted(_LOOPBACK_HOSTS))}, got {name!r}; "
                f"start it with --allow-origin http://{name} to serve this name",
            )

    def _require_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse requests that a page of another origin makes."""
        # 1. Reading is harmless: without CORS headers a page does not get the answer.
        origin, host = headers.get("origin"), headers.get("host", "")
        if scope["method"] in ("GET", "HEAD") or origin in self._settings.allow_origins:
            return
        # 2. Without an Origin header, browsers still send Sec-Fetch-Site.
        is_foreign = (
            headers.get("sec-fetch-site") == "cross-site"
            if origin is None
            else origin.lower().partition("://")[2] != host.lower()
        )
        if is_foreign:
            raise ApiError(
                "wrong_origin",
                f"Origin: pages of {str(origin)[:80]!r} may not call this service; start it with "
                "--allow-origin ORIGIN to let them",
            )

    def _require_key(self, context: RequestContext) -> None:
        # 1. The page and the checks of an orchestrator need no key.
        key, path = self._settings.api_key, context.path
        if key is None or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            return
        # 2. Compare in constant time, so that answers do not reveal how much of a key is right.
        sent = (context.headers.get("x-api-key"), *_credentials(context.headers))
        if any(text and hmac.compare_digest(text.encode(), key.encode()) for text in sent):
            return
        raise ApiError(
            "wrong_key",
            "this service needs a key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
            {"WWW-Authenticate": "Bearer"},
        )

    # --- how much --------------------------------------------------------------------------------

    def _require_room(self) -> None:
        if self._num_inside < self._settings.queue:
            return
        raise ApiError(
            "queue_full",
            f"{self._num_inside} requests are in progress, which is the limit; ask again after the "
            "seconds in Retry-After",
            {"Retry-After": "1"},
        )

    def _drop_body(self, context: RequestContext) -> None:
        self._num_bytes -= context.num_bytes
        context.num_bytes, context.body = 0, bytearray()

    async def _read_body(self, context: RequestContext) -> None:
        """Read the whole body before the deadline, within the limits of one and of all bodies."""
        # 1. A declared length over the limit is refused before reading.
        most, declared = self._settings.max_bytes, context.headers.get("content-length", "")
        is_large = declared.isdigit() and (len(declared) > 18 or int(declared) > most)
        try:
            async with asyncio.timeout(context.deadline - time.monotonic()):
                # 2. Count what arrives: the header may be absent or wrong.
                while not is_large and (chunk := await context.next_chunk()) is not None:
                    context.body += chunk
                    context.num_bytes += len(chunk)
                    self._num_bytes += len(chunk)
                    is_large = context.num_bytes > most
                    if self._num_bytes > _BODIES * most:
                        why = "too many bytes are being received at this moment; ask again"
                        raise ApiError("busy", why, {"Retry-After": "1"})
        except TimeoutError as error:
            raise ApiError("too_slow", "the body did not come in time; send it again") from error
        if is_large:
            raise ApiError(
                "too_large",
                f"expected a body of at most {most} bytes; send a smaller image, or start the "
                "service with a larger --max-mb",
            )

    def _count(self, scope: Scope, context: RequestContext) -> None:
        seconds = time.monotonic() - context.started
        route = context.path if context.path in self._routes else "other"
        self._metrics.requests.labels(route, str(context.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if scope["method"] == "POST":
            _LOG.info("%s %s in %.3f s", route, context.status, seconds)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _credentials(headers: Headers) -> Iterator[str]:
    """Yield a bearer token, or the password of basic authentication (Label Studio's form)."""
    scheme, _, text = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        yield text.strip()
    elif scheme.lower() == "basic":
        with suppress(ValueError):
            yield base64.b64decode(text).decode().partition(":")[2]
