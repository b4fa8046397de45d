"""`pgvision live`: tracks, zones, lines and events of a camera or video, and its webhook."""

import json
import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np

from pgvision.cli.console import DONE, FAILED, INTERRUPTED, Meter, end, say
from pgvision.cli.outputs import Outcome, Show, Tell, appended, film, printed_events, window
from pgvision.cli.runs import require_replaceable
from pgvision.cli.tasks import known_phrases
from pgvision.errors import ImageError, OptionError, Range
from pgvision.http import HttpError, HttpPolicy, fetch, hide_secrets, origin_of
from pgvision.images import Live, image_hw_of, is_live
from pgvision.images.live import LiveEvent
from pgvision.results import DetectionResult, Failure
from pgvision.tasks.options import Conf, ModelOptions
from pgvision.tracking import Anchor
from pgvision.tracking.tracks import require_trackers, with_tracks
from pgvision.tracking.zones import Event, Zones, read_lines, read_zones

_TICK: Final = 0.25  # seconds between looks at the heartbeat and at visits of a lost source
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


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """Options of `pgvision live`.

    Attributes:
        source: A camera number or device, an address (rtsp, http, ...) or a video file.
        conf: Keep objects of at least this score. "auto" (default): the thresholds of the
            checkpoint's card, where it has them.
        zone: JSON: {"gate": [[x, y], ...]}, corners in pixels.
        line: Count crossings: 'in' from the right to the left of the line, seen along it.
        anchor: What of a box counts: its centre, or the middle of its lower edge.
        grace: Seconds out of sight before an object has left a zone.
        patience: Seconds that a lost source is tried again; default: for ever.
        seconds: Stop after this time.
        events: Append events as JSON lines: time, track, label, score, zone, dwell.
        post: Post each event as JSON; tried again while the server is down, never waited for.
        post_header: A header of these posts, such as 'Authorization: Bearer ...'; several times.
        heartbeat: Seconds between 'heartbeat' events; the first comes at once; default: none.
        save: Annotated video (.mp4, .mkv, .avi), each frame at its own time.
        show: Open a window; q or Esc ends.
        json_lines: Print events as JSON.
    """

    source: str
    conf: Conf | None = None
    zone: list[Path] | None = None
    line: list[str] | None = None
    anchor: Anchor = "center"
    grace: Annotated[float, Range(0)] = 1.0
    patience: Annotated[float, Range(0)] | None = None
    seconds: Annotated[float, Range(0)] | None = None
    events: Path | None = None
    post: str | None = None
    post_header: list[str] | None = None
    heartbeat: Annotated[float, Range(1)] | None = None
    save: Path | None = None
    show: bool = False
    json_lines: bool = False


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
    webhook: "Webhook | None" = None
    heartbeat: float | None = None
    source: Live | None = None
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    num_frames: int = 0
    num_events: int = 0
    is_lost: bool = False

    def __post_init__(self) -> None:
        """Prepare the timer."""
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._error: Exception | None = None  # of the timer
        self._began = time.monotonic()
        self._timer = threading.Thread(target=self._tick, name="pgvision-timer", daemon=True)

    def __enter__(self) -> "Watch":
        """Start the timer."""
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all visits."""
        self._stop.set()
        self._timer.join()
        self._raise_error()
        with self._lock:
            for event in self.zones.end():
                self._tell_event(event)

    def take(self, result: DetectionResult, latency: float) -> bool:
        """Process the result of a frame; return whether to go on."""
        self._raise_error()
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

    def _raise_error(self) -> None:
        """Raise the error that ended the timer, once: without a timer there are no heartbeats."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _tick(self) -> None:
        try:
            self._tick_until_stopped()
        except Exception as error:  # noqa: BLE001  (the loop raises it: a full disk)
            self._error = error

    def _tick_until_stopped(self) -> None:
        due = 0.0
        while not self._stop.wait(_TICK if due else 0.0):
            seconds = time.monotonic() - self._began
            with self._lock:
                # 1. The heartbeat, from the start on.
                if self.heartbeat and seconds >= due:
                    due = seconds + self.heartbeat
                    beat = {"frames": self.num_frames, "lost": self.is_lost}
                    self._tell({"event": "heartbeat", "seconds": None, **beat})
                # 2. While no frames come, objects still leave once their grace is over.
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


