"""Loop of `pgvision live`: frames in, zones updated, events and images out."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

import numpy as np

from pgvision import Detector
from pgvision.cli.console import Meter, say
from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED
from pgvision.cli.live_options import LiveOptions
from pgvision.cli.webhook import Webhook
from pgvision.errors import ImageError, OptionError
from pgvision.images import Live, image_hw_of, is_live
from pgvision.images.live import LiveEvent
from pgvision.results import DetectionResult, Failure
from pgvision.tracking.tracks import Outcome, with_tracks
from pgvision.tracking.zones import Event, Zones

Tell: TypeAlias = Callable[[dict[str, object]], object]
Show: TypeAlias = Callable[[DetectionResult], bool]
_TICK: Final = 0.25  # seconds between looks at the heartbeat and at visits of a lost source


@dataclass
class Watch:
    """One run: its zones, its outputs and its counts.

    Events come from three threads: tracks from the loop, lost and reconnected from the reader, the
    heartbeat from a timer. Each has an ``id``, so that a receiver recognises one that is posted
    again.

    Attributes:
        zones: The zones and lines.
        tell: Called with each event.
        show: Called with each result; False from one of them ends the run.
        webhook: Where events are posted, for the summary.
        heartbeat: Seconds between heartbeat events; None: none.
        source: The live source; None for a file that is read frame by frame.
        latencies: Seconds from a frame's arrival to its result, of the last 10,000 frames.
    """

    zones: Zones
    tell: list[Tell] = field(default_factory=list)
    show: list[Show] = field(default_factory=list)
    webhook: Webhook | None = None
    heartbeat: float | None = None
    source: Live | None = None
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    num_frames: int = 0
    num_events: int = 0
    is_lost: bool = False

    def __post_init__(self) -> None:
        """Prepare the timer."""
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._began = time.monotonic()
        self._timer = threading.Thread(target=self._tick, name="pgvision-timer", daemon=True)

    def __enter__(self) -> "Watch":
        """Start the timer."""
        self._began = time.monotonic()
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all visits."""
        self._stop.set()
        self._timer.join()
        with self._lock:
            for event in self.zones.end():
                self._tell_event(event)

    def take(self, result: DetectionResult, latency: float) -> bool:
        """Process the result of a frame; return whether to go on."""
        self.num_frames += 1
        self.latencies.append(latency)
        with self._lock:
            for event in self.zones.update(result):
                self._tell_event(event)
        return all(show(result) for show in self.show)

    def on_connection(self, event: LiveEvent) -> None:
        """Report a lost or reconnected source at once."""
        with self._lock:
            self.is_lost = event.kind == "lost"
            more = {"reason": event.reason} if event.reason else {}
            self._tell(
                {"event": event.kind, "seconds": event.seconds, "source": event.source, **more}
            )

    def _tick(self) -> None:
        due = 0.0
        while not self._stop.wait(_TICK if due else 0.0):
            seconds = time.monotonic() - self._began
            with self._lock:
                if self.heartbeat and seconds >= due:
                    due = seconds + self.heartbeat
                    beat = {"frames": self.num_frames, "lost": self.is_lost}
                    self._tell({"event": "heartbeat", "seconds": None, **beat})
                # While no frames come, objects still leave once their grace is over.
                if self.is_lost and self.source is not None:
                    for event in self.zones.expire(self.source.seconds):
                        self._tell_event(event)
            due = due or _TICK

    def _tell_event(self, event: Event) -> None:
        self.num_events += 1
        self._tell(asdict(event))

    def _tell(self, event: dict[str, object]) -> None:
        """Add an id, and when the frame came (of a file: when it was processed)."""
        when, seconds = time.time(), event["seconds"]
        if self.source is not None and isinstance(seconds, float):
            when -= self.source.seconds - seconds
        stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
        whole = {"id": uuid.uuid4().hex, "time": stamp, **event}
        for tell in self.tell:
            tell(whole)

    def report(self) -> None:
        """Print the counts."""
        for line in self._lines():
            say(line, style="bold")

    def _lines(self) -> Iterator[str]:
        line = f"{self.num_frames} frames looked at, {self.num_events} events"
        if self.latencies:
            middle, late = np.percentile(self.latencies, [50, 95]) * 1000
            line += f", latency {middle:.0f} ms (p95 {late:.0f} ms)"
        yield line
        if (live := self.source) is not None:
            came, dropped = live.num_read, live.num_dropped
            yield f"{came} came, {dropped} dropped, {live.num_reconnects} reconnects"
        yield from self.zones.lines()
        if (hook := self.webhook) is not None:
            yield f"posted {hook.num_sent}, refused {hook.num_refused}, lost {hook.num_lost}"


def watch(classes: tuple[str, ...], options: LiveOptions, watched: Watch) -> int:
    """Process frame after frame until the source, the time or the user ends it.

    Args:
        classes: What to look for.
        options: The command line's.
        watched: Zones and outputs.

    Returns:
        The exit code.

    Raises:
        OptionError: If the source is not a video.
    """
    source = _source(options, watched)
    watched.source = source if isinstance(source, Live) else None
    detector = Detector(
        classes,
        **options.for_load,
        conf=options.conf,
        drafts=options.drafts,
        unknown=options.unknown,
    )
    results = detector.stream(source, on_error="record")
    with closing(results), watched, Meter("frames") as meter:  # type: ignore[type-var]
        try:
            return _take_all(with_tracks(results), options, watched, meter)
        except KeyboardInterrupt:
            return INTERRUPTED


def _source(options: LiveOptions, watched: Watch) -> str | Live:
    named: str | int = int(options.source) if options.source.isdecimal() else options.source
    is_file = not is_live(named)
    if is_file:
        _require_video(options)
        if not options.realtime:
            return options.source
    return Live(
        named,
        patience=0.0 if is_file else options.patience,
        paced=is_file,
        limit=options.seconds,
        on_event=None if is_file else watched.on_connection,
    )


def _require_video(options: LiveOptions) -> None:
    """Refuse an image, and options that a file cannot use, before the model is loaded."""
    if options.patience is not None:
        raise OptionError("--patience: a file is never lost; leave it out")
    if Path(options.source).is_file():
        try:
            image_hw_of(options.source)
        except ImageError:
            return
        raise OptionError(
            f"--source {options.source}: expected a video or a camera, got an image; use "
            "pgvision detect"
        )


def _take_all(
    outcomes: Iterable[Outcome], options: LiveOptions, watched: Watch, meter: Meter
) -> int:
    began = last = time.monotonic()
    for outcome in outcomes:
        now = time.monotonic()
        if isinstance(outcome, Failure):
            say(f"failed: {outcome.error}", style="red")
            return FAILED
        if not isinstance(outcome, DetectionResult) or outcome.time is None:
            raise OptionError(f"--source {options.source}: expected a video or a camera")
        live = watched.source
        # Latency: of a live frame since it was received, of a file since the previous frame.
        goes_on = watched.take(outcome, now - last if live is None else live.seconds - outcome.time)
        meter.advance()
        if not goes_on or (options.seconds is not None and now - began > options.seconds):
            break
        last = time.monotonic()
    return DONE
