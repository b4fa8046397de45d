"""Masks against pycocotools, shapely and a bilinear resize written out here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from shapely import Point

from pgvision.errors import DataError, ShapeError
from pgvision.masks import (
    crop_mask,
    join_rings,
    mask_to_polygon,
    masks_to_rle,
    paste_mask,
    polygon_rings,
)
from pgvision.rle import (
    mask_to_rle,
    outline_area,
    polygons_to_rle,
    ring_fault,
    rle_to_mask,
    run_total,
)


def paste_masks(logits, boxes, image_hw: tuple[int, int]) -> np.ndarray:
    """Paste the crops into full frames."""
    frames = np.zeros((len(logits), *image_hw), np.bool_)
    for frame, mask, box in zip(frames, logits, boxes, strict=True):
        crop, (left, top) = paste_mask(mask, box, image_hw)
        frame[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return frames


def masks_to_polygons(logits, boxes, image_hw: tuple[int, int], **options: float) -> list:
    return [
        mask_to_polygon(*paste_mask(mask, box, image_hw), **options)
        for mask, box in zip(logits, boxes, strict=True)
    ]


def blobs(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 8, 8))
    return np.kron(coarse, np.ones((8, 8))).astype(np.float32)


def weights(size: int) -> np.ndarray:
    """``(size, 64)`` weights of a bilinear resize that averages when it shrinks.

    A triangle around each output centre, as wide as one input pixel, or as one output pixel where
    that is wider; half-pixel centres; each row sums to one.
    """
    scale = 64 / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(64) + 0.5 - centres[:, None]) / support
    triangle = np.maximum(1 - distance, 0)
    return triangle / triangle.sum(1, keepdims=True)


boxes = st.tuples(st.floats(-30, 90), st.floats(-30, 70), st.floats(0, 80), st.floats(0, 80)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@given(boxes, st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_paste_is_the_antialiased_resize_of_the_cut_box(box: list[float], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    (frame,) = paste_masks(logits[None], [box], image_hw=(60, 80))
    left, top, right, bottom = (int(np.floor(edge)) for edge in box)
    expected = np.zeros((60, 80))
    if right > left and bottom > top:
        whole = weights(bottom - top) @ logits.astype(np.float64) @ weights(right - left).T
        for y in range(max(top, 0), min(bottom, 60)):
            for x in range(max(left, 0), min(right, 80)):
                expected[y, x] = whole[y - top, x - left]
    sure = np.abs(expected) > 1e-5  # at 0 float32 and float64 may differ
    assert (frame[sure] == (expected[sure] > 0)).all()
    assert not frame[expected == 0].any()


def test_a_box_far_larger_than_the_frame_shows_its_part() -> None:
    logits = np.full((1, 64, 64), -1.0)
    logits[0, :, 32:] = 1.0
    (frame,) = paste_masks(logits, [[-40_000, -40_000, 40_020, 40_000]], image_hw=(30, 40))
    assert not frame[:, :9].any()  # the middle of the box is at x = 10
    assert frame[:, 11:].all()


@pytest.mark.parametrize("box", [[1, 2, 8, 9], [-40_000, -40_000, 40_020, 40_000]])
def test_zero_is_outside_of_a_mask(box: list[int]) -> None:
    assert not paste_masks(np.zeros((1, 64, 64)), [box], image_hw=(30, 40)).any()


@pytest.mark.parametrize("box", [[-300, -170, 500, 250], [10, 11, 700, 300], [-900, -90, 15, 12]])
def test_the_part_of_a_box_mostly_outside_is_that_of_the_whole(box: list[int]) -> None:
    logits = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    left, top, right, bottom = box
    whole = weights(bottom - top) @ logits.astype(np.float64) @ weights(right - left).T
    expected = np.zeros((30, 40))
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(bottom, 30), min(right, 40)
    expected[y0:y1, x0:x1] = whole[y0 - top : y1 - top, x0 - left : x1 - left]
    (frame,) = paste_masks(logits[None], [box], image_hw=(30, 40))
    sure = np.abs(expected) > 1e-4
    assert sure[y0:y1, x0:x1].mean() > 0.99
    np.testing.assert_array_equal(frame[sure], expected[sure] > 0)


@given(st.lists(boxes, min_size=1, max_size=4), st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_rle_is_byte_identical_to_pycocotools(rows: list[list[float]], seed: int) -> None:
    logits = blobs(len(rows), seed)
    frames = paste_masks(logits, rows, image_hw=(60, 80))
    ours = masks_to_rle(logits, rows, image_hw=(60, 80))
    theirs = coco_mask.encode(np.asfortranarray(frames.transpose(1, 2, 0).astype(np.uint8)))
    assert [one["counts"] for one in ours] == [one["counts"].decode() for one in theirs]
    assert all(one["size"] == [60, 80] for one in ours)
    for one, frame in zip(ours, frames, strict=True):
        np.testing.assert_array_equal(rle_to_mask(one), frame)
        assert mask_to_rle(frame) == one
    np.testing.assert_array_equal([outline_area(one, None) for one in ours], coco_mask.area(theirs))


def test_a_box_as_high_as_the_frame_joins_its_columns() -> None:
    (rle,) = masks_to_rle(np.ones((1, 64, 64)), [[2, 0, 5, 7]], image_hw=(7, 9))
    frame = np.zeros((7, 9), np.uint8)
    frame[:, 2:5] = 1
    (expected,) = coco_mask.encode(np.asfortranarray(frame[..., None]))
    assert rle["counts"].encode() == expected["counts"]


@given(st.lists(boxes, min_size=1, max_size=3), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_polygons_cover_the_mask_exactly(rows: list[list[float]], seed: int) -> None:
    logits = blobs(len(rows), seed)
    frames = paste_masks(logits, rows, image_hw=(60, 80))
    shapes = masks_to_polygons(logits, rows, image_hw=(60, 80))
    for shape, frame in zip(shapes, frames, strict=True):
        assert shape.is_valid
        assert shape.area == pytest.approx(int(frame.sum()))
        if frame.any():
            ys, xs = np.nonzero(frame)
            assert shape.bounds == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_holes_are_kept() -> None:
    logits = np.ones((1, 64, 64), np.float32)
    logits[0, 28:36, 28:36] = -1
    box = [[0, 0, 64, 64]]
    (shape,) = masks_to_polygons(logits, box, image_hw=(64, 64))
    assert len(shape.geoms[0].interiors) == 1
    assert shape.area == 64 * 64 - 64


@given(st.integers(0, 200), st.floats(0.1, 8))
@settings(max_examples=60, deadline=None)
def test_simplified_polygons_stay_valid_and_near(seed: int, tolerance: float) -> None:
    (exact,) = masks_to_polygons(blobs(1, seed), [[3, 4, 70, 50]], image_hw=(60, 80))
    (simple,) = masks_to_polygons(
        blobs(1, seed), [[3, 4, 70, 50]], image_hw=(60, 80), tolerance=tolerance
    )
    assert simple.is_valid
    if not exact.is_empty and not simple.is_empty:
        for part in simple.geoms:  # no corner strays further than it was allowed to
            corners = [Point(xy) for xy in part.exterior.coords]
            assert all(exact.boundary.distance(corner) <= tolerance + 1e-6 for corner in corners)


def test_no_masks_at_all() -> None:
    empty = np.zeros((0, 64, 64))
    assert masks_to_rle(empty, [], image_hw=(5, 6)) == []


def test_boxes_of_one_pixel_or_none() -> None:
    crop, corner = paste_mask(np.ones((64, 64)), [4, 5, 5, 6], (10, 10))
    assert crop.tolist() == [[True]]
    assert corner == (4, 5)
    for outside in ([4, 5, 4.2, 9], [20, 0, 30, 9], [-9, -9, -1, -1]):
        crop, corner = paste_mask(np.ones((64, 64)), outside, (10, 10))
        assert (crop.shape, corner) == ((0, 0), (0, 0))


def test_crop_and_paste_are_inverse_on_a_block() -> None:
    mask = np.zeros((100, 120), np.bool_)
    mask[20:60, 30:90] = True
    crop = crop_mask(mask, [30, 20, 90, 60])
    assert crop.shape == (64, 64)
    assert crop.min() == 1.0
    half = crop_mask(mask, [0, 20, 60, 60])  # the right half is inside
    (frame,) = paste_masks((half * 2 - 1)[None], [[0, 20, 60, 60]], image_hw=(100, 120))
    np.testing.assert_array_equal(frame[20:60, :60], mask[20:60, :60])


def test_the_codecs_crop_rounds_to_the_nearest_pixel() -> None:
    mask = np.random.default_rng(0).random((80, 90)) < 0.5
    box = [7.4, 3.6, 70.6, 68.4]  # from 7, 4 to 71, 68: 64 x 64 pixels, so nothing is resized
    np.testing.assert_array_equal(crop_mask(mask, box), mask[4:68, 7:71])


def test_a_box_thinner_than_a_pixel_at_the_border_is_its_last_pixel() -> None:
    mask = np.zeros((30, 100), np.bool_)
    mask[:, 99] = True
    assert crop_mask(mask, [99.6, 4, 100, 20]).min() == 1.0
    assert crop_mask(mask.T, [4, 99.6, 20, 99.9]).min() == 1.0
    assert crop_mask(~mask, [0, 0, 0, 0]).min() == 1.0


def test_what_lies_outside_the_frame_is_not_stretched() -> None:
    crop = crop_mask(np.ones((32, 32), np.bool_), [-32, -32, 32, 32])  # 64 x 64: no resize
    expected = np.zeros((64, 64))
    expected[32:, 32:] = 1.0  # a quarter
    np.testing.assert_array_equal(crop, expected)
    for box in ([-10, 4, 30, 90], [20, -7, 90, 31]):  # beyond the right and the lower side
        frame = np.zeros((200, 200), np.bool_)
        frame[100:132, 100:132] = True
        shifted = crop_mask(frame, [edge + 100 for edge in box])
        np.testing.assert_array_equal(crop_mask(np.ones((32, 32), np.bool_), box), shifted)
    with pytest.raises(ShapeError, match="cut it to the frame"):
        crop_mask(np.ones((32, 32), np.bool_), [0, 0, 1e6, 1e6])


@given(st.integers(0, 100), st.integers(20, 300), st.integers(20, 300))
@settings(max_examples=40, deadline=None)
def test_the_codecs_crop_is_the_antialiased_resize(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5

    def shrink(size: int) -> np.ndarray:
        scale = size / 64
        centres = (np.arange(64) + 0.5) * scale
        distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
        triangle = np.maximum(1 - distance, 0)
        return triangle / triangle.sum(1, keepdims=True)

    expected = shrink(height) @ mask.astype(np.float64) @ shrink(width).T
    np.testing.assert_allclose(crop_mask(mask, [0, 0, width, height]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"size": [4, 5], "counts": ""}, "20"),
        ({"size": [4, 5], "counts": "3"}, "20"),
        ({"size": [4, 5], "counts": "\x7f\x7f"}, "list of run lengths"),
        ({"size": [4, 5], "counts": "P"}, "list of run lengths"),
        ({"size": [4, 5], "counts": [3, 4]}, "20"),
        ({"size": [4, 5], "counts": [25, -5]}, "list of run lengths"),
        ({"size": [5, 5], "counts": [20]}, "another mask"),
        ({"size": [0, 5], "counts": []}, "size"),
        ({"counts": [20]}, "size"),
        ({"size": [4, 5]}, "counts"),
        ({"size": [4.5, 5], "counts": [20]}, "whole pixels"),
        ({"size": [True, 20], "counts": [20]}, "whole pixels"),
        ({"size": ["a", "b"], "counts": [20]}, "whole pixels"),
        ({"size": [4, 5], "counts": ["a"]}, "list of run lengths"),
        ({"size": [4, 5], "counts": "o" * 60 + "0"}, "list of run lengths"),
        ("rle", "size"),
    ],
)
def test_broken_run_lengths_are_refused(rle: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        rle_to_mask(rle)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match="64"):
        masks_to_rle(np.ones((1, 32, 32)), [[0, 0, 1, 1]], image_hw=(5, 5))
    with pytest.raises(ShapeError, match="1 masks, 2 boxes"):
        masks_to_rle(np.ones((1, 64, 64)), np.zeros((2, 4)), image_hw=(5, 5))
    with pytest.raises(ShapeError, match="NaN"):
        masks_to_rle(np.full((1, 64, 64), np.nan), [[0, 0, 1, 1]], image_hw=(5, 5))
    with pytest.raises(ShapeError, match="4 finite numbers"):
        paste_mask(np.ones((64, 64)), [0, 0, np.nan, 1], (5, 5))
    with pytest.raises(ShapeError, match="expected 0 or more"):
        mask_to_polygon(np.ones((5, 5), np.bool_), tolerance=-1)
    with pytest.raises(ShapeError, match="covers no pixel"):
        crop_mask(np.ones((5, 5), np.bool_), [7, 7, 9, 9])
    with pytest.raises(ShapeError, match="bool"):
        mask_to_rle(np.ones((5, 5)))


def packed(runs: list[int]) -> bytes:
    """Pack run lengths as maskApi.c's rleToString does, written out here."""
    text = bytearray()
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        while True:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text.append(48 + digit + 32 * more)
            if not more:
                break
    return bytes(text)


