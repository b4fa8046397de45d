"""Zones and lines on tracks whose way is known: counts and dwell against the way itself."""

import json
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pgvision.drawing import draw_labels
from pgvision.errors import DataError, OptionError
from pgvision.results import DetectionResult
from pgvision.tracking.zones import _COLOR, Zones, read_lines, read_zones

HW = (480, 640)
GATE = np.array([[200, 100], [400, 100], [400, 300], [200, 300]], np.float64)


def frame(number, places, *, fps=10.0, image_hw=HW):
    """A frame in which each track (number, x, y of its centre) has a box of 20 x 20."""
    boxes = [[x - 10, y - 10, x + 10, y + 10] for _, x, y in places]
    return DetectionResult(
        image_hw=image_hw,
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.75, np.float32),
        labels=["helmet"] * len(boxes),
        class_ids=[0] * len(boxes),
        classes=["helmet"],
        tracker_ids=[track for track, _, _ in places],
        frame_index=number,
        time=number / fps,
        source="camera:0",
    )


def happenings(zones, frames):
    events = [event for one in frames for event in zones.update(one)]
    return events + list(zones.end())


@pytest.mark.parametrize(("left", "is_refused"), [(-1.0, False), (-1.5, True)])
def test_a_corner_may_be_a_pixel_outside(left, is_refused):
    zones = Zones({"gate": np.array([[left, 0], [99, 0], [99, 99.0]])}, {})
    if is_refused:
        with pytest.raises(OptionError, match="outside the 640x480 image"):
            list(zones.update(frame(0, [])))
    else:
        assert list(zones.update(frame(0, []))) == []


def test_by_default_a_second_without_a_sight_ends_a_visit():
    zones = Zones({"gate": GATE}, {})
    frames = [frame(0, [(7, 300, 200)]), frame(9, []), frame(12, [])]
    assert [[event.event for event in zones.update(one)] for one in frames] == [
        ["enter"], [], ["leave"]
    ]  # fmt: skip


def test_events_have_four_decimals_of_a_score():
    seen = replace(frame(0, [(7, 300, 200)]), scores=np.array([0.123456], np.float32))
    assert [event.score for event in happenings(Zones({}, {}), [seen])] == [0.1235] * 2


def test_who_walks_through_a_zone_is_counted_with_the_time_inside():
    """10 px a frame, 10 frames a second, from x = 50: inside from 200 to 400, so 2 s."""
    zones = Zones({"gate": GATE}, {}, grace=0.5)
    events = happenings(zones, [frame(n, [(7, 50 + 10 * n, 200)]) for n in range(55)])
    assert [(e.event, e.zone, e.track, e.label) for e in events] == [
        ("enter", "gate", 7, "helmet"),
        ("leave", "gate", 7, "helmet"),
    ]
    assert events[0].seconds == pytest.approx(1.5)
    assert events[1].dwell == pytest.approx(2.0)
    assert events[1].seconds == pytest.approx(3.5)
    count = zones.counts["gate"]
    assert (count.now, count.total) == (0, 1)
    assert count.longest == pytest.approx(2.0)


def test_a_frame_that_misses_somebody_is_no_leaving_and_coming_back_is_a_second_visit():
    def there(n):
        return [] if n in (5, 6) or 20 <= n < 40 else [(1, 300, 200)]

    zones = Zones({"gate": GATE}, {}, grace=0.5)
    events = happenings(zones, [frame(n, there(n)) for n in range(50)])
    assert [e.event for e in events] == ["enter", "leave", "enter", "leave"]
    assert [e.dwell for e in events] == [None, pytest.approx(1.9), None, pytest.approx(0.9)]
    assert zones.counts["gate"].total == 1


def test_objects_without_a_track_count_nothing():
    zones = Zones({"gate": GATE}, {"door": (300.0, 0.0, 300.0, 480.0)})
    assert happenings(zones, [frame(n, [(-1, 250 + 10 * n, 200)]) for n in range(12)]) == []
    untracked = replace(frame(0, [(3, 300, 200)]), tracker_ids=None)
    with pytest.raises(OptionError, match="with_tracks"):
        list(Zones({}, {}).update(untracked))


