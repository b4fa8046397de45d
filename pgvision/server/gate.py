"""The gate before all routes: key, room inside, size of the body, counts, one line in the log."""

import asyncio
import base64
import hmac
import logging
import time
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgvision.server.pace import Pace
from pgvision.server.refusals import Refusal
from pgvision.server.service import Service

_LOG = logging.getLogger(__name__)
_OPEN = frozenset({"/", "/healthz", "/readyz", "/health", "/openapi.json"})
_OPEN_FOLDER = "/page/"
_PATIENCE = 2.0  # seconds for the rest of a body that nobody reads


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind it.
        service: Its limits and counts.
        routes: Paths that are counted by name.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: Iterable[str]) -> None:
        self.app, self._service, self._routes = app, service, frozenset(routes)
        self._inside, self._pace = 0, Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["pgvision.started"] = time.monotonic()
        visit = _Visit(scope, receive, send, self._service.settings.max_bytes)
        works = scope["method"] == "POST"
        try:
            self._require_key(scope)
            if works:
                self._require_room()
                visit.require_small()
        except Refusal as refusal:
            await refusal.response()(scope, visit.receive, visit.send)
            self._count(visit)
            return
        self._enter(works)
        try:
            await self.app(scope, visit.receive, visit.send)
        finally:
            self._enter(-works)
            if works and visit.status == 200:
                self._pace.end(time.monotonic())
            self._count(visit)

    def _enter(self, step: int) -> None:
        if self._inside == 0:
            self._pace.begin(time.monotonic())
        self._inside += step
        self._service.metrics.inside.set(self._inside)

    def _require_key(self, scope: Scope) -> None:
        key, path = self._service.settings.api_key, scope["path"]
        if key is None or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return
        headers = Headers(scope=scope)
        queried = parse_qs(scope["query_string"].decode("latin-1")).get("api_key", [""])[0]
        bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
        for sent in (headers.get("x-api-key"), bearer, queried, _password(headers)):
            if sent and hmac.compare_digest(sent.encode(), key.encode()):
                return
        raise Refusal(
            401,
            "wrong_key",
            "this service wants a key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
            {"WWW-Authenticate": "Bearer"},
        )

    def _require_room(self) -> None:
        if self._inside < self._service.settings.queue:
            return
        raise Refusal(
            429,
            "queue_full",
            f"{self._inside} requests are inside, which is all that there is room for; ask again "
            "after the seconds in Retry-After",
            {"Retry-After": str(self._pace.seconds_to_wait(self._inside, time.monotonic()))},
        )

    def _count(self, visit: "_Visit") -> None:
        scope, metrics = visit.scope, self._service.metrics
        seconds = time.monotonic() - scope["pgvision.started"]
        route = scope["path"] if scope["path"] in self._routes else "other"
        metrics.requests.labels(route, str(visit.status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        if scope["method"] == "POST":
            _LOG.info("%s %s in %.3f s", route, visit.status, seconds)


def _password(headers: Headers) -> str:
    """Read the password of basic authentication, which is what Label Studio sends."""
    scheme, _, coded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(coded).decode().partition(":")[2]
    except ValueError:
        return ""


class _Visit:
    """One request: how much of its body came, and how it was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self.scope, self._receive, self._send, self._most = scope, receive, send, most
        self.status, self._size, self._is_whole = 499, 0, False

    def require_small(self) -> None:
        length = Headers(scope=self.scope).get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._size > self._most:
                raise self._too_large()
        else:
            self._is_whole = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        """Read on to the body's end, a while: a caller that still sends reads no answer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not self._is_whole:
                    message = await self._receive()
                    self._is_whole = not message.get("more_body", False)
        except TimeoutError:
            return

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"expected a body of at most {self._most} bytes; send a smaller picture, or start the "
            "service with a larger --max-mb",
        )