@given(st.lists(st.integers(0, 2**33), max_size=9))
def test_totals_of_packed_runs(runs: list[int]) -> None:
    assert run_total(packed(runs)) == sum(runs)


@pytest.mark.parametrize("broken", [b"/4", b"0p", b"0\xff", b"P", b"0" + b"o" * 7 + b"0", b"O"])
def test_broken_packed_runs_are_found(broken: bytes) -> None:
    """Foreign characters, an end inside a number, more than 35 bits, a negative run."""
    assert run_total(broken) is None
    with pytest.raises(DataError, match="run-length text"):
        rle_to_mask({"size": [2, 2], "counts": broken})


WILD = (
    [0, 0, 1e8, 0, 1e8, 30], [0, 0, 30, -61, 30, 30], [0, 0, 30, 0, 121, 30], [-61, 0, 30, 0, 9, 9],
    [0, 0, 30, 0, 9, 81], [0, 0, float("nan"), 0, 9, 9], [0, 0, 9, float("inf"), 9, 9], [0] * 7,
)  # fmt: skip


@pytest.mark.parametrize("ring", WILD)
def test_wild_coordinates_do_not_reach_c(ring: list[float]) -> None:
    with pytest.raises(DataError, match=r"polygon (reaches|has)"):
        polygons_to_rle([[0, 0, 9, 0, 9, 9], ring], (40, 60))


