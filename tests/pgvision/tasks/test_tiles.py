"""Tiles: one object is one box, wherever the borders fall."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from scripted import Scripted

from pgvision.runtime import Request
from pgvision.tasks import Detector
from pgvision.tasks.reading import Found
from pgvision.tasks.tiles import auto_tile, join_fragments, tiles


def sees(request: Request) -> str:
    """Name every gray level as one object, as far as the picture shows it."""
    image = request.picture.bgr[..., 0]
    height, width = image.shape
    if request.prefix == "detect whole" and (height, width) != (200, 200):
        return ""
    found = []
    for level in np.unique(image[image > 0]):
        rows, columns = np.nonzero(image == level)
        edges = (rows.min() / height, columns.min() / width)
        edges += ((rows.max() + 1) / height, (columns.max() + 1) / width)
        bins = [min(1023, round(edge * 1024)) for edge in edges]
        if bins[2] > bins[0] and bins[3] > bins[1]:
            found.append("".join(f"<loc{bin_:04d}>" for bin_ in bins) + " helmet")
    return " ; ".join(found)


def sees_only_tiles(request: Request) -> str:
    """Miss small objects in the large picture, which is what tiles are for."""
    return sees(request) if max(request.picture.bgr.shape) <= 200 else ""


@pytest.mark.parametrize("look", [sees, sees_only_tiles])
@settings(max_examples=60, deadline=None)
@example(left=40, top=202, side=162, other=160)  # its lower edge is in a fragment alone
@given(
    left=st.integers(0, 390),
    top=st.integers(0, 390),
    side=st.integers(8, 180),
    other=st.integers(8, 180),
)
def test_one_object_is_one_box(look: object, left: int, top: int, side: int, other: int) -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    right, bottom = min(400, left + side), min(400, top + other)
    image[top:bottom, left:right] = 255
    result = Detector("helmet", generator=Scripted(look), tile=200)(image)
    assert len(result) == 1, result.xyxy
    # A bin of a tile is a fifth of a pixel; borders are told apart to a pixel and a half.
    np.testing.assert_allclose(result.xyxy[0], [left, top, right, bottom], atol=2.0)


def test_neighbours_across_a_border_stay_two() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    image[20:60, 20:155] = 100  # ends inside the overlap of two tiles
    image[20:60, 165:300] = 200
    result = Detector("helmet", generator=Scripted(sees_only_tiles), tile=200)(image)
    found = sorted(result.xyxy.round().astype(int).tolist())
    assert found == [[20, 20, 155, 60], [165, 20, 300, 60]]


def test_objects_of_other_labels_are_no_fragments() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    image[100:140, 100:300] = 255

    def two(request: Request) -> str:
        name = request.prefix.removeprefix("detect ")
        return sees(request).replace("helmet", name)

    detector = Detector(["helmet", "head"], generator=Scripted(two), tile=200, kind="pt")
    assert sorted(detector(image).labels) == ["head", "helmet"]


def test_tiles_cover_the_image() -> None:
    for image_hw in ((100, 250), (333, 901), (200, 200), (90, 1000)):
        seen = np.zeros(image_hw, np.bool_)
        for left, top, right, bottom in tiles(image_hw, 100):
            assert right - left <= 100
            assert bottom - top <= 100
            seen[top:bottom, left:right] = True
        assert seen.all()


def masked(xyxy: tuple[float, ...], window: tuple[int, ...] | None) -> Found:
    return Found(xyxy=xyxy, label="helmet", codes=(0,) * 16, score=0.5, window=window)


@pytest.mark.parametrize("turned", [False, True])
def test_of_fragments_with_masks_the_largest_stays(turned: bool) -> None:
    """Masks are not joined: what lies in a larger piece goes, whichever came first."""
    large = masked((20.0, 20.0, 200.0, 60.0), (0, 0, 200, 200))  # cut on the right
    small = masked((160.0, 20.0, 210.0, 60.0), (160, 0, 360, 200))  # cut on the left
    found = [small, large] if turned else [large, small]
    assert join_fragments(found, (400, 400)) == [large]


def boxed(xyxy: tuple[float, ...], window: tuple[int, ...]) -> Found:
    return Found(xyxy=xyxy, label="helmet", score=0.5, window=window)


def test_fragments_with_a_gap_between_them_are_two_objects() -> None:
    left = boxed((60.0, 20.0, 100.0, 60.0), (0, 0, 100, 100))
    right = boxed((160.0, 20.0, 200.0, 60.0), (160, 0, 260, 100))
    assert join_fragments([left, right], (100, 260)) == [left, right]


def test_a_fragment_goes_where_a_box_covers_half_of_it_and_no_further() -> None:
    fragment = boxed((150.0, 20.0, 200.0, 60.0), (0, 0, 200, 200))  # cut on the right
    for left, top, left_over in ((230.0, 100.0, 2), (175.0, 0.0, 1), (176.0, 0.0, 2)):
        other = boxed((left, top, left + 100, top + 100), (160, 0, 360, 200))
        found = join_fragments([fragment, other], (400, 400))
        assert found == [fragment, other][-left_over:]


@pytest.mark.parametrize(
    ("image_hw", "resolution", "expected"),
    [
        ((480, 640), 448, None),  # up to 1.5 times the resolution one pass is enough
        ((672, 300), 448, None),
        ((673, 300), 448, 448),
        ((1080, 1920), 448, 504),  # 448 would be 18 tiles
        ((416, 416), 224, 224),
        ((300, 3000), 448, 448),  # one row
    ],
)
def test_auto_tiles_come_from_size_and_resolution(
    image_hw: tuple[int, int], resolution: int, expected: int | None
) -> None:
    assert auto_tile(image_hw, resolution) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12_000), st.integers(1, 12_000), st.sampled_from([224, 448, 896]))
def test_auto_tiles_are_few(height: int, width: int, resolution: int) -> None:
    side = auto_tile((height, width), resolution)
    if side is not None:
        assert side >= resolution
        assert len(tiles((height, width), side)) <= 16
        smaller = resolution
        while smaller < side:  # the smallest that will do
            assert len(tiles((height, width), smaller, most=None)) > 16
            smaller += smaller // 8
        assert smaller == side


def test_auto_tiles_announce_their_price_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgvision.tasks")
    engine = Scripted(lambda request: "")
    engine.resolution = 448
    image = np.zeros((1087, 1931, 3), np.uint8)
    Detector("helmet", generator=engine, tile="auto").predict([image, image])
    (message,) = [text for text in caplog.messages if "tile='auto'" in text]
    assert "1931x1087 are asked in 15 tiles of 504 pixels" in message
    assert "about 16 times as long" in message
    assert len(engine.requests) == 2 * 16