def test_without_zones_the_picture_is_one():
    events = happenings(Zones({}, {}), [frame(n, [(4, 10, 10)]) for n in range(3)])
    assert [(e.event, e.zone) for e in events] == [("enter", "frame"), ("leave", "frame")]


@pytest.mark.parametrize(("step", "event"), [(-20, "in"), (20, "out")])
def test_a_line_tells_one_way_from_the_other(step, event):
    """Along the line from left to right, its right-hand side is below: 'in' goes up."""
    zones = Zones({}, {"door": (100.0, 240.0, 500.0, 240.0)})
    path = [frame(n, [(2, 300, 240 - 5 * step + step * n)]) for n in range(11)]
    events = happenings(zones, path)
    assert [(e.event, e.zone, e.track) for e in events] == [(event, "door", 2)]
    count = zones.counts["door"]
    assert (count.num_in, count.num_out) == ((1, 0) if event == "in" else (0, 1))


def test_the_lower_edge_counts_where_it_is_asked_for():
    above = [frame(0, [(1, 300, 95)])]  # its centre is 5 px above the gate, its lower edge 5 below
    assert happenings(Zones({"gate": GATE}, {}), above) == []
    assert len(happenings(Zones({"gate": GATE}, {}, anchor="bottom"), above)) == 2


def test_counts_agree_with_shapely_on_random_walks():
    from shapely.geometry import Point, Polygon

    rng = np.random.default_rng(5)
    star = np.array([[320, 60], [380, 200], [560, 240], [380, 280], [320, 420], [80, 240]], float)
    places = rng.uniform(20, [620, 460], (12, 2))
    zones, shape, expected = Zones({"star": star}, {}, grace=0.0), Polygon(star), set()
    for n in range(40):
        places = np.clip(places + rng.normal(0, 25, places.shape), 12, [628, 468]).round()
        # A point on the outline may be counted either way.
        near = [shape.exterior.distance(Point(p)) < 2 for p in places]
        tracks = [(i, *p) for i, (p, skip) in enumerate(zip(places, near, strict=True)) if not skip]
        list(zones.update(frame(n, tracks)))
        inside = {i for i, x, y in tracks if shape.contains(Point(x, y))}
        assert zones.counts["star"].now == len(inside)
        expected |= inside
    assert zones.counts["star"].total == len(expected) > 3


def write(folder, content, name="gate.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_zone_files_contain_corners_by_name(tmp_path):
    corners = GATE.tolist()
    first = write(tmp_path, {"north": corners, "south": corners}, "named.json")
    zones = read_zones([first, write(tmp_path, {"door": corners}, "door.json")])
    assert list(zones) == ["north", "south", "door"]
    assert all((corners == GATE).all() for corners in zones.values())
    with pytest.raises(OptionError, match="two zones named 'north'"):
        read_zones([first, first])


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ({"gate": [[0, 0], [9, 9], [9, 0], [0, 9]]}, OptionError, "Self-intersection"),
        ({"gate": [[0, 0], [5, 5], [9, 9]]}, OptionError, "simple polygon"),
        ({"gate": [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]}, OptionError, "in pixels, with an area"),
        ({"gate": [[0, 0], [5, 5]]}, DataError, "at least 3 corners"),
        ({"gate": [[0, 0, 1], [5, 5, 1], [9, 0, 1]]}, DataError, "at least 3 corners"),
        ({"gate": "everywhere"}, DataError, "at least 3 corners"),
        ({"gate": [[0, 0], [1, None], [9, 0]]}, DataError, "corners"),
        (GATE.tolist(), DataError, "expected"),
        ({}, DataError, "expected"),
        (7, DataError, "expected"),
    ],
)
def test_polygons_that_are_none_are_refused(tmp_path, content, error, says):
    with pytest.raises(error, match=says):
        read_zones([write(tmp_path, content)])


def test_files_that_are_none_are_refused(tmp_path):
    broken = tmp_path / "gate.json"
    broken.write_bytes(b"\xff{")
    for path in (broken, tmp_path / "missing.json", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_zones([path])


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,1,2", "1,2,3,nan"])
def test_lines_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="line"):
        read_lines([text])


def test_two_lines_of_one_name_are_refused():
    with pytest.raises(OptionError, match="two lines named 'a'"):
        read_lines(["a=1,2,3,4", "a=1,2,3,5"])


