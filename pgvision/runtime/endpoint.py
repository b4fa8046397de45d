"""JSON over HTTP, with patience for a server that is busy."""

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from pgvision.errors import CheckpointError
from pgvision.http import HttpError, HttpPolicy, fetch

KEY_NAME: Final = "PGVISION_ENGINE_KEY"
_TRIES: Final = 4
_MOST_BYTES: Final = 1 << 26
_BUSY: Final = frozenset({429, 502, 503, 504})


class RefusedError(CheckpointError):
    """What a server said instead of an answer.

    Args:
        message: Address, status and the text of the reply.
        code: The status.
        wait: Seconds after which it wants to be asked again.
    """

    def __init__(self, message: str, code: int, wait: float) -> None:
        hint = f"; set {KEY_NAME}" if code in (401, 403) else ""
        super().__init__(f"{message}{hint}")
        self.code, self.wait = code, wait


class Endpoint:
    """A server's base address.

    Args:
        base: Such as ``http://localhost:8000/v1``.
        key: Sent as a bearer token; None: none.
        timeout: Seconds for one answer.
    """

    def __init__(self, base: str, key: str | None, timeout: float) -> None:
        self.base, self._key, self._timeout = base, key, timeout

    def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """Ask the server, again while it is busy.

        Args:
            path: After the base.
            body: What to post; None: get.

        Returns:
            The answer's JSON.

        Raises:
            RefusedError: If it refuses.
            CheckpointError: If it cannot be reached.
        """
        wait_s = 0.5
        for left in reversed(range(_TRIES)):
            try:
                return self._ask_once(path, body)
            except RefusedError as error:
                if error.code not in _BUSY or not left:
                    raise
                wait_s = max(wait_s, min(error.wait, 30.0))
            except (HttpError, ValueError, RecursionError) as error:
                if not left or body is None:
                    raise CheckpointError(
                        f"{self.base}{path}: no answer ({error}); is the server running there?"
                    ) from error
            time.sleep(wait_s)
            wait_s *= 2
        raise CheckpointError(f"{self.base}{path}: no answer")

    def _ask_once(self, path: str, body: Mapping[str, Any] | None) -> Any:
        head = {"Content-Type": "application/json", "User-Agent": "pgvision"}
        if self._key:
            head["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        policy = HttpPolicy(seconds=self._timeout, max_bytes=_MOST_BYTES)
        try:
            reply = fetch(f"{self.base}{path}", policy=policy, headers=head, body=data)
        except HttpError as error:
            if error.status is None:
                raise
            raise RefusedError(str(error), error.status, error.retry_after) from error
        return json.loads(reply)
