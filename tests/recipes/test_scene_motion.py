"""Films: the same things in every frame, moving as they should."""

from collections import defaultdict

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.errors import OptionError
from recipes.scenes import render_scene, render_video, write_scene_video
from recipes.scenes.motion import Motion, bounced, site_at
from recipes.scenes.site import Site, Thing

SIZE = (144, 192)


@pytest.mark.parametrize("camera", ["static", "moving"])
def test_tracks_keep_their_looks_through_a_film(camera):
    for seed in (920_001, 920_002, 920_003):
        looks = defaultdict(set)
        for frame in render_video(seed, num_frames=24, image_hw=SIZE, fps=6, camera=camera):
            tracks = [item.track_id for item in frame.objects]
            assert len(set(tracks)) == len(tracks)
            for item in frame.objects:
                looks[item.track_id].add((item.label, item.colour, item.worn_by))
        assert looks
        assert all(len(seen) == 1 for seen in looks.values())


@pytest.mark.parametrize("camera", ["static", "moving"])
def test_things_move_smoothly(camera):
    fps, before = 24, {}
    for frame in render_video(920_004, num_frames=48, image_hw=SIZE, fps=fps, camera=camera):
        now = {}
        for item in frame.objects:
            # Only whole things: the visible middle of a half-hidden one may jump.
            if item.visible_fraction == 1.0 and item.worn_by is None:
                now[item.track_id] = (item.xyxy[0] + item.xyxy[2]) / 2
        for track in now.keys() & before.keys():
            assert abs(now[track] - before[track]) < 0.05 * SIZE[1]
        before = now


def test_a_static_film_begins_with_the_scene_of_its_seed():
    for seed in (3, 4, 5):
        scene = render_scene(seed, image_hw=SIZE)
        first = next(render_video(seed, image_hw=SIZE))
        assert np.array_equal(scene.image, first.image)
        assert scene.caption == first.caption
        assert scene.questions == first.questions


def test_a_static_camera_stays_and_a_moving_one_pans():
    still, panned = 0, 0
    for seed in range(920_010, 920_016):
        for camera in ("static", "moving"):
            frames = list(render_video(seed, num_frames=13, image_hw=SIZE, fps=6, camera=camera))
            shifts = []
            for before, after in zip(frames, frames[6:], strict=False):
                there = {
                    item.track_id: item.xyxy[0]
                    for item in before.objects
                    if item.label in ("cone", "barrel", "sign") and item.visible_fraction > 0.999
                }
                moved = [
                    float(item.xyxy[0] - there[item.track_id])
                    for item in after.objects
                    if item.track_id in there and item.visible_fraction > 0.999
                ]
                # What stands still in the world moves together in the picture.
                assert not moved or max(moved) - min(moved) <= 1.0
                shifts += moved
            if camera == "static":
                assert all(shift == 0 for shift in shifts)
                still += len(shifts)
            else:
                panned += sum(abs(shift) > 2 for shift in shifts)
    assert still > 10
    assert panned > 10


def test_something_moves_wherever_there_is_someone():
    for seed in range(920_020, 920_026):
        first, *_, last = render_video(seed, num_frames=13, image_hw=SIZE, fps=12)
        starts = {item.track_id: item.xyxy.tolist() for item in first.objects}
        ends = {item.track_id: item.xyxy.tolist() for item in last.objects}
        if any(item.label in ("worker", "truck") for item in first.objects):
            assert starts != ends


def test_films_are_the_same_each_time_and_differ_by_seed():
    def film(seed):
        frames = render_video(seed, num_frames=4, image_hw=SIZE, camera="moving")
        return [frame.image.tobytes() for frame in frames]

    assert film(1) == film(1)
    assert film(1) != film(2)


def test_masks_and_boxes_agree_in_every_frame():
    for frame in render_video(920_030, num_frames=6, image_hw=SIZE, fps=3, camera="moving"):
        for item in frame.objects:
            rows, columns = np.nonzero(item.mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert item.xyxy.tolist() == box


def test_frames_are_drawn_as_they_are_asked_for():
    frames = render_video(1, num_frames=1_000_000_000, image_hw=(64, 64))
    assert next(frames).image.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 0},
        {"num_frames": 2.5},
        {"fps": 0},
        {"fps": float("nan")},
        {"fps": "24"},
        {"camera": "drone"},
        {"image_hw": (10, 10)},
    ],
)
def test_bad_options_are_refused_at_once(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        render_video(1, **options)


def test_video_files_hold_the_frames(tmp_path):
    path = tmp_path / "films" / "site.mp4"
    options = {"num_frames": 10, "image_hw": SIZE, "fps": 10.0, "camera": "moving"}
    assert write_scene_video(path, 920_040, **options) == path
    assert list(path.parent.iterdir()) == [path]
    reader = cv2.VideoCapture(str(path))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
    read = []
    while True:
        more, frame = reader.read()
        if not more:
            break
        read.append(frame)
    reader.release()
    drawn = [frame.image for frame in render_video(920_040, **options)]
    assert len(read) == len(drawn)
    for one, other in zip(read, drawn, strict=True):
        # The codec loses detail, not the picture.
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 14


def test_an_unknown_video_ending_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"\.mp4"):
        write_scene_video(tmp_path / "site.gif", 1)
    assert not list(tmp_path.iterdir())


@given(
    start=st.floats(0, 1),
    travel=st.floats(-50, 50),
    low=st.floats(-2, 0),
    high=st.floats(1, 3),
)
def test_bouncing_equals_small_steps(start, travel, low, high):
    end, turned = bounced(start, travel, low, high)
    assert low - 1e-9 <= end <= high + 1e-9
    # Oracle: unfold the walls by mirroring until the point lies between them.
    point, mirrored = start + travel, False
    while not low <= point <= high:
        point = 2 * low - point if point < low else 2 * high - point
        mirrored = not mirrored
    assert end == pytest.approx(point, abs=1e-6)
    if min(point - low, high - point) > 1e-6:
        assert turned == mirrored


def test_what_turns_round_looks_where_it_goes():
    truck = Thing(kind="truck", seed=1, x=0.5, facing=1, track_id=1)
    site = Site(horizon=0.3, light=0.0, things=(truck,))
    motions = {1: Motion(speed=0.25, low=0.0, high=1.0)}
    # To the right end in two seconds, back at the middle after four, at the left end after six.
    for seconds, x, facing in ((1, 0.75, 1), (3, 0.75, -1), (4, 0.5, -1), (7, 0.25, 1)):
        (moved,) = site_at(site, motions, seconds).things
        assert (moved.x, moved.facing) == (pytest.approx(x), facing)