def live(phrase: str, *, options: LiveOptions, model: ModelOptions) -> None:
    """Watch a camera: the newest frame each time, with tracks, zones, lines and events.

    Without --zone and --line the whole picture is one zone. Ends with Ctrl-C (SIGTERM), with the
    source (a file), or after --seconds.

    Examples:
    pgvision live helmet --source 0 --show
    pgvision live helmet --source rtsp://10.0.0.7/live --zone gate.json --events events.jsonl
    pgvision live "helmet; head" --source site.mp4 --line door=100,200,500,200 --save out.mp4
    pgvision live head --source http://cam/live --zone site.json --post http://localhost:8000/alarm
    """
    # 1. Check zones, lines and names before the model is loaded.
    require_trackers()
    zones = Zones(
        read_zones(options.zone or ()),
        read_lines(options.line or ()),
        anchor=options.anchor,
        grace=options.grace,
    )
    classes = known_phrases(phrase, model)
    # 2. Open the outputs, and watch.
    with ExitStack() as stack:
        watched = Watch(zones, heartbeat=options.heartbeat)
        _open_outputs(watched, options, stack)
        code = _watch(classes, options, model, watched)
    watched.report()
    end(code)


def _open_outputs(watched: Watch, options: LiveOptions, stack: ExitStack) -> None:
    """Open all outputs, before the model is loaded."""
    if options.post_header and options.post is None:
        raise OptionError("--post-header: needs --post")
    # 1. Events: stdout, log, webhook.
    watched.tell.append(printed_events(as_json=options.json_lines))
    if options.events is not None:
        require_replaceable(options.events, "--events", *(options.zone or ()))
        watched.tell.append(stack.enter_context(appended(options.events)))
    if options.post is not None:
        watched.webhook = stack.enter_context(Webhook(options.post, options.post_header or ()))
        watched.tell.append(watched.webhook.post)
    # 2. Frames: video file, window.
    if options.save is not None:
        if Path(options.source).resolve() == options.save.resolve():
            raise OptionError(f"--save {options.save}: is the source; name another file")
        watched.show.append(stack.enter_context(film(options.save, watched.zones.draw)))
    if options.show:
        watched.show.append(stack.enter_context(window(watched.zones.draw)))


def _watch(
    classes: tuple[str, ...], options: LiveOptions, model: ModelOptions, watched: Watch
) -> int:
    """Process frame after frame until the source, the time or the user ends it."""
    from pgvision import Detector

    source = _source(options, watched)
    watched.source = source if isinstance(source, Live) else None
    detector = Detector(classes, **model, conf=options.conf)
    results: Any = detector.stream(source, on_error="record")
    with closing(results), watched, Meter("frames") as meter:
        try:
            return _take_all(with_tracks(results), options, watched, meter)
        except KeyboardInterrupt:
            return INTERRUPTED


def _source(options: LiveOptions, watched: Watch) -> str | Live:
    """Return a file, or a live source; refuse images and options that a file cannot use."""
    # 1. Cameras and addresses.
    named: str | int = int(options.source) if options.source.isdecimal() else options.source
    if is_live(named):
        return Live(
            named, patience=options.patience, limit=options.seconds, on_event=watched.on_connection
        )
    # 2. Files: refuse what only a camera has, and images.
    if options.patience is not None:
        raise OptionError("--patience: a file is never lost; leave it out")
    with suppress(ImageError):
        if Path(options.source).is_file() and image_hw_of(options.source):
            raise OptionError(
                f"--source {options.source}: expected a video or a camera, got an image; use "
                "pgvision detect"
            )
    return options.source


def _take_all(
    outcomes: Iterable[Outcome], options: LiveOptions, watched: Watch, meter: Meter
) -> int:
    began = last = time.monotonic()
    for outcome in outcomes:
        # 1. A failure ends the watch: the source is lost, or patience with it has ended.
        now = time.monotonic()
        if isinstance(outcome, Failure):
            say(f"failed: {outcome.error}", style="red")
            return FAILED
        if not isinstance(outcome, DetectionResult) or outcome.time is None:
            raise OptionError(f"--source {options.source}: expected a video or a camera")
        source = watched.source
        # 2. Latency: of a live frame since it was received, of a file since the previous frame.
        latency = now - last if source is None else source.seconds - outcome.time
        # 3. Events and outputs; a closed window ends the watch.
        goes_on = watched.take(outcome, latency)
        meter.advance()
        if not goes_on or (options.seconds is not None and now - began > options.seconds):
            break
        last = time.monotonic()
    return DONE


# --- webhook ------------------------------------------------------------------------------------


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
