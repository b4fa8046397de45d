"""Webhook: events posted from a background thread, with retries and limits."""

import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pgvision.errors import OptionError
from pgvision.http import HttpError, HttpPolicy, fetch, hide_secrets, origin_of

MAX_WAITING: Final = 1000
"""Events that wait while the server is down; then the oldest are dropped."""
MAX_TRIES: Final = 5
"""Tries of one event that the server answers with an error."""
MAX_AGE: Final = 900.0
"""Seconds; events older than this are dropped while the server cannot be reached."""
_TIMEOUT: Final = 10.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 30.0
# RFC 9110: a token, and visible characters of Latin-1; http.client sends no others.
_HEADER: Final = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*:\s*([\t -~\xa0-\xff]*?)\s*", re.ASCII)
_RETRIED: Final = frozenset({408, 425, 429})  # besides 5xx

_log = logging.getLogger("pgvision.live")


@dataclass(eq=False)
class _Waiting:
    data: bytes
    since: float = field(default_factory=time.monotonic)
    num_tries: int = 0


class Webhook:
    """Posts events as JSON, one each, in order.

    Answers 408, 425, 429 and 5xx are retried, an event at most 5 times; while the server cannot be
    reached, events wait up to 15 minutes, with waits that double up to 30 s, and at most 1000 of
    them. Other answers, redirects among them, are refusals and are not retried. Leaving the
    ``with`` block waits up to ``last_seconds`` for the rest.

    Args:
        address: ``http://`` or ``https://``.
        headers: Further headers, each ``Name: value``.
        last_seconds: How long the end may take.

    Attributes:
        num_sent: Events that the server accepted.
        num_refused: Events that it refused.
        num_lost: Events that were given up or dropped.

    Raises:
        OptionError: If the address or a header cannot be used.
    """

    def __init__(
        self, address: str, headers: Sequence[str] = (), *, last_seconds: float = 5.0
    ) -> None:
        # 1. Check address and headers.
        try:
            scheme, host, _ = origin_of(address)
            is_usable = "@" not in address.split("/")[2]
        except HttpError:
            is_usable = False
        if not is_usable:
            raise OptionError(
                "--post: expected http://host/... or https://host/... without a user name (use "
                f"--post-header), got {hide_secrets(address)!r}"
            )
        self._headers = {"Content-Type": "application/json"}
        for header in headers:
            if not (match := _HEADER.fullmatch(header)):
                name = header.partition(":")[0][:40]
                raise OptionError(f"--post-header: expected 'Name: value', got {name!r}")
            self._headers[match[1]] = match[2]
        # Paths and queries of webhooks contain their secrets: logs name the host alone.
        self._address, self._name = address, f"{scheme}://{host}"
        # 2. State that the sending thread shares.
        self._last_seconds = last_seconds
        self.num_sent = self.num_refused = self.num_lost = 0
        self._waiting: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._deadline: float | None = None
        self._is_down = False
        self._thread = threading.Thread(target=self._send_all, name="pgvision-post", daemon=True)

    def __enter__(self) -> "Webhook":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send the rest, as far as time allows."""
        with self._ready:
            self._deadline = time.monotonic() + self._last_seconds
            self._ready.notify()
        self._thread.join(self._last_seconds + 1.0)
        with self._ready:
            self.num_lost += len(self._waiting)

    def post(self, event: Mapping[str, object]) -> None:
        """Queue an event and return at once."""
        data = json.dumps(event, ensure_ascii=False, allow_nan=False)
        with self._ready:
            if len(self._waiting) == MAX_WAITING:
                del self._waiting[1]  # the first is being sent
                self.num_lost += 1
            # A name that is not UTF-8 is sent with its bytes escaped.
            self._waiting.append(_Waiting(data.encode(errors="backslashreplace")))
            self._ready.notify()

    def _send_all(self) -> None:
        wait = _FIRST_WAIT
        while (event := self._next()) is not None:
            is_done = self._send(event)
            with self._ready:
                # 1. Sent, refused or given up: the next one.
                if is_done:
                    self._waiting.popleft()
                    wait = _FIRST_WAIT
                # 2. Back off, unless the end comes.
                elif self._deadline is None:
                    self._ready.wait_for(lambda: self._deadline is not None, wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
                # 3. At the end try until time is up.
                else:
                    self._ready.wait(max(0.0, min(0.5, self._deadline - time.monotonic())))

    def _next(self) -> _Waiting | None:
        """Wait for the next event; None after the last one, or when time is up."""
        with self._ready:
            while not self._waiting:
                if self._deadline is not None:
                    return None
                self._ready.wait()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return None
            return self._waiting[0]

    def _send(self, event: _Waiting) -> bool:
        """Send one event; False if it should be tried again."""
        left = _TIMEOUT
        if self._deadline is not None:
            left = max(0.1, min(left, self._deadline - time.monotonic()))
        policy = HttpPolicy(seconds=left, max_bytes=1 << 20)
        event.num_tries += 1
        try:
            fetch(self._address, policy=policy, headers=self._headers, body=event.data)
        except HttpError as error:
            status = error.status
            # Retry what may succeed later; other refusals are final.
            if status is None or status >= 500 or status in _RETRIED:
                return self._failed(event, status, str(error))
            self.num_refused += 1
            if self.num_refused == 1:
                _log.warning("%s: refused an event: HTTP %d", self._name, status)
            return True
        self.num_sent += 1
        self._is_down = False
        return True

    def _failed(self, event: _Waiting, status: int | None, reason: str) -> bool:
        """Count a failed try; True if the event is given up."""
        if not self._is_down:
            reason = f"HTTP {status}" if status else reason.removeprefix(self._address)
            _log.warning("%s: %s; trying again, events wait", self._name, hide_secrets(reason))
        self._is_down = True
        is_old = time.monotonic() - event.since > MAX_AGE
        if not is_old and (status is None or event.num_tries < MAX_TRIES):
            return False
        self.num_lost += 1
        _log.warning("%s: an event was given up after %d tries", self._name, event.num_tries)
        return True
