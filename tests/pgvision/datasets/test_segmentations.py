"""Outlines: traced masks and single rings paint what they came from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pgvision.datasets import Rle, segmentation_to_mask
from pgvision.datasets.segmentations import mask_to_runs, mask_xywh, one_ring, trace_mask
from pgvision.errors import DataError

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def inside(rings, x, y):
    """Count crossings of a ray to the right: an oracle without any rasteriser."""
    crossings = 0
    for ring in rings:
        corners = list(zip(ring[0::2], ring[1::2], strict=True))
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if (y0 > y) != (y1 > y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) > x:
                crossings += 1
    return crossings % 2 == 1


@given(masks)
def test_a_traced_mask_encloses_exactly_its_pixels(mask):
    rings = trace_mask(mask)
    for (y, x), value in np.ndenumerate(mask):
        assert inside(rings, x + 0.5, y + 0.5) == value


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


def test_a_polygon_alone_keeps_its_numbers():
    ring = (0.125, 0.25, 4.5, 0.75, 4.25, 4.0)
    assert one_ring((ring, (1.0, 2.0)), (8, 8)) == ring


@given(masks.filter(np.any))
def test_the_box_of_a_mask_is_tight(mask):
    x, y, width, height = (int(value) for value in mask_xywh(mask))
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
