"""Events to an address: sent from a thread of their own, again if need be, never waited for."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from http.client import HTTPException
from types import TracebackType
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pgvision.errors import OptionError
from pgvision.http import hide_secrets

MOST_WAITING: Final = 1000
_TIMEOUT: Final = 10.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0
_AGAIN: Final = frozenset({408, 425, 429})  # what a server says that wants to be asked later

_log = logging.getLogger("pgvision.live")


class Webhook:
    """Posts events as JSON, one each, in order.

    A server that does not answer, or answers with 5xx, is tried again, with waits that double up to
    30 s; meanwhile at most 1000 events wait, and the oldest give way. What it refuses (4xx) is not
    sent again. Leaving the ``with`` block tries for ``last_seconds`` to send the rest.

    Args:
        address: ``http://`` or ``https://``.
        last_seconds: How long the end may take.

    Attributes:
        num_sent: Events that the server took.
        num_refused: Events that it refused.
        num_lost: Events that gave way, or were left at the end.

    Raises:
        OptionError: If the address is no such one.
    """

    def __init__(self, address: str, *, last_seconds: float = 5.0) -> None:
        try:
            parts = urlsplit(address)
            named = parts.hostname and (parts.port or True)
        except ValueError:
            named = None
        if not named or parts.scheme not in ("http", "https") or parts.username:
            raise OptionError(
                "--post: expected http://host/... or https://host/... without a user name, got "
                f"{hide_secrets(address)!r}"
            )
        # Paths and queries of webhooks hold their secrets: logs name the host alone.
        self._address, self._name = address, f"{parts.scheme}://{parts.hostname}"
        self._last_seconds = last_seconds
        self.num_sent = self.num_refused = self.num_lost = 0
        self._waiting: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._deadline: float | None = None
        self._is_down = False
        self._thread = threading.Thread(target=self._send_all, name="pgvision-post", daemon=True)

    def __enter__(self) -> "Webhook":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send what is left, as far as time allows."""
        with self._ready:
            self._deadline = time.monotonic() + self._last_seconds
            self._ready.notify()
        self._thread.join(self._last_seconds + 1.0)
        with self._ready:
            self.num_lost += len(self._waiting)

    def post(self, event: Mapping[str, object]) -> None:
        """Queue an event and return at once."""
        data = json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
        with self._ready:
            if len(self._waiting) == MOST_WAITING:
                del self._waiting[1]  # the oldest is under way
                self.num_lost += 1
            self._waiting.append(data)
            self._ready.notify()

    def _send_all(self) -> None:
        wait = _FIRST_WAIT
        while (data := self._next()) is not None:
            is_done = self._send(data)
            with self._ready:
                if is_done:
                    self._waiting.popleft()
                    wait = _FIRST_WAIT
                elif self._deadline is None:
                    self._ready.wait_for(lambda: self._deadline is not None, wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
                else:
                    self._ready.wait(max(0.0, min(0.5, self._deadline - time.monotonic())))

    def _next(self) -> bytes | None:
        """Wait for the next event; None when all is said or time is up."""
        with self._ready:
            while not self._waiting:
                if self._deadline is not None:
                    return None
                self._ready.wait()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return None
            return self._waiting[0]

    def _send(self, data: bytes) -> bool:
        """Send one event; False if it should be tried again."""
        left = _TIMEOUT
        if self._deadline is not None:
            left = max(0.1, min(left, self._deadline - time.monotonic()))
        head = {"Content-Type": "application/json", "User-Agent": "pgvision"}
        # The address was held to http and https above.
        request = Request(self._address, data=data, headers=head, method="POST")  # noqa: S310
        try:
            with urlopen(request, timeout=left) as answer:  # noqa: S310
                answer.read(1)
        except HTTPError as error:
            error.close()
            if error.code >= 500 or error.code in _AGAIN:
                return self._down(f"HTTP {error.code}")
            self.num_refused += 1
            if self.num_refused == 1:
                _log.warning("%s: refused an event: HTTP %d", self._name, error.code)
            return True
        except (OSError, HTTPException) as error:
            return self._down(str(error))
        self.num_sent += 1
        self._is_down = False
        return True

    def _down(self, reason: str) -> bool:
        if not self._is_down:
            _log.warning("%s: %s; trying again, events wait", self._name, reason)
        self._is_down = True
        return False
