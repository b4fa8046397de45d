"""Pictures by address: from hosts that the operator named, and from no other."""

import os
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from pgvision.server.refusals import Refusal
from pgvision.server.settings import ServeSettings

_TIMEOUT = 10.0
_TOKEN = "LABEL_STUDIO_API_KEY"  # noqa: S105  (the name of a variable)


def fetch(address: str, settings: ServeSettings) -> bytes:
    """Fetch a picture from an allowed host, redirects held to the same list.

    ``LABEL_STUDIO_API_KEY`` of the environment goes along, as Label Studio wants it.

    Raises:
        Refusal: 422 if the host is not allowed or does not send the picture.
    """
    _require_allowed(address, settings)
    opener = build_opener(_SameHosts(settings), ProxyHandler({}))
    request = Request(address, headers={"User-Agent": "pgvision"})  # noqa: S310  (checked above)
    if token := os.environ.get(_TOKEN):
        request.add_unredirected_header("Authorization", f"Token {token}")
    try:
        with opener.open(request, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read(settings.max_bytes + 1)
    except HTTPError as error:
        error.close()
        raise Refusal(
            422, "not_fetched", f"image: {address} answers {error.code} {error.reason}"
        ) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise Refusal(422, "not_fetched", f"image: {address} cannot be had: {error}") from error
    if len(data) > settings.max_bytes:
        raise Refusal(
            413, "too_large", f"image: {address} sends more than {settings.max_bytes} bytes"
        )
    return data


def _require_allowed(address: str, settings: ServeSettings) -> None:
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise Refusal(
            422, "address_refused", f"image: {address[:80]!r} is no address ({error})"
        ) from error
    names = {parts.hostname or "", parts.netloc.rpartition("@")[2]}
    if parts.scheme in ("http", "https") and names & set(settings.allow_hosts):
        return
    host = parts.hostname or address[:60]
    raise Refusal(
        422,
        "address_refused",
        f"image: expected a picture, got the address of {host!r}, from which nothing is fetched; "
        f"send the picture itself, or start the service with --allow-host {host}",
    )


class _SameHosts(HTTPRedirectHandler):
    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        _require_allowed(newurl, self._settings)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
