"""Outlines: single rings rasterise to the mask they were made from."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pgvision.datasets import Annotation, Rle, segmentation_to_mask
from pgvision.datasets.outlines import is_outside, mask_to_runs, one_ring
from pgvision.errors import DataError
from pgvision.rle import outline_xywh

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(masks)
@settings(max_examples=200)
def test_one_ring_painted_by_pycocotools_is_the_mask(mask):
    ring = one_ring(mask_to_runs(mask), mask.shape)
    if not mask.any():
        assert ring == ()
        return
    assert (segmentation_to_mask((ring,), mask.shape) == mask).all()


def test_parts_that_overlap_stay_filled():
    squares = ((0, 0, 4, 0, 4, 4, 0, 4), (2, 2, 6, 2, 6, 6, 2, 6))
    united = segmentation_to_mask(squares, (8, 8))
    assert united.sum() == 28
    assert (segmentation_to_mask((one_ring(squares, (8, 8)),), (8, 8)) == united).all()


def test_many_parts_of_a_large_image_make_no_full_masks():
    # 60 parts on 24 megapixels: masks of all of them took 3 GB and 6 s.
    rings = tuple(
        (x, 5.0, x + 60.0, 5.0, x + 60.0, 3000.0) for x in map(float, range(0, 6000, 100))
    )
    start = time.process_time()
    tracemalloc.start()
    ring = one_ring(rings, (4000, 6000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ring) == 60 * 6 + 59 * 4
    assert peak < 10_000_000
    assert time.process_time() - start < 2


def test_a_wild_coordinate_is_refused_before_it_takes_memory():
    for far in (1e7, 3e8, 1e9, -1e8):
        with pytest.raises(DataError, match="far outside the image"):
            segmentation_to_mask(((0, 0, far, 0, far, 30),), (40, 60))


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 0, False), (8, 0, False), (8.5, 0, True), (-1, 0, True), (8, 1, True), (-1, 1, True),
     (-1, 1.5, False), (7.5, 1, False)],
)  # fmt: skip
def test_what_shares_nothing_with_its_image_is_outside(start, length, expected):
    for xywh in ((start, 2.0, length, 3.0), (2.0, start, 3.0, length)):
        assert is_outside(Annotation(1, 1, xywh), (8, 8)) == expected


def test_a_polygon_alone_keeps_its_numbers():
    ring = (0.125, 0.25, 4.5, 0.75, 4.25, 4.0)
    assert one_ring((ring, (1.0, 2.0)), (8, 8)) == ring


@given(masks.filter(np.any))
def test_the_box_of_a_mask_is_tight(mask):
    x, y, width, height = (int(value) for value in outline_xywh(mask_to_runs(mask)._asdict()))
    part = mask[y : y + height, x : x + width]
    assert part.sum() == mask.sum()
    assert part[0].any()
    assert part[-1].any()
    assert part[:, 0].any()
    assert part[:, -1].any()


@pytest.mark.parametrize(
    "runs",
    [
        Rle((4, 4), (3, 3)),
        Rle((4, 4), (-1, 17)),
        Rle((4, 5), (20,)),
        Rle((4, 4), "3"),
        Rle((4, 4), "\x7f\x7f"),
        Rle((4, 4), ""),
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(runs):
    with pytest.raises(DataError):
        segmentation_to_mask(runs, (4, 4))


@given(st.lists(st.floats(-5, 15), max_size=5))
def test_rings_of_less_than_three_points_paint_nothing(ring):
    assert not segmentation_to_mask((tuple(ring[: len(ring) // 2 * 2]),), (10, 10)).any()


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_a_ring_that_leaves_the_image_is_cut_wherever_it_starts(turn, axis):
    """A square of 20 pixels of which half is to the right of (below) an image of 30."""
    square = [(20, 5), (40, 5), (40, 25), (20, 25)]
    corners = [corner[:: -1 if axis else 1] for corner in square[turn:] + square[:turn]]
    cut = one_ring((tuple(value for corner in corners for value in corner),), (30, 30))
    points = np.reshape(cut, (-1, 2))
    expected = ([20, 5], [30, 25]) if axis == 0 else ([5, 20], [25, 30])
    assert (points.min(0).tolist(), points.max(0).tolist()) == expected
