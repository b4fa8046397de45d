"""Latest-frame reader of live sources, with reconnection."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pgvision.errors import OptionError, SourceError
from pgvision.http import hide_secrets
from pgvision.images.pixels import Frame, FrameFailure
from pgvision.images.sources import iter_frames

FIRST_WAIT: Final = 0.5  # seconds before the first attempt to reconnect; doubled each time
LONGEST_WAIT: Final = 30.0  # seconds
STEADY_SECONDS: Final = 30.0  # a connection that lasted this long resets the back-off
_CLOSE_SECONDS: Final = 2.0  # wait for the reader thread, which may hang in a network read

_log = logging.getLogger("pgvision.images")


@dataclass(frozen=True)
class LiveEvent:
    """A connection that was lost, or is back.

    Attributes:
        kind: ``"lost"`` when the source ends or breaks off (once, not for each failed attempt);
            ``"reconnected"`` when its first frame comes again.
        source: Name of the source, without secrets.
        seconds: When, on the clock of ``Frame.time``.
        reason: Why it was lost; empty for ``"reconnected"``.
    """

    kind: Literal["lost", "reconnected"]
    source: str
    seconds: float
    reason: str = ""


class Live:
    """Frames of a camera or an address, the newest each time.

    One thread reads as fast as the source sends, over one connection. Frames that arrive while you
    are busy are dropped and counted, so that no queue grows and a frame is never old. Frames keep
    their number at the source (dropped ones leave gaps; numbers continue after a reconnection);
    their time is that of their arrival, in seconds since the iteration began.

    Args:
        source: A camera number, an address, or with ``paced`` a file.
        patience: How long to try again when the source is lost or cannot be opened, in seconds; 0:
            not at all; None: for ever once it was open, but an address that cannot be opened in
            the first place (a typing error) is a failure at once. The waits double from 0.5 s to
            30 s; only a connection that lasts 30 s resets them, so that a flapping camera is not
            flooded.
        stride: Take every ``stride``-th frame.
        paced: Play a video file at its own pace, as a camera would send it.
        limit: End after so many seconds; None: never.
        on_event: Called with each `LiveEvent` at once, from the reader thread: it must be quick.

    Attributes:
        num_read: Frames that the source sent.
        num_dropped: Those of them that a newer one replaced before they were taken.
        num_reconnects: How often the source came back.

    Raises:
        OptionError: If ``patience`` is negative.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pgvision.images import VideoWriter
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        ...     for _ in range(5):
        ...         writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> live = Live(path, paced=True)
        >>> [frame.index for frame in live][-1], live.num_read
        (4, 5)
    """

    def __init__(
        self,
        source: object,
        *,
        patience: float | None = 0.0,
        stride: int = 1,
        paced: bool = False,
        limit: float | None = None,
        on_event: Callable[[LiveEvent], None] | None = None,
    ) -> None:
        if patience is not None and not patience >= 0:
            raise OptionError(f"patience: expected seconds >= 0 or None, got {patience}")
        self.source, self._patience, self._stride, self._paced = source, patience, stride, paced
        self._limit, self.on_event = limit, on_event
        self._ready = threading.Condition()
        self._frames()  # checks the source and the stride; nothing is opened
        self._begin()

    def _begin(self) -> None:
        self.num_read = self.num_dropped = self.num_reconnects = 0
        self._slot: Frame | None = None
        self._failure: FrameFailure | None = None
        self._error: Exception | None = None
        self._ended = False
        self._began = time.monotonic()
        self._last: Frame | None = None
        self._is_lost = False

    @property
    def seconds(self) -> float:
        """Now, on the clock of ``Frame.time``: ``seconds - frame.time`` is the age of a frame."""
        return time.monotonic() - self._began

    def __iter__(self) -> Iterator[Frame | FrameFailure]:
        """Read until the source ends or you stop; one iteration at a time.

        Yields:
            The newest `Frame`; at the end a `FrameFailure` if the source broke off.
        """
        # 1. Start the reader.
        self._begin()
        stop = threading.Event()
        thread = threading.Thread(
            target=self._read, args=(stop,), name="pgvision-live", daemon=True
        )
        thread.start()
        try:
            # 2. Only the newest frame is kept: the thread overwrites it while the model is busy.
            while (frame := self._newest()) is not None:
                yield frame
            # 3. Report how it ended.
            if self._error is not None:
                raise self._error
            if self._failure is not None:
                yield self._failure
        finally:
            stop.set()
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                _log.warning("%s: no answer within %g s; left open", self._name, _CLOSE_SECONDS)

    @property
    def _name(self) -> str:
        return hide_secrets(str(self.source)) if self._last is None else self._last.source

    def _frames(self) -> Iterator[Frame | FrameFailure]:
        source: Any = self.source
        return iter_frames(source, on_error="record", stride=self._stride, prefetch=0)

    def _newest(self) -> Frame | None:
        """Wait for a frame; None at the end."""
        left = None if self._limit is None else max(0.0, self._limit - self.seconds)
        with self._ready:
            self._ready.wait_for(lambda: self._slot is not None or self._ended, left)
            if left == 0.0:
                return None
            frame, self._slot = self._slot, None
            return frame

    def _read(self, stop: threading.Event) -> None:
        failure, error = None, None
        try:
            failure = self._connect(stop)
        except Exception as caught:  # noqa: BLE001  (the iteration raises it)
            error = caught
        finally:
            with self._ready:
                # A reader that hung when its iteration was closed must not end the next one.
                if not stop.is_set():
                    self._failure, self._error, self._ended = failure, error, True
                    self._ready.notify()

    def _connect(self, stop: threading.Event) -> FrameFailure | None:
        """Read the source, again whenever it is lost, until patience ends; return the failure."""
        wait, lost_at = FIRST_WAIT, 0.0
        while True:
            # 1. Read one connection to its end.
            before, opened = self.num_read, time.monotonic()
            failure, is_final = self._read_connection(stop)
            never_open = self.num_read == 0 and self._patience is None
            if stop.is_set() or is_final or never_open or self._patience == 0:
                return failure
            # 2. Report the loss once; patience counts from here until a frame comes again.
            now = time.monotonic()
            if self.num_read > before or not self._is_lost:
                lost_at = now
                reason = str(failure.error) if failure else f"ended after {self.num_read} frames"
                self._is_lost = True
                self._report("lost", reason)
            # 3. Give up once patience has ended; the last attempt is at its end.
            left = LONGEST_WAIT if self._patience is None else lost_at + self._patience - now
            if left <= 0:
                error = SourceError(f"{self._name}: lost, not back within {self._patience:g} s")
                return FrameFailure(self._name, self.num_read, error)
            # 4. Back off: only a steady connection resets the wait.
            if self.num_read > before and now - opened >= STEADY_SECONDS:
                wait = FIRST_WAIT
            if stop.wait(min(wait, left)):
                return None
            wait = min(2 * wait, LONGEST_WAIT)

    def _read_connection(self, stop: threading.Event) -> tuple[FrameFailure | None, bool]:
        """Read one connection; return its failure, if any, and whether trying again is useless."""
        first = 0 if self._last is None else self._last.index + self._stride
        with closing(self._frames()) as frames:  # type: ignore[type-var]
            for frame in frames:
                # 1. Ends of the connection, and of the reader.
                if isinstance(frame, FrameFailure):
                    return frame, False
                if frame.time is None:
                    error = SourceError(f"{frame.source}: expected a live source, got an image")
                    return FrameFailure(frame.source, frame.index, error), True
                if self._paced and stop.wait(max(0.0, frame.time - self.seconds)):
                    return None, True
                if stop.is_set():
                    return None, True
                # 2. The first frame after a loss.
                if self._is_lost:
                    self._is_lost = False
                    if self._last is not None:
                        self.num_reconnects += 1
                    self._report("reconnected", "")
                # 3. Numbers continue those before the loss.
                self._offer(replace(frame, index=frame.index + first, time=self._time(frame)))
        return None, False

    def _report(self, kind: Literal["lost", "reconnected"], reason: str) -> None:
        _log.warning("%s: %s%s", self._name, kind, f" ({reason}); trying again" if reason else "")
        if self.on_event is not None:
            self.on_event(LiveEvent(kind, self._name, self.seconds, reason))

    def _time(self, frame: Frame) -> float:
        """Return the arrival time of a frame, after the one before."""
        came = frame.time if self._paced and frame.time is not None else self.seconds
        last = -1.0 if self._last is None or self._last.time is None else self._last.time
        return max(came, last + 1e-3)

    def _offer(self, frame: Frame) -> None:
        with self._ready:
            self.num_dropped += self._slot is not None
            self.num_read += 1
            self._slot = self._last = frame
            self._ready.notify()
