"""Zones and lines in an image: which tracks are inside, for how long, and which cross."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import shapely
from shapely.geometry import LineString, Polygon
from shapely.validation import explain_validity

from pgvision.arrays import ByteArray, FloatArray
from pgvision.drawing import draw_labels
from pgvision.errors import DataError, OptionError
from pgvision.results import DetectionResult
from pgvision.tracking import Anchor

WHOLE: Final = "frame"
HOLD: Final = 0.5
"""Seconds on the other side of a line, close to it, before a crossing counts."""
_FORGET: Final = 60.0
"""Seconds; a track not seen for longer is deleted. Trackers do not reuse its number."""
_COLOR: Final = (0, 176, 255)  # BGR
Happening = Literal["enter", "leave", "in", "out"]


@dataclass(frozen=True)
class Event:
    """Event of a track: it entered or left a zone, or crossed a line.

    Attributes:
        event: "enter" or "leave" of a zone, "in" or "out" over a line.
        zone: Name of the zone or line.
        track: Number of the track.
        label: Its class.
        score: In [0, 1]; None if unknown.
        seconds: When, in seconds since the start.
        frame: Number of the frame.
        xyxy: Box of the object in pixels: left, top, right, bottom.
        dwell: On leaving: seconds from the first to the last sight inside; else None.
    """

    event: Happening
    zone: str
    track: int
    label: str | None
    score: float | None
    seconds: float
    frame: int
    xyxy: tuple[float, ...]
    dwell: float | None = None


@dataclass
class Count:
    """Counts of a zone or line.

    Attributes:
        now: Tracks inside at present.
        total: Tracks that were ever inside.
        dwell: Seconds that tracks which left were inside, summed.
        longest: Seconds of the longest of these.
        num_in: Crossings of a line from its right to its left, looking along it.
        num_out: Crossings the other way.
    """

    now: int = 0
    total: int = 0
    dwell: float = 0.0
    longest: float = 0.0
    num_in: int = 0
    num_out: int = 0


@dataclass
class _Visit:
    since: float
    last: Event


@dataclass
class _Side:
    """A track's side of one line: 1 right, -1 left; ``counted`` once it was kept."""

    counted: float
    current: float
    since: float
    has_crossed: bool = False  # toggles with each crossing since ``counted``


@dataclass
class _Track:
    """Last position of a track, in pixels of the first frame."""

    point: FloatArray
    seen: float
    zones: set[str] = field(default_factory=set)  # that have counted it
    sides: dict[str, _Side] = field(default_factory=dict)


@dataclass
class _Sight:
    """One object of the current frame."""

    event: Event  # of the object, without a zone
    track: _Track
    point: FloatArray
    half_size: float  # pixels, half of the box's shorter side
    path: LineString  # from the last sight to this one
    seconds_since: float


