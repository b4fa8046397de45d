"""Boxes against shapely, supervision and brute force."""

import numpy as np
import pytest
import shapely
import supervision as sv
from hypothesis import assume, given
from hypothesis import strategies as st

from pgvision import boxes
from pgvision.errors import OptionError, ShapeError

_EDGE = st.integers(0, 200).map(lambda n: n / 4)


@st.composite
def box_lists(draw: st.DrawFn, max_size: int = 12) -> np.ndarray:
    rows = draw(st.lists(st.tuples(_EDGE, _EDGE, _EDGE, _EDGE), max_size=max_size))
    array = np.array(rows, dtype=np.float32).reshape(-1, 4)
    return np.concatenate(
        [np.minimum(array[:, :2], array[:, 2:]), np.maximum(array[:, :2], array[:, 2:])], axis=1
    )


@given(box_lists())
def test_conversions_agree_with_supervision(xyxy: np.ndarray) -> None:
    # Quarters of a pixel are exact in float32, so equality is exact.
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(xyxy), sv.xyxy_to_xywh(xyxy))
    np.testing.assert_array_equal(sv.xcycwh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy)


@given(box_lists(), box_lists())
def test_iou_is_shapelys(a: np.ndarray, b: np.ndarray) -> None:
    iou = boxes.box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert iou.dtype == np.float32
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            left, right = shapely.box(*one), shapely.box(*other)
            union = left.union(right).area
            expected = left.intersection(right).area / union if union else 0.0
            assert iou[i, j] == pytest.approx(expected, abs=1e-6)


@given(box_lists(), box_lists())
def test_iou_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    iou = boxes.box_iou(a, b)
    np.testing.assert_array_equal(iou, boxes.box_iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    own = np.diag(boxes.box_iou(a, a))
    np.testing.assert_array_equal(own, (a[:, :2] < a[:, 2:]).all(axis=1).astype(np.float32))


@given(box_lists(), st.integers(1, 60), st.integers(1, 60))
def test_clip_stays_inside_and_leaves_inner_boxes(xyxy: np.ndarray, h: int, w: int) -> None:
    before = xyxy.copy()
    clipped = boxes.clip_boxes(xyxy - 5, image_hw=(h, w))
    assert (clipped >= 0).all()
    assert (clipped <= [w, h, w, h]).all()
    assert (clipped[:, :2] <= clipped[:, 2:]).all()
    np.testing.assert_array_equal(boxes.clip_boxes(clipped, image_hw=(h, w)), clipped)
    np.testing.assert_array_equal(xyxy, before)


def _brute_force(xyxy: np.ndarray, scores: np.ndarray, ids: np.ndarray, limit: float) -> list[int]:
    remaining = sorted(range(len(xyxy)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in remaining:
        overlaps = [
            shapely.box(*xyxy[i]).intersection(shapely.box(*xyxy[k])).area
            / max(shapely.box(*xyxy[i]).union(shapely.box(*xyxy[k])).area, 1e-12)
            for k in kept
            if ids[k] == ids[i]
        ]
        if all(overlap <= limit for overlap in overlaps):
            kept.append(i)
    return kept


@given(box_lists(max_size=8), st.data())
def test_nms_is_brute_force(xyxy: np.ndarray, data: st.DataObject) -> None:
    n = len(xyxy)
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) / 4
    ids = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)), dtype=int)
    limit = 0.123456789
    # 10 / 81 is a ratio of such areas and, in float32, this number: rounding decides nothing.
    assume((np.abs(boxes.box_iou(xyxy, xyxy) - limit) > 1e-6).all())
    kept = boxes.nms(xyxy, scores, iou_threshold=limit, class_ids=ids)
    assert kept.tolist() == _brute_force(xyxy, scores, ids, limit)
    alike = boxes.nms(xyxy, scores, iou_threshold=limit)
    assert alike.tolist() == _brute_force(xyxy, scores, np.zeros(n), limit)
    unscored = boxes.nms(xyxy, None, iou_threshold=limit)
    assert unscored.tolist() == _brute_force(xyxy, np.zeros(n), np.zeros(n), limit)


def test_nms_is_supervisions_on_distinct_scores() -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 80, (60, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(5, 40, (60, 2))], 1).astype(np.float32)
    scores = rng.permutation(60) / 60
    ids = rng.integers(0, 3, 60)
    expected = sv.box_non_max_suppression(np.column_stack([xyxy, scores, ids]), iou_threshold=0.4)
    kept = boxes.nms(xyxy, scores, iou_threshold=0.4, class_ids=ids)
    assert sorted(kept.tolist()) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ([1, 2, 3, 4], "wrap a single box"),
        ([[1, 2, 3]], r"\(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2]], "unequal"),
        ([[1, 2, float("nan"), 4]], "row 0"),
        ([[0, 0, 1, 1], [0, 0, 1e300, 1]], "row 1"),
        ([["a", "b", "c", "d"]], "real numbers"),
        ([[True, True, True, True]], "real numbers"),
        ([[1j, 0, 0, 0]], "real numbers"),
    ],
)
def test_bad_boxes_are_refused_by_name(value: list[object], hint: str) -> None:
    with pytest.raises(ShapeError, match=hint) as caught:
        boxes.require_boxes(value, "truth")
    assert "truth" in str(caught.value)


def test_no_boxes_are_boxes() -> None:
    for empty in ([], np.zeros((0, 4))):
        assert boxes.require_boxes(empty).shape == (0, 4)
        assert boxes.box_iou(empty, [[0, 0, 1, 1]]).shape == (0, 1)
        assert boxes.nms(empty, None, iou_threshold=0.5).shape == (0,)


def test_nms_refuses_what_does_not_fit() -> None:
    two = [[0, 0, 1, 1], [0, 0, 1, 1]]
    with pytest.raises(OptionError, match="iou_threshold"):
        boxes.nms(two, None, iou_threshold=1.5)
    with pytest.raises(OptionError, match="nan"):
        boxes.nms(two, None, iou_threshold=float("nan"))
    with pytest.raises(ShapeError, match="scores"):
        boxes.nms(two, [0.5], iou_threshold=0.5)
    with pytest.raises(ShapeError, match="NaN"):
        boxes.nms(two, [0.5, float("nan")], iou_threshold=0.5)
    with pytest.raises(ShapeError, match="class_ids"):
        boxes.nms(two, None, iou_threshold=0.5, class_ids=[1])


def test_nms_keeps_a_box_of_exactly_the_threshold() -> None:
    """Areas 100 and 100, 50 shared: IoU is 1/3 and, of the second pair, 1/2 exactly."""
    half = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert boxes.nms(half, [0.9, 0.8], iou_threshold=0.5).tolist() == [0, 1]
    assert boxes.nms(half, [0.9, 0.8], iou_threshold=0.4999).tolist() == [0]
    same = [[0, 0, 10, 10], [0, 0, 10, 10]]
    assert boxes.nms(same, [0.8, 0.9], iou_threshold=1.0).tolist() == [1, 0]
    assert boxes.nms([[0, 0, 1, 1], [5, 5, 6, 6]], None, iou_threshold=0.0).tolist() == [0, 1]


def test_a_tall_box_is_clipped_by_each_side_alone() -> None:
    tall = [[-3, 5, 20, 90], [5, -3, 20, 90], [5, 5, 70, 90], [5, 5, 20, 130]]
    assert boxes.clip_boxes(tall, image_hw=(120, 60)).tolist() == [
        [0, 5, 20, 90], [5, 0, 20, 90], [5, 5, 60, 90], [5, 5, 20, 120],
    ]  # fmt: skip
