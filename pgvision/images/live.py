"""The newest frame of what is live: a reader that never falls behind and finds its way back."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from pgvision.errors import OptionError, SourceError
from pgvision.images.capture import without_password
from pgvision.images.frames import Frame, FrameFailure
from pgvision.images.opencv import cv2
from pgvision.images.sources import iter_frames

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
_CLOSE_SECONDS: Final = 10.0

_log = logging.getLogger("pgvision.images")


class Live:
    """Frames of a camera or an address, the newest each time.

    One thread reads as fast as the source sends. What came while you were busy is dropped and
    counted, so that no queue grows and what you see is what is there now. Frames keep their number
    at the source (dropped ones leave gaps, and numbers go on after a reconnection); their time is
    that of their coming, in seconds since the iteration began.

    Args:
        source: A camera number, an address, an open ``cv2.VideoCapture``, or with ``paced`` a file.
        patience: How long a lost source is tried again, in seconds, with waits that double from
            0.5 s to 30 s; None: for ever; 0: its end is the end. What cannot be had in the first
            place is an error at once.
        stride: Take every ``stride``-th frame.
        paced: Let a video file run at its own pace, as a camera would send it.
        limit: End after so many seconds, whatever comes; None: never.

    Attributes:
        num_read: Frames that the source sent.
        num_dropped: Those of them that a newer one replaced before they were taken.
        num_reconnects: How often the source came back.

    Raises:
        OptionError: If ``patience`` is negative, or given with a capture, which knows no address.

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
    ) -> None:
        if patience is not None and not patience >= 0:
            raise OptionError(f"patience: expected seconds >= 0 or None, got {patience}")
        if isinstance(source, cv2.VideoCapture) and patience != 0:
            raise OptionError(
                "patience: a cv2.VideoCapture cannot be opened again; pass the address or number"
            )
        self.source, self._patience, self._stride, self._paced = source, patience, stride, paced
        self._limit = limit
        self._ready = threading.Condition()
        self._frames()  # which refuses at once what it cannot read
        self._begin()

    def _begin(self) -> None:
        self.num_read = self.num_dropped = self.num_reconnects = 0
        self._slot: Frame | None = None
        self._failure: FrameFailure | None = None
        self._error: Exception | None = None
        self._ended = False
        self._began = time.monotonic()
        self._last: Frame | None = None

    @property
    def seconds(self) -> float:
        """Now, on the clock of ``Frame.time``: minus a frame's time, how long ago it came."""
        return time.monotonic() - self._began

    def __iter__(self) -> Iterator[Frame | FrameFailure]:
        """Read until the source ends or you stop; one iteration at a time.

        Yields:
            The newest `Frame`; at the end a `FrameFailure` if the source broke off.
        """
        self._begin()
        stop = threading.Event()
        thread = threading.Thread(
            target=self._read, args=(stop,), name="pgvision-live", daemon=True
        )
        thread.start()
        try:
            while (frame := self._newest()) is not None:
                yield frame
            if self._error is not None:
                raise self._error
            if self._failure is not None:
                yield self._failure
        finally:
            stop.set()
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                _log.warning("%s did not answer and was left", self._name)

    @property
    def _name(self) -> str:
        return without_password(str(self.source)) if self._last is None else self._last.source

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
        try:
            self._connect(stop)
        except Exception as error:  # noqa: BLE001  (kept, not swallowed: the iteration raises it)
            self._error = error
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify()

    def _connect(self, stop: threading.Event) -> None:
        """Read the source, and again whenever it is lost, until patience ends."""
        wait, lost_at = FIRST_WAIT, None
        while True:
            before = self.num_read
            failure = self._take_all(stop, is_back=lost_at is not None)
            if stop.is_set():
                return
            if self.num_read > before:
                wait, lost_at = FIRST_WAIT, None
            if self._patience == 0 or self.num_read == 0:
                self._failure = failure
                return
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                _log.warning("%s: lost after %d frames; trying again", self._name, self.num_read)
            if self._patience is not None and now + wait - lost_at > self._patience:
                error = SourceError(f"{self._name}: lost, not back within {self._patience:g} s")
                self._failure = FrameFailure(self._name, self.num_read, error)
                return
            if stop.wait(wait):
                return
            wait = min(2 * wait, LONGEST_WAIT)

    def _take_all(self, stop: threading.Event, *, is_back: bool) -> FrameFailure | None:
        """Read one connection to its end; return how it failed, if it did."""
        first = 0 if self._last is None else self._last.index + self._stride
        with closing(self._frames()) as frames:  # type: ignore[type-var]
            for frame in frames:
                if isinstance(frame, FrameFailure):
                    return frame
                if frame.time is None:
                    error = SourceError(f"{frame.source}: expected what is live, got a picture")
                    return FrameFailure(frame.source, frame.index, error)
                if self._paced and stop.wait(max(0.0, frame.time - self.seconds)):
                    return None
                if stop.is_set():
                    return None
                if is_back:
                    is_back = False
                    self.num_reconnects += 1
                    _log.warning("%s: back again", self._name)
                self._offer(replace(frame, index=frame.index + first, time=self._time(frame)))
        return None

    def _time(self, frame: Frame) -> float:
        """Seconds at which a frame came, after the one before."""
        came = frame.time if self._paced and frame.time is not None else self.seconds
        last = -1.0 if self._last is None or self._last.time is None else self._last.time
        return max(came, last + 1e-3)

    def _offer(self, frame: Frame) -> None:
        with self._ready:
            self.num_dropped += self._slot is not None
            self.num_read += 1
            self._slot = self._last = frame
            self._ready.notify()