class Zones:
    """Counts of zones and lines; without any, the whole image is one zone.

    What counts is the path between two sights of a track, so that a zone or line that is passed
    between two frames is counted. A crossing counts when the object is half a box beyond the line,
    or has been on that side for half a second: trembling boxes are not counted. Where the size of
    the image changes, zones and lines keep their place in it.

    Args:
        polygons: ``(n, 2)`` corners of each zone in pixels of the first frame, x and y.
        lines: Start and end of each line in pixels: ``(x1, y1, x2, y2)``.
        anchor: The point of a box that counts: its centre, or the middle of its lower edge.
        grace: Seconds without a sight inside before an object has left, so that a frame in which
            the model misses it counts nothing.

    Raises:
        OptionError: If a zone and a line have one name.
    """

    def __init__(
        self,
        polygons: Mapping[str, FloatArray],
        lines: Mapping[str, tuple[float, float, float, float]],
        *,
        anchor: Anchor = "center",
        grace: float = 1.0,
    ) -> None:
        if both := polygons.keys() & lines.keys():
            raise OptionError(f"a zone and a line are named {min(both)!r}; rename one")
        self._anchor, self._grace = anchor, grace
        names = list(polygons) if polygons or lines else [WHOLE]
        self._shapes: dict[str, Polygon | None] = {
            name: Polygon(polygons[name]) if name in polygons else None for name in names
        }
        self._segments = {
            name: LineString(np.reshape(ends, (2, 2))) for name, ends in lines.items()
        }
        self._visits: dict[str, dict[int, _Visit]] = {name: {} for name in names}
        self._tracks: dict[int, _Track] = {}
        self.counts: dict[str, Count] = {name: Count() for name in (*names, *lines)}
        """Counts of each zone and line so far."""
        self._first_hw: tuple[int, int] | None = None

    def update(self, result: DetectionResult) -> Iterator[Event]:
        """Process the next frame.

        Args:
            result: With track numbers and a time.

        Yields:
            The events.

        Raises:
            OptionError: If a zone or line is outside of the first frame, or the result has no
                track numbers.
        """
        if result.tracker_ids is None:
            raise OptionError("result: expected track numbers; use with_tracks(results)")
        # 1. Zones and lines are in pixels of the first frame.
        if self._first_hw is None:
            self._require_inside(result.image_hw)
            self._first_hw = result.image_hw
        # 2. Objects with a track, and their paths since the last frame.
        tracked, now = result[result.tracker_ids >= 0], result.time or 0.0
        sights = [self._sight(tracked, row, now) for row in range(len(tracked))]
        # 3. Visits of zones that begin or end, and crossings of lines.
        for name, shape in self._shapes.items():
            yield from self._visited(name, shape, sights)
        yield from self.expire(now)
        for name in self._segments:
            yield from self._crossed(name, sights, now)
        # 4. Remember where each track was seen, and forget those that are long gone.
        for sight in sights:
            sight.track.point, sight.track.seen = sight.point, now
        for number in [n for n, track in self._tracks.items() if now - track.seen > _FORGET]:
            del self._tracks[number]

    def expire(self, now: float) -> Iterator[Event]:
        """End the visits after their grace period; also called while no frames arrive."""
        for name, visits in self._visits.items():
            for number, visit in list(visits.items()):
                if now - visit.last.seconds > self._grace:
                    yield self._left(name, number)

    def end(self) -> Iterator[Event]:
        """End all visits: tracks that are inside leave with the last frame that shows them."""
        for name, visits in self._visits.items():
            for number in list(visits):
                yield self._left(name, number)

    def lines(self) -> Iterator[str]:
        """Yield a summary line for each zone and line."""
        for name, count in self.counts.items():
            if name in self._segments:
                yield f"{name}: {count.num_in} in, {count.num_out} out"
            else:
                mean = count.dwell / max(count.total, 1)
                yield (
                    f"{name}: {count.total} tracks, {mean:.1f} s each, "
                    f"longest {count.longest:.1f} s"
                )

    def draw(self, image: ByteArray) -> ByteArray:
        """Draw zones and lines with their counts on ``image``, which is changed."""
        height, width = image.shape[:2]
        # Corners are in pixels of the first frame; the shown one may be scaled.
        first_hw = self._first_hw or (height, width)
        scale = np.array([width / first_hw[1], height / first_hw[0]])
        boxes, texts = [], []
        for name, corners in self._corners().items():
            points, count = np.round(corners * scale).astype(np.int32), self.counts[name]
            is_line = name in self._segments
            number = f"{count.num_in} in, {count.num_out} out" if is_line else f"{count.now}"
            cv2.polylines(image, [points], False, _COLOR, 2, cv2.LINE_AA)
            boxes.append([*points.min(axis=0), *points.max(axis=0)])
            texts.append(f"{name}: {number}")
        ids = np.zeros(len(texts), np.int64)  # the colour of the outlines
        return draw_labels(image, np.array(boxes), texts, color_ids=ids)

    def _sight(self, tracked: DetectionResult, row: int, now: float) -> _Sight:
        """Return the object of a row, in pixels of the first frame."""
        left, top, right, bottom = tracked.xyxy[row].astype(np.float64)
        first_hw = self._first_hw or tracked.image_hw
        scale = np.array(first_hw[::-1]) / np.array(tracked.image_hw[::-1])
        y = (top + bottom) / 2 if self._anchor == "center" else bottom
        point = np.array([(left + right) / 2, y]) * scale
        half_size = float((np.array([right - left, bottom - top]) * scale).min()) / 2
        # The path from the last sight; a new track has one of no length.
        event = _event(tracked, row, now)
        track = self._tracks.setdefault(event.track, _Track(point, now))
        path = LineString([track.point, point])
        return _Sight(event, track, point, half_size, path, now - track.seen)

    def _visited(
        self, name: str, shape: Polygon | None, sights: Sequence[_Sight]
    ) -> Iterator[Event]:
        visits, count = self._visits[name], self.counts[name]
        for sight in sights:
            if not (share := _share_inside(shape, sight)):
                continue
            # 1. Inside since an earlier frame.
            event, is_inside = replace(sight.event, zone=name), share == 1.0
            if (visit := visits.get(event.track)) is not None:
                visit.last = event if is_inside else visit.last
                continue
            # 2. A new visit; each track counts once for a zone.
            visits[event.track] = _Visit(event.seconds, event)
            count.total += name not in sight.track.zones
            sight.track.zones.add(name)
            yield event
            if not is_inside:  # passed through between two frames
                visits[event.track].since -= share * sight.seconds_since
                yield self._left(name, event.track)
        count.now = len(visits)

    def _left(self, name: str, number: int) -> Event:
        visit, count = self._visits[name].pop(number), self.counts[name]
        dwell = visit.last.seconds - visit.since
        count.dwell += dwell
        count.longest = max(count.longest, dwell)
        count.now = len(self._visits[name])
        return replace(visit.last, event="leave", dwell=dwell)

    def _crossed(self, name: str, sights: Sequence[_Sight], now: float) -> Iterator[Event]:
        segment, count = self._segments[name], self.counts[name]
        (x1, y1), (x2, y2) = segment.coords
        for sight in sights:
            # 1. The side, by the sign of the distance from the line through the segment.
            x, y = sight.point
            distance = ((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / segment.length
            side = sight.track.sides.get(name)
            if side is None:
                sight.track.sides[name] = _Side(np.sign(distance), np.sign(distance), now)
                continue
            if np.sign(distance) not in (0.0, side.current):
                side.current, side.since = np.sign(distance), now
                side.counted = side.counted or -side.current  # it began on the line itself
                if sight.path.intersects(segment):
                    side.has_crossed = not side.has_crossed
            # 2. A side that was kept becomes the track's own; it counts if the path crossed.
            is_kept = abs(distance) >= sight.half_size or now - side.since >= HOLD
            if side.current == side.counted:
                side.has_crossed = side.has_crossed and not is_kept
            elif is_kept:
                if side.has_crossed:
                    is_in = side.current < 0
                    count.num_in, count.num_out = count.num_in + is_in, count.num_out + (not is_in)
                    yield replace(sight.event, event="in" if is_in else "out", zone=name)
                side.counted, side.has_crossed = side.current, False

    def _require_inside(self, image_hw: tuple[int, int]) -> None:
        height, width = image_hw
        for name, corners in self._corners().items():
            if (corners < -1).any() or (corners > np.array([width, height]) + 1).any():
                raise OptionError(
                    f"{name}: is outside the {width}x{height} image; draw it on a frame of this "
                    "source"
                )

    def _corners(self) -> dict[str, FloatArray]:
        """Return the outlines of zones and the ends of lines, by name."""
        rings = {name: shape.exterior for name, shape in self._shapes.items() if shape is not None}
        return {name: np.array(one.coords) for name, one in (rings | self._segments).items()}


def _share_inside(shape: Polygon | None, sight: _Sight) -> float:
    """Return 1 for a sight in a zone, else the share of its path there; 0 if it began there."""
    path = sight.path
    if shape is None or shapely.intersects_xy(shape, *sight.point):
        return 1.0
    if not path.length or shapely.intersects_xy(shape, *path.coords[0]):
        return 0.0
    return float(path.intersection(shape).length / path.length)


def _event(tracked: DetectionResult, row: int, now: float) -> Event:
    ids, scores = tracked.tracker_ids, tracked.scores
    return Event(
        "enter",
        "",
        track=-1 if ids is None else int(ids[row]),
        label=tracked.labels[row],
        score=None if scores is None else round(float(scores[row]), 4),
        seconds=now,
        frame=tracked.frame_index,
        xyxy=tuple(round(float(edge), 1) for edge in tracked.xyxy[row]),
    )


def read_zones(files: Sequence[Path]) -> dict[str, FloatArray]:
    """Read polygons from JSON files.

    A file contains zones by name, ``{"gate": [[x, y], ...]}``, with their corners in pixels of the
    source's frames.

    Args:
        files: In the order of their zones.

    Returns:
        ``(n, 2)`` corners by name.

    Raises:
        DataError: If a file does not contain that.
        OptionError: If a polygon crosses itself, has no area, or two zones have one name.
    """
    zones: dict[str, FloatArray] = {}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: expected a JSON file of polygons: {error}") from error
        if not isinstance(content, dict) or not content:
            raise DataError(f'{file}: expected {{"name": [[x, y], ...]}}, corners in pixels')
        for name, points in content.items():
            if name in zones:
                raise OptionError(f"{file}: there are two zones named {name!r}; rename one")
            zones[name] = _polygon(points, f"{file}: zone {name!r}")
    return zones


def read_lines(texts: Sequence[str]) -> dict[str, tuple[float, float, float, float]]:
    """Read lines from ``x1,y1,x2,y2`` or ``NAME=x1,y1,x2,y2``.

    Raises:
        OptionError: If one is not four numbers, has no length, or two have one name.

    Example:
        >>> read_lines(["door=10,20,300,20", "0,5,9,5"])
        {'door': (10.0, 20.0, 300.0, 20.0), 'line 2': (0.0, 5.0, 9.0, 5.0)}
    """
    lines: dict[str, tuple[float, float, float, float]] = {}
    for number, text in enumerate(texts, start=1):
        # The last "=" separates: names may contain it.
        name, _, ends = text.rpartition("=")
        name = name.strip() or f"line {number}"
        try:
            x1, y1, x2, y2 = (float(part) for part in ends.split(","))
        except ValueError as error:
            raise OptionError(
                f"line {text!r}: expected x1,y1,x2,y2 in pixels, or NAME=x1,y1,x2,y2"
            ) from error
        # A line of no length has no sides.
        if (x1, y1) == (x2, y2) or not np.isfinite([x1, y1, x2, y2]).all():
            raise OptionError(f"line {text!r}: expected two different points")
        if name in lines:
            raise OptionError(f"line {text!r}: there are two lines named {name!r}; rename one")
        lines[name] = (x1, y1, x2, y2)
    return lines


def _polygon(points: Any, name: str) -> FloatArray:
    # 1. Finite numbers, at least three pairs.
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    is_list = corners.ndim == 2 and corners.shape[1] == 2 and len(corners) >= 3
    if not is_list or not np.isfinite(corners).all():
        raise DataError(f"{name}: expected at least 3 corners [x, y]")
    # 2. A self-crossing outline has no defined inside.
    shape = Polygon(corners)
    if not shape.is_valid or shape.area < 1:
        raise OptionError(
            f"{name}: expected a simple polygon in pixels, with an area, its corners in the order "
            f"of its outline ({explain_validity(shape)})"
        )
    return corners
