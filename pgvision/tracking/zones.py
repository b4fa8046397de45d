"""Zones and lines in a picture: who is inside, for how long, and who crosses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from shapely.geometry import Polygon
from shapely.validation import explain_validity

from pgvision.arrays import ByteArray, FloatArray
from pgvision.errors import DataError, OptionError
from pgvision.results import DetectionResult
from pgvision.tracking import Anchor

if TYPE_CHECKING:
    import supervision as sv

WHOLE: Final = "frame"
Happening = Literal["enter", "leave", "in", "out"]


@dataclass(frozen=True)
class Event:
    """Something that a track did.

    Attributes:
        event: "enter" or "leave" of a zone, "in" or "out" over a line.
        zone: Name of the zone or line.
        track: Number of the track.
        label: What it is.
        score: How sure; None if unknown.
        seconds: When, in seconds since the start.
        frame: Number of the frame.
        xyxy: Where the object was, in pixels: left, top, right, bottom.
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
    """What a zone or line has counted.

    Attributes:
        now: Tracks inside at present.
        total: Tracks that were ever inside.
        dwell: Seconds that those which left were inside, together.
        longest: Seconds of the longest of these.
        num_in: Crossings of a line from its right to its left, as seen along it.
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
class _Zone:
    name: str
    shape: "sv.PolygonZone | None" = None  # None: all of the picture
    count: Count = field(default_factory=Count)
    visits: dict[int, _Visit] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)

    def holds(self, detections: "sv.Detections") -> "list[bool]":
        if self.shape is None:
            return [True] * len(detections)
        return [bool(value) for value in self.shape.trigger(detections)]


class Zones:
    """Who is in which zone; without zones and lines, the whole picture is one.

    Args:
        polygons: ``(n, 2)`` corners of each zone in pixels, x and y.
        lines: Start and end of each line in pixels: ``(x1, y1, x2, y2)``.
        anchor: The point of a box that counts: its centre, or the middle of its lower edge.
        grace: Seconds without a sight inside before an object has left, so that a frame in which
            the model misses it counts nothing.
    """

    def __init__(
        self,
        polygons: Mapping[str, FloatArray],
        lines: Mapping[str, tuple[float, float, float, float]],
        *,
        anchor: Anchor = "center",
        grace: float = 1.0,
    ) -> None:
        import supervision as sv

        at = [sv.Position.CENTER if anchor == "center" else sv.Position.BOTTOM_CENTER]
        self._polygons, self._line_ends, self._grace = polygons, lines, grace
        self._at = at
        self._zones = [_Zone(name) for name in polygons]
        if not polygons and not lines:
            self._zones = [_Zone(WHOLE)]
        self._lines = {
            name: sv.LineZone(sv.Point(x1, y1), sv.Point(x2, y2), at)
            for name, (x1, y1, x2, y2) in lines.items()
        }
        self._crossed = {name: Count() for name in lines}
        self._image_hw: tuple[int, int] | None = None

    @property
    def counts(self) -> dict[str, Count]:
        """What each zone and line has counted so far."""
        return {zone.name: zone.count for zone in self._zones} | self._crossed

    def update(self, result: DetectionResult) -> Iterator[Event]:
        """Take the next frame.

        Args:
            result: With track numbers and a time.

        Yields:
            What happened.

        Raises:
            OptionError: If a zone or line does not lie in the picture.
        """
        if result.image_hw != self._image_hw:
            self._require_inside(result.image_hw)
            self._image_hw = result.image_hw
            self._paint()
        ids = result.tracker_ids
        tracked = result if ids is None else result[ids >= 0]
        detections = tracked.to_supervision()
        now = 0.0 if result.time is None else result.time
        for zone in self._zones:
            yield from self._visited(zone, tracked, zone.holds(detections), now)
        for name, line in self._lines.items():
            went_in, went_out = line.trigger(detections)
            count = self._crossed[name]
            count.num_in, count.num_out = line.in_count, line.out_count
            for row in range(len(tracked)):
                if went_in[row] or went_out[row]:
                    yield _event("in" if went_in[row] else "out", name, tracked, row)

    def end(self) -> Iterator[Event]:
        """End all visits: those inside at the end leave with the last frame that showed them."""
        for zone in self._zones:
            for track in list(zone.visits):
                yield self._left(zone, track)

    def lines(self) -> Iterator[str]:
        """Say what each zone and line has counted."""
        for name, count in self.counts.items():
            if name in self._lines:
                yield f"{name}: {count.num_in} in, {count.num_out} out"
            else:
                mean = count.dwell / max(count.total, 1)
                yield (
                    f"{name}: {count.total} tracks, {mean:.1f} s each, "
                    f"longest {count.longest:.1f} s"
                )

    def draw(self, picture: ByteArray) -> ByteArray:
        """Draw zones and lines with their counts on ``picture``, which is changed."""
        import supervision as sv

        for zone in self._zones:
            if zone.shape is not None:
                label = f"{zone.name}: {zone.count.now}"
                picture = sv.PolygonZoneAnnotator(zone.shape).annotate(picture, label)
        for line in self._lines.values():
            picture = sv.LineZoneAnnotator().annotate(picture, line)
        return picture

    def _visited(
        self, zone: _Zone, tracked: DetectionResult, inside: Sequence[bool], now: float
    ) -> Iterator[Event]:
        for row, is_in in enumerate(inside):
            if not is_in:
                continue
            event = _event("enter", zone.name, tracked, row)
            visit = zone.visits.get(event.track)
            if visit is not None:
                visit.last = event
                continue
            zone.visits[event.track] = _Visit(event.seconds, event)
            zone.known.add(event.track)
            zone.count.total = len(zone.known)
            yield event
        for track, visit in list(zone.visits.items()):
            if now - visit.last.seconds > self._grace:
                yield self._left(zone, track)
        zone.count.now = len(zone.visits)

    def _left(self, zone: _Zone, track: int) -> Event:
        visit = zone.visits.pop(track)
        dwell = visit.last.seconds - visit.since
        zone.count.dwell += dwell
        zone.count.longest = max(zone.count.longest, dwell)
        zone.count.now = len(zone.visits)
        return Event(**{**vars(visit.last), "event": "leave", "dwell": dwell})

    def _paint(self) -> None:
        """Make supervision's zones, which paint each polygon: only of what fits a picture."""
        import supervision as sv

        for zone in self._zones:
            if zone.name in self._polygons:
                corners = np.round(self._polygons[zone.name]).astype(np.int64)
                zone.shape = sv.PolygonZone(corners, self._at)

    def _require_inside(self, image_hw: tuple[int, int]) -> None:
        height, width = image_hw
        ends = {name: np.array(line).reshape(2, 2) for name, line in self._line_ends.items()}
        for name, corners in (dict(self._polygons) | ends).items():
            outside = (corners < -1) | (corners > np.array([width, height]) + 1)
            if outside.any():
                x, y = corners[outside.any(axis=1)][0]
                raise OptionError(
                    f"{name}: ({x:g}, {y:g}) lies outside of the {width}x{height} picture; draw "
                    "it on a frame of this source"
                )