def test_a_ring_may_leave_the_image_by_the_images_size() -> None:
    ring = [-60, -40, 120, -40, 120, 80, -60, 80]
    assert rle_to_mask(polygons_to_rle([ring], (40, 60))).all()
    assert ring_fault(ring, (40, 60)) is None


@given(st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_one_joined_ring_fills_the_mask(seed: int) -> None:
    """Even-odd filling by shapely's point test stands for cv2.fillPoly, which draws its border."""
    mask = np.kron(np.random.default_rng(seed).random((6, 9)) > 0.5, np.ones((3, 2))) > 0
    ring = np.array(join_rings(polygon_rings(mask_to_polygon(mask)))).reshape(-1, 2)
    y, x = np.mgrid[:18, :18] + 0.5
    # Crossing number: an edge counts where it passes the row of the pixel's centre to the right.
    inside = np.zeros(mask.shape, int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        passes = (y0 <= y) != (y1 <= y)
        inside += passes & (x < x0 + (y - y0) / ((y1 - y0) or 1) * (x1 - x0))
    np.testing.assert_array_equal(inside % 2 == 1, mask)
    assert join_rings([]) == ()


def test_rings_of_gigabytes_are_refused_before_they_reach_c() -> None:
    # 3,000 lines across 16,000 pixels: pycocotools would allocate 5 GB for 40 kB of JSON.
    zigzag = [side * 16_000.0 for turn in range(3000) for side in (turn % 2, turn % 2)]
    with pytest.raises(DataError, match="is 48000000 pixels long"):
        polygons_to_rle([zigzag], (8000, 8000))
    # The outline of a comb in an image of 20,000 pixels is fine, and exact.
    comb = [(turn // 2, 19_990 * ((turn + 1) // 2 % 2)) for turn in range(601)]
    ring = [float(value) for corner in [*comb, (300, 20_000), (0, 20_000)] for value in corner]
    assert ring_fault(ring, (20_000, 20_000)) is None


def test_runs_of_more_than_32_bits_are_refused() -> None:
    with pytest.raises(DataError, match="run lengths have 32 bits"):
        rle_to_mask({"size": [100_000, 100_000], "counts": [10**10]})


@pytest.mark.parametrize(
    ("size", "counts", "mask"),
    [
        ([1, 3], [1, 1, 1], [[0, 1, 0]]),
        ([3, 1], [1, 1, 1], [[0], [1], [0]]),
        ([2, 2], [0, 1, 3], [[1, 0], [0, 0]]),  # a mask that starts in the corner
    ],
)
def test_masks_of_one_pixel_in_height_or_width(
    size: list[int], counts: list[int], mask: list[list[int]]
) -> None:
    assert rle_to_mask({"size": size, "counts": counts}).astype(int).tolist() == mask


@given(st.integers(0, 2**24 - 1), st.sampled_from([0.3, 0.7, 1.0]))
@settings(max_examples=200, deadline=None)
def test_simplified_outlines_are_valid(bits: int, tolerance: float) -> None:
    mask = np.array([bits >> place & 1 for place in range(24)], np.bool_).reshape(4, 6)
    assert mask_to_polygon(mask, tolerance=tolerance).is_valid


def test_a_box_without_height_is_cut_as_one_row_of_pixels() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[5] = True
    assert crop_mask(mask, [2, 5, 8, 5]).min() == pytest.approx(1.0)
    assert crop_mask(mask.T, [5, 2, 5, 8]).min() == pytest.approx(1.0)


def test_a_zigzag_counts_by_its_longer_side() -> None:
    """2,000 crossings of 10,000 pixels are 20 million pixels of border."""
    ring = [value for at in range(2000) for value in (10_000 * (at % 2), at % 10)]
    for one, hw in ((ring, (10, 10_000)), (ring[::-1], (10_000, 10))):
        assert "longer than any outline" in (ring_fault(one, hw) or "")
