"""What goes on while frames come: zones are kept, events are told, pictures are shown."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from pgvision import Detector
from pgvision.cli.console import Meter, say
from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED
from pgvision.cli.live_options import LiveOptions
from pgvision.cli.outputs import Outcome
from pgvision.cli.webhook import Webhook
from pgvision.errors import OptionError
from pgvision.images import Live, is_live
from pgvision.results import DetectionResult, Failure
from pgvision.tracking.tracks import with_tracks
from pgvision.tracking.zones import Event, Zones

Tell: TypeAlias = Callable[[dict[str, object]], object]
Show: TypeAlias = Callable[[DetectionResult], bool]


@dataclass
class Watch:
    """One run: where its events and pictures go, and what it came to.

    Attributes:
        zones: Who is where.
        tell: Takers of events.
        show: Takers of results; False from one of them ends the run.
        webhook: Where events are posted, for the summary.
        source: What is live; None for a file that is read frame by frame.
        latencies: Seconds from a frame's coming to its result, of the last 10,000 frames.
    """

    zones: Zones
    tell: list[Tell] = field(default_factory=list)
    show: list[Show] = field(default_factory=list)
    webhook: Webhook | None = None
    source: Live | None = None
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    num_frames: int = 0
    num_events: int = 0
    num_reconnects: int = 0

    def take(self, result: DetectionResult, latency: float) -> bool:
        """Take the result of a frame; whether to go on."""
        self.num_frames += 1
        self.latencies.append(latency)
        if self.source is not None and self.source.num_reconnects > self.num_reconnects:
            self.num_reconnects = self.source.num_reconnects
            self._tell({"event": "reconnected", "seconds": result.time})
        for event in self.zones.update(result):
            self._tell_event(event)
        return all(show(result) for show in self.show)

    def end(self) -> None:
        """End all visits."""
        for event in self.zones.end():
            self._tell_event(event)

    def _tell_event(self, event: Event) -> None:
        self.num_events += 1
        self._tell(asdict(event))

    def _tell(self, event: dict[str, object]) -> None:
        """Add when the frame came (of a file: now, when it is looked at)."""
        when, seconds = time.time(), event["seconds"]
        if self.source is not None and isinstance(seconds, float):
            when -= self.source.seconds - seconds
        stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
        for tell in self.tell:
            tell({"time": stamp, **event})

    def report(self) -> None:
        """Say what it came to."""
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
    """Look at frame after frame until the source, the time or the user ends it.

    Args:
        classes: What to look for.
        options: What the user asked for.
        watched: What is kept and told.

    Returns:
        The exit code.

    Raises:
        OptionError: If the source is no video.
    """
    source = _source(options)
    watched.source = source if isinstance(source, Live) else None
    detector = Detector(
        classes,
        **options.for_load,
        conf=options.conf,
        drafts=options.drafts,
        unknown=options.unknown,
    )
    results = detector.stream(source, on_error="record")
    with closing(results), Meter("frames") as meter:  # type: ignore[type-var]
        try:
            code = _take_all(with_tracks(results), options, watched, meter)
        except KeyboardInterrupt:
            code = INTERRUPTED
        watched.end()
    return code


def _source(options: LiveOptions) -> str | Live:
    named: str | int = int(options.source) if options.source.isdecimal() else options.source
    if not is_live(named) and not options.realtime:
        return options.source
    is_file = not is_live(named)
    return Live(
        named,
        patience=0.0 if is_file else options.patience,
        paced=is_file,
        limit=options.seconds,
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
        goes_on = watched.take(outcome, now - last if live is None else live.seconds - outcome.time)
        meter.advance()
        if not goes_on or (options.seconds is not None and now - began > options.seconds):
            break
        last = time.monotonic()
    return DONE
