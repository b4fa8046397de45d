"""Detection results: what they refuse, how they slice, and that nothing in them moves."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from pgvision.errors import ImageError, OptionError, PgvisionError, ShapeError
from pgvision.results import DetectionResult, Failure, TextResult

_FIELDS: dict[str, Any] = {
    "image_hw": (480, 640),
    "xyxy": [[10, 20, 30, 40], [0, 0, 640, 480], [5.5, 6.25, 7.125, 8]],
    "labels": ["Helmet", "head", None],
    "class_ids": [0, 1, -1],
    "classes": ["helmet", "head"],
    "scores": [0.9, 0.25, 0.1],
    "loc_yxyx": [[0, 1, 2, 3]] * 3,
    "edge_std": [[1.0, 2.0, 3.0, 4.0]] * 3,
    "tracker_ids": [7, -1, 3],
    "source": "photos/site.jpg",
}


def _result(**changes: object) -> DetectionResult:
    return DetectionResult(**{**_FIELDS, **changes})


def test_fields_are_what_the_surface_promises() -> None:
    result = _result()
    assert result.xyxy.shape == (3, 4)
    assert result.xyxy.dtype == result.scores.dtype == np.float32
    assert result.labels == ("helmet", "head", None)
    assert result.texts == ("Helmet", "head", None)
    assert result.class_ids.tolist() == [0, 1, -1]
    assert result.ok
    assert result.whole_image.tolist() == [False, True, False]


def test_the_whole_image_is_told_by_one_in_a_hundred_of_each_side() -> None:
    edges = [[6, 0, 640, 480], [0, 6, 640, 480], [0, 0, 634, 480], [0, 0, 640, 474]]
    result = DetectionResult(
        image_hw=(480, 640), xyxy=edges, labels=["a"] * 4, class_ids=[0] * 4, classes=["a"]
    )
    # 6 pixels are less than a hundredth of 640 and more than one of 480
    assert result.whole_image.tolist() == [True, False, True, False]


def test_arrays_are_read_only_copies() -> None:
    mine = np.array(_FIELDS["xyxy"], dtype=np.float32)
    result = _result(xyxy=mine)
    mine[:] = 0
    assert result.xyxy[0].tolist() == [10, 20, 30, 40]
    assert mine.flags.writeable
    for name in ("xyxy", "scores", "class_ids", "loc_yxyx", "edge_std", "tracker_ids"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(result, name)[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.xyxy = mine  # type: ignore[misc]


def test_the_picture_is_viewed_not_copied_and_stays_the_callers_to_write() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    result = _result().with_image(picture)
    assert np.shares_memory(result.image, picture)
    assert not result.image.flags.writeable
    assert picture.flags.writeable
    assert _result().image is None


@pytest.mark.parametrize(
    ("changes", "error", "hint"),
    [
        ({"xyxy": [[30, 20, 10, 40]] * 3}, ShapeError, "left, top, right, bottom"),
        ({"xyxy": [[10, 20, 641, 40]] * 3}, ShapeError, "640 x 480"),
        ({"xyxy": [[-1, 20, 30, 40]] * 3}, ShapeError, "clip_boxes"),
        ({"xyxy": [[float("nan"), 0, 1, 1]] * 3}, ShapeError, "finite"),
        ({"xyxy": [10, 20, 30, 40]}, ShapeError, r"\(n, 4\)"),
        ({"scores": [0.9, 0.2]}, ShapeError, "scores"),
        ({"scores": [0.9, 0.2, 1.5]}, ShapeError, r"\[0, 1\]"),
        ({"scores": [0.9, 0.2, float("nan")]}, ShapeError, "None if they are unknown"),
        ({"scores": ["a", "b", "c"]}, ShapeError, "real numbers"),
        ({"labels": ["a", "b"]}, ShapeError, "all 3 boxes"),
        ({"labels": "abc"}, OptionError, "a sequence of names"),
        ({"labels": ["a", "b", 3]}, OptionError, "names"),
        ({"texts": ["a", "b"]}, ShapeError, "texts must name all 3 boxes"),
        ({"presence": {"helmet": 1.5}}, OptionError, r"presence\['helmet'\]"),
        ({"passes": 1.5}, OptionError, "passes"),
        ({"classes": "ab"}, OptionError, "a sequence of names"),
        ({"class_ids": [0, 1, 2]}, ShapeError, r"\[-1, 1\]"),
        ({"class_ids": [0, 1, -2]}, ShapeError, r"\[-1, 1\]"),
        ({"class_ids": [0.0, 1.0, 1.0]}, ShapeError, "whole numbers"),
        ({"loc_yxyx": [[0, 0, 0, 1024]] * 3}, ShapeError, r"\[0, 1023\]"),
        ({"edge_std": [[0, 0, 0, -1]] * 3}, ShapeError, "at least 0"),
        ({"tracker_ids": [1.5, 2.5, 3.5]}, ShapeError, "whole numbers"),
        ({"image_hw": (0, 640)}, ShapeError, "image_hw"),
        ({"image_hw": (480.0, 640)}, ShapeError, "image_hw"),
        ({"image": np.zeros((480, 640), np.uint8)}, ShapeError, "BGR"),
        ({"image": np.zeros((480, 640, 3))}, ShapeError, "float64"),
        ({"frame_index": -1}, OptionError, "frame_index"),
        ({"time": float("inf")}, OptionError, "time"),
        ({"timings": {"decode": -1}}, OptionError, "decode"),
        ({"prefix": None}, OptionError, "prefix"),
    ],
)
def test_broken_fields_are_refused_by_name(
    changes: dict[str, object], error: type[PgvisionError], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        _result(**changes)


def test_a_class_that_was_asked_for_names_its_objects_whatever_the_model_wrote() -> None:
    result = _result(labels=["x", "y", "dog"], texts=["Helmets", None, "dog"])
    assert result.labels == ("helmet", "head", "dog")
    assert result.texts == ("Helmets", None, "dog")
    moved = dataclasses.replace(result, class_ids=[1, 0, -1])
    assert moved.labels == ("head", "helmet", "dog")
    assert moved.texts == result.texts


def test_unknown_stays_unknown() -> None:
    assert _result().presence is None
    assert _result().passes is None
    result = _result(scores=None, loc_yxyx=None, edge_std=None, tracker_ids=None)
    assert result.scores is None
    assert result[1:].scores is None
    assert result[[0]].edge_std is None


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([0, 2], [0, 2]),
        ((0, 2), [0, 2]),
        ([], []),
        (np.array([True, False, True]), [0, 2]),
        ([False, False, False], []),
        (-1, [2]),
        (np.int64(1), [1]),
        (np.array([2, 2]), [2, 2]),
    ],
)
def test_slicing_takes_every_field_along(index: object, rows: list[int]) -> None:
    result, part = _result(), _result()[index]  # type: ignore[index]
    assert part.labels == tuple(result.labels[row] for row in rows)
    assert part.texts == tuple(result.texts[row] for row in rows)
    for name in ("xyxy", "scores", "class_ids", "loc_yxyx", "edge_std", "tracker_ids"):
        np.testing.assert_array_equal(getattr(part, name), getattr(result, name)[rows])
    assert (part.source, part.classes) == (result.source, result.classes)


def test_filter_and_iteration() -> None:
    result = _result()
    assert result[result.scores > 0.2].labels == ("helmet", "head")
    assert [one.texts for one in result] == [("Helmet",), ("head",), (None,)]
    assert list(result) == [result[0], result[1], result[2]]


@pytest.mark.parametrize("index", [[True, False], "all", 1.0, 3])
def test_an_index_that_fits_nothing_is_pythons_error(index: object) -> None:
    with pytest.raises(IndexError):
        _result()[index]  # type: ignore[index]


def test_an_empty_result_is_false_and_works_everywhere() -> None:
    empty = _result(
        xyxy=[], labels=[], class_ids=[], scores=[], loc_yxyx=[], edge_std=[], tracker_ids=[]
    )
    assert not empty
    assert _result()
    assert len(empty) == 0
    assert empty.loc_yxyx.shape == (0, 4)
    assert list(empty) == []
    assert empty == _result()[[]]
    assert repr(empty) == "DetectionResult(0 objects; 480x640; site.jpg#0)"


def test_equality_is_by_value_and_leaves_the_picture_out() -> None:
    assert _result() == _result()
    assert _result() == _result().with_image(np.zeros((480, 640, 3), np.uint8))
    assert _result() != _result(scores=[0.9, 0.25, 0.2])
    assert _result() != _result(scores=None)
    assert _result() != "result"
    with pytest.raises(TypeError, match="unhashable"):
        hash(_result())
    assert pickle.loads(pickle.dumps(_result())) == _result()


def test_repr_counts_by_name() -> None:
    result = _result(truncated=True, labels=["helmet", "head", "helmet"], class_ids=[0, 1, 0])
    shown = repr(result)
    assert shown == "DetectionResult(3 objects: 2 helmet, 1 head; 480x640; site.jpg#0; truncated)"
    assert repr(result[0]).startswith("DetectionResult(1 object: 1 helmet;")
    assert "unnamed" in repr(_result())
    long = repr(_result(labels=["웡" * 400] * len(_result())))
    assert "웡" * 60 in long and "웡" * 61 not in long


def test_trackers() -> None:
    tracked = _result().with_trackers([4, 5, -1])
    assert tracked.tracker_ids.tolist() == [4, 5, -1]
    with pytest.raises(ShapeError, match="tracker_ids"):
        _result().with_trackers([1])


def test_failure() -> None:
    failure = Failure(source="a.jpg", index=2, error=ImageError("0 bytes"))
    assert not failure.ok
    assert failure.to_dict() == {
        "type": "Failure",
        "source": "a.jpg",
        "index": 2,
        "error": "ImageError",
        "message": "0 bytes",
    }
    with pytest.raises(OptionError, match="PgvisionError"):
        Failure(source="a.jpg", index=0, error=ValueError("x"))  # type: ignore[arg-type]


def test_text_result() -> None:
    result = TextResult(image_hw=(4, 6), text="2")
    assert str(result) == "2"
    assert result.score is None
    for bad in ({"score": 1.5}, {"score": float("nan")}):
        with pytest.raises(OptionError, match=r"\[0, 1\]"):
            TextResult(image_hw=(4, 6), text="2", **bad)
    with pytest.raises(OptionError, match="text"):
        TextResult(image_hw=(4, 6), text=None)  # type: ignore[arg-type]