@pytest.mark.parametrize("kind", ["zone", "line"])
def test_what_was_drawn_on_another_size_is_refused(kind):
    zones = Zones({"gate": GATE}, {}) if kind == "zone" else Zones({}, {"gate": (0, 0, 400, 300)})
    with pytest.raises(OptionError, match="gate: .*outside the 320x240 image"):
        list(zones.update(frame(0, [], image_hw=(240, 320))))


def test_a_corner_left_of_the_image_is_refused():
    zones = Zones({"gate": GATE - [250, 0]}, {})
    with pytest.raises(OptionError, match="gate: .*outside the 640x480 image"):
        list(zones.update(frame(0, [])))


def test_a_huge_polygon_costs_no_memory_before_it_is_refused(tmp_path):
    path = write(tmp_path, {"far": [[0, 0], [10**9, 0], [10**9, 10**9]]})
    started = time.process_time()
    with pytest.raises(OptionError, match="outside|too far"):
        list(Zones(read_zones([path]), {}).update(frame(0, [])))
    assert time.process_time() - started < 1.0


def test_a_zone_and_a_line_of_one_name_are_refused():
    """They shared their counts, and the zone was neither drawn nor in the summary."""
    with pytest.raises(OptionError, match="named 'gate'; rename one"):
        Zones({"gate": GATE}, {"gate": (0.0, 0.0, 9.0, 9.0)})


def test_names_of_zones_are_drawn_in_any_script():
    """OpenCV's font has ASCII only: of both names it drew T??r."""
    one, other = (
        Zones({name: GATE}, {}).draw(np.zeros((*HW, 3), np.uint8)) for name in ("Tür", "Tör")
    )
    assert (one != other).any()


def test_zones_are_drawn_on_the_picture():
    zones = Zones({"gate": GATE}, {"door": (100.0, 400.0, 500.0, 400.0)})
    list(zones.update(frame(0, [(1, 300, 200)])))
    drawn = zones.draw(np.zeros((*HW, 3), np.uint8))
    assert drawn[100, 200:400].any(axis=1).mean() > 0.9
    assert drawn[400, 110:490].any(axis=1).mean() > 0.5
    # On a smaller picture, with the counts in labels at the outlines.
    expected = np.zeros((240, 320, 3), np.uint8)
    gate, door = (GATE / 2).astype(np.int32), np.array([[50, 200], [250, 200]], np.int32)
    for corners in (np.concatenate([gate, gate[:1]]), door):
        cv2.polylines(expected, [corners], False, _COLOR, 2, cv2.LINE_AA)
    boxes = np.array([[100, 50, 200, 150], [50, 200, 250, 200]])
    draw_labels(expected, boxes, ["gate: 1", "door: 0 in, 0 out"], color_ids=np.zeros(2, int))
    assert (zones.draw(np.zeros((240, 320, 3), np.uint8)) == expected).all()


def places(zones, points, *, image_hw=(100, 200), start=0, fps=10.0):
    """One tracked object with a box of 10 x 10 at each of ``points`` in turn; its events."""
    events = []
    for number, (x, y) in enumerate(points, start):
        one = frame(number, [(1, x, y)], fps=fps, image_hw=image_hw)
        one = replace(one, xyxy=np.array([[x - 5, y - 5, x + 5, y + 5]], np.float32))
        events += [event.event for event in zones.update(one)]
    return events


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("kind", ["zone", "line"])
def test_zones_and_lines_follow_a_change_of_the_image_size(kind, scale):
    """case: a stream that came back in another size ended the run, or was watched elsewhere."""
    gate = np.array([[100, 10], [190, 10], [190, 90], [100, 90]], float)
    line = (100.0, 0.0, 100.0, 100.0)
    zones = Zones({"gate": gate}, {}) if kind == "zone" else Zones({}, {"door": line})
    events = places(zones, [(150, 50)] * 3)
    hw = (int(100 * scale), int(200 * scale))
    events += places(zones, [(150 * scale, 50 * scale)] * 20, image_hw=hw, start=3)
    assert events == (["enter"] if kind == "zone" else [])
    assert zones.draw(np.zeros((*hw, 3), np.uint8)).any()