def _event(event: Happening, zone: str, tracked: DetectionResult, row: int) -> Event:
    ids, scores = tracked.tracker_ids, tracked.scores
    return Event(
        event,
        zone,
        track=-1 if ids is None else int(ids[row]),
        label=tracked.labels[row],
        score=None if scores is None else round(float(scores[row]), 4),
        seconds=0.0 if tracked.time is None else tracked.time,
        frame=tracked.frame_index,
        xyxy=tuple(round(float(edge), 1) for edge in tracked.xyxy[row]),
    )


def read_zones(files: Sequence[Path]) -> dict[str, FloatArray]:
    """Read polygons from JSON files.

    A file holds the corners of one zone (``[[x, y], ...]``, named like the file), several by name
    (``{"gate": [[x, y], ...]}``), or is one of LabelMe's, whose polygons keep their labels. Corners
    are in pixels of the source's frames.

    Args:
        files: In the order of their zones.

    Returns:
        ``(n, 2)`` corners by name.

    Raises:
        DataError: If a file cannot be read as one of these.
        OptionError: If a polygon crosses itself, has no area, or two zones have one name.
    """
    zones: dict[str, FloatArray] = {}
    for file in files:
        for name, points in _named(file):
            if name in zones:
                raise OptionError(f"{file}: there are two zones named {name!r}; rename one")
            zones[name] = _polygon(points, f"{file}: zone {name!r}")
    return zones


def read_lines(texts: Sequence[str]) -> dict[str, tuple[float, float, float, float]]:
    """Read lines from ``x1,y1,x2,y2`` or ``NAME=x1,y1,x2,y2``.

    Raises:
        OptionError: If one is no four numbers, has no length, or two have one name.

    Example:
        >>> read_lines(["door=10,20,300,20", "0,5,9,5"])
        {'door': (10.0, 20.0, 300.0, 20.0), 'line 2': (0.0, 5.0, 9.0, 5.0)}
    """
    lines: dict[str, tuple[float, float, float, float]] = {}
    for number, text in enumerate(texts, start=1):
        name, _, ends = text.rpartition("=")
        name = name.strip() or f"line {number}"
        try:
            x1, y1, x2, y2 = (float(part) for part in ends.split(","))
        except ValueError as error:
            raise OptionError(
                f"line {text!r}: expected x1,y1,x2,y2 in pixels, or NAME=x1,y1,x2,y2"
            ) from error
        if (x1, y1) == (x2, y2) or not np.isfinite([x1, y1, x2, y2]).all():
            raise OptionError(f"line {text!r}: expected two different points")
        if name in lines:
            raise OptionError(f"line {text!r}: there are two lines named {name!r}; rename one")
        lines[name] = (x1, y1, x2, y2)
    return lines


def _named(file: Path) -> list[tuple[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a JSON file of polygons: {error}") from error
    if isinstance(content, list):
        return [(file.stem, content)]
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        shapes = [one for one in content["shapes"] if isinstance(one, dict)]
        found = [
            (str(one.get("label")), one.get("points"))
            for one in shapes
            if one.get("shape_type", "polygon") == "polygon"
        ]
    else:
        found = list(content.items()) if isinstance(content, dict) else []
    if not found:
        raise DataError(
            f'{file}: expected [[x, y], ...], {{"name": [[x, y], ...]}} or polygons of LabelMe'
        )
    return found


def _polygon(points: Any, name: str) -> FloatArray:
    try:
        corners = np.array(points, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise DataError(f"{name}: expected at least 3 corners [x, y]")
    if not np.isfinite(corners).all():
        raise DataError(f"{name}: expected finite numbers")
    shape = Polygon(corners)
    if not shape.is_valid:
        raise OptionError(
            f"{name}: no plain polygon ({explain_validity(shape)}); list its corners in the order "
            "in which its outline meets them"
        )
    if shape.area < 1:
        raise OptionError(f"{name}: it has no area (corners in pixels, not in shares of the frame)")
    return corners