def test_a_zone_that_is_passed_between_two_frames_counts_once():
    """case: a narrow gate under-counted as frames were dropped."""
    gate = np.array([[95, 0], [105, 0], [105, 100], [95, 100]], float)
    zones = Zones({"gate": gate}, {})
    assert places(zones, [(40, 50), (70, 50), (130, 50), (160, 50)]) == ["enter", "leave"]
    count = zones.counts["gate"]
    assert (count.total, count.now) == (1, 0)
    assert count.longest == pytest.approx(0.1 * 10 / 60)  # 10 of the 60 pixels of one step
    # Past the gate, not through it.
    beside = Zones({"gate": gate[[0, 1, 2, 3]] * [1, 0.3]}, {})
    assert places(beside, [(70, 50), (130, 50)]) == []


def test_a_line_counts_where_the_path_meets_the_segment_and_nowhere_else():
    door = {"door": (100.0, 20.0, 100.0, 60.0)}
    assert places(Zones({}, door), [(60, 40), (140, 40)]) == ["in"]
    assert places(Zones({}, door), [(140, 40), (60, 40)]) == ["out"]
    assert places(Zones({}, door), [(60, 80), (140, 80)]) == []  # past its end
    around = [(60, 40), (60, 90), (140, 90), (140, 40)]
    assert places(Zones({}, door), around) == []
    assert places(Zones({}, door), [*around, (60, 40)]) == ["out"]
    # The box's lower edge may cross while its centre passes above.
    low = Zones({}, {"door": (100.0, 43.0, 100.0, 60.0)}, anchor="bottom")
    assert places(low, [(60, 40), (140, 40)]) == ["in"]


def test_a_box_that_trembles_on_a_line_is_not_counted():
    door = {"door": (100.0, 0.0, 100.0, 100.0)}
    trembling = [(97, 50), (103, 50)] * 20
    assert places(Zones({}, door), trembling) == []
    assert places(Zones({}, door), [(60, 50), *trembling, (60, 50)]) == []
    assert places(Zones({}, door), [(60, 50), *trembling, (140, 50)]) == ["in"]
    # Close to the line, but long enough on the other side.
    assert places(Zones({}, door), [(60, 50), *[(103, 50)] * 7]) == ["in"]
    assert places(Zones({}, door), [(60, 50), *[(103, 50)] * 4, (60, 50)]) == []
    # To and fro is counted both ways.
    assert places(Zones({}, door), [(60, 50), (140, 50), (60, 50)]) == ["in", "out"]
    # A sight exactly on the line decides nothing.
    assert places(Zones({}, door), [(60, 50), (100, 50), (60, 50)]) == []
    assert places(Zones({}, door), [(60, 50), (100, 50), (140, 50)]) == ["in"]


def test_how_far_is_across_depends_on_the_shorter_side_of_a_box():
    def crossing(width, height):
        zones = Zones({}, {"door": (0.0, 200.0, 640.0, 200.0)})
        frames = [frame(number, [(1, 300, y)]) for number, y in enumerate((180, 212))]
        half = np.array([width, height]) / 2
        boxes = [np.array([[300, y, 300, y]]) + [*-half, *half] for y in (180, 212)]
        frames = [
            replace(one, xyxy=box.astype(np.float32))
            for one, box in zip(frames, boxes, strict=True)
        ]
        return [event.event for event in happenings(zones, frames)]

    assert len(crossing(60, 20)) == len(crossing(20, 60)) == 1  # 12 is more than half of 20
    assert crossing(60, 60) == []


def test_tracks_that_are_long_gone_are_forgotten():
    zones = Zones({"gate": GATE}, {"door": (100.0, 0.0, 100.0, 100.0)})
    for number in range(300):
        list(zones.update(frame(number, [(number, 300, 200)], fps=1.0)))
    assert len(zones._tracks) < 100
    assert zones.counts["gate"].total == 300


def test_an_object_that_comes_out_of_a_zone_unseen_is_not_a_second_visit():
    zones = Zones({"gate": GATE}, {}, grace=0.2)
    events = list(zones.update(frame(0, [(1, 300, 200)])))
    for number in range(1, 8):
        events += zones.update(frame(number, []))
    events += zones.update(frame(8, [(1, 500, 200)]))
    assert [event.event for event in events] == ["enter", "leave"]
