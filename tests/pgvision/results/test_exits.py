"""Ways out of a result, against the libraries that read them."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pgvision.errors import DataError, OptionError, ShapeError
from pgvision.results import (
    Answer,
    DetectionResult,
    SegmentationResult,
    TextResult,
    result_from_dict,
)
from pgvision.tokens.parsing import Reject

_PICTURE = np.random.default_rng(1).integers(0, 255, (120, 160, 3), dtype=np.uint8)
_FIELDS: dict[str, Any] = {
    "image_hw": (120, 160),
    "xyxy": [[10, 20, 50, 60], [60.5, 30.25, 100, 90], [100, 0, 160, 120]],
    "labels": ["helmet", "Heads", "bucket"],
    "class_ids": [0, 1, -1],
    "classes": ["helmet", "head"],
    "scores": [0.9, 0.3, 0.1],
    "source": "site.jpg",
}


def _result(**changes: object) -> DetectionResult:
    return DetectionResult(**{**_FIELDS, **changes})


def _segmented(**changes: object) -> SegmentationResult:
    rows, columns = np.mgrid[-31.5:32, -31.5:32]
    disc = 28 - np.hypot(rows, columns)
    logits = np.stack([disc, disc - 10, np.abs(disc - 14) - 8]).astype(np.float32)
    codes = np.arange(48).reshape(3, 16)
    return SegmentationResult(**{**_FIELDS, "mask_logits": logits, "codes": codes, **changes})


def test_codes_are_numbers_of_the_codebook() -> None:
    assert _segmented(codes=np.full((3, 16), 127)).codes is not None
    for code in (-1, 128):
        with pytest.raises(ShapeError, match="codes"):
            _segmented(codes=np.full((3, 16), code))


def test_supervision_gets_every_object_and_field() -> None:
    result = _result(edge_std=[[1, 2, 3, 4]] * 3, tracker_ids=[4, 5, 6], prefix="detect helmet")
    found = result.to_supervision()
    np.testing.assert_array_equal(found.xyxy, result.xyxy)
    np.testing.assert_array_equal(found.confidence, result.scores)
    assert found.class_id.tolist() == [0, 1, -1]
    assert found.tracker_id.tolist() == [4, 5, 6]
    assert found["class_name"].tolist() == ["helmet", "head", "bucket"]
    assert found["text"].tolist() == ["helmet", "Heads", "bucket"]
    assert found["edge_std"].shape == (3, 4)
    assert found["prefix"].tolist() == ["detect helmet"] * 3
    found.xyxy[0] = 0  # supervision's users do
    assert result.xyxy[0, 0] == 10


@pytest.mark.parametrize("scores", [None, _FIELDS["scores"]])
def test_supervisions_own_tools_take_it(scores: list[float] | None) -> None:
    found = _result(scores=scores).to_supervision()
    assert (found.confidence is None) == (scores is None)
    assert len(found[found.class_id >= 0]) == 2
    assert len(sv.Detections.merge([found, _result().to_supervision()[:0], found])) == 6
    sv.BoxAnnotator(color_lookup=sv.ColorLookup.INDEX).annotate(_PICTURE.copy(), found)


def test_an_empty_result_goes_to_supervision() -> None:
    empty = _segmented()[[]].to_supervision()
    assert len(empty) == 0
    assert empty.mask.shape == (0, 120, 160)


def test_masks_are_made_once_and_travel_by_their_logits() -> None:
    result = _segmented()
    assert result.masks is result.masks
    assert result.area is result.area
    with pytest.raises(ValueError, match="read-only"):
        result.masks[0] = True
    packed = pickle.dumps(result)
    assert len(packed) < result.masks.nbytes + result.mask_logits.nbytes
    np.testing.assert_array_equal(pickle.loads(packed).masks, result.masks)


def test_supervision_gets_the_masks() -> None:
    result = _segmented()
    dense = result.to_supervision()
    np.testing.assert_array_equal(dense.mask, result.masks)
    assert dense.mask.sum(axis=(1, 2)).tolist() == result.area.tolist()
    assert dense["codes"].shape == (3, 16)


# pycocotools 2.0 asks numpy 2 for an array in the old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_results_load_in_pycocotools(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 7, "height": 120, "width": 160, "file_name": "site.jpg"}],
        "categories": [{"id": 1, "name": "helmet"}, {"id": 2, "name": "head"}],
        "annotations": [],
        "info": {},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    result = _segmented()
    listed = json.loads(json.dumps(result.to_coco(image_id=7)))
    loaded = COCO(str(tmp_path / "truth.json")).loadRes(listed)
    anns = loaded.loadAnns(loaded.getAnnIds(imgIds=[7]))
    assert [ann["category_id"] for ann in anns] == [1, 2]
    assert anns[1]["score"] == pytest.approx(0.3)
    for row, ann in enumerate(anns):
        decoded = coco_mask.decode(ann["segmentation"]).astype(bool)
        np.testing.assert_array_equal(decoded, result.masks[row])


def test_coco_boxes_are_xywh_and_ids_come_from_the_mapping() -> None:
    listed = _result().to_coco(image_id=3, category_ids={"helmet": 40, "head": 50, "bucket": 60})
    assert [each["category_id"] for each in listed] == [40, 50, 60]
    assert listed[1]["bbox"] == [60.5, 30.25, 39.5, 59.75]
    assert all(each["image_id"] == 3 for each in listed)
    with pytest.raises(DataError, match="'head'"):
        _result().to_coco(image_id=3, category_ids={"helmet": 40})


def test_coco_leaves_out_what_is_unknown_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pgvision"):
        listed = _result(scores=None).to_coco(image_id=1)
    assert len(listed) == 2
    assert not any("score" in each for each in listed)
    assert "1 of 3" in caplog.text


def test_yolo_lines_read_back_in_supervision(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), _PICTURE)
    (tmp_path / "labels" / "a.txt").write_text("\n".join(_result().to_yolo()) + "\n")
    (tmp_path / "data.yaml").write_text("names: [helmet, head]\nnc: 2\n")
    dataset = sv.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "images"),
        annotations_directory_path=str(tmp_path / "labels"),
        data_yaml_path=str(tmp_path / "data.yaml"),
    )
    ((_, _, found),) = list(dataset)
    np.testing.assert_allclose(found.xyxy, _result().xyxy[:2], atol=1e-3)
    assert found.class_id.tolist() == [0, 1]
    assert len(_result().to_yolo(scores=True)[0].split()) == 6
    with pytest.raises(OptionError, match="unknown"):
        _result(scores=None).to_yolo(scores=True)


def test_pandas_keeps_unknown_apart_from_zero() -> None:
    table = _result(time=1.5, tracker_ids=[1, 2, 3]).to_pandas()
    assert table["left"].tolist() == [10, 60.5, 100]
    assert table["label"].tolist() == ["helmet", "head", "bucket"]
    assert table["text"].tolist() == ["helmet", "Heads", "bucket"]
    assert table["time"].tolist() == [1.5] * 3
    blank = _result(scores=None).to_pandas()
    assert blank["score"].isna().all()
    assert blank["tracker_id"].isna().all()
    assert blank["left_std"].isna().all()
    assert blank["time"].isna().all()
    stacked = pd.concat([table, _segmented()[[]].to_pandas()[table.columns]])
    assert len(stacked) == 3
    assert _segmented().to_pandas()["area"].tolist() == _segmented().area.tolist()


def test_a_crop_holds_every_pixel_that_its_box_touches() -> None:
    picture = np.arange(120 * 160 * 3, dtype=np.uint32).astype(np.uint8).reshape(120, 160, 3)
    result = _result(xyxy=[[10.2, 5.9, 20.1, 9.5]] * 3)
    for cut in result.crops(picture):
        np.testing.assert_array_equal(cut, picture[5:10, 10:21])


def test_crops_round_outwards_and_copy() -> None:
    result = _result().with_image(_PICTURE)
    cut = result.crops()
    assert [each.shape[:2] for each in cut] == [(40, 40), (60, 40), (120, 60)]
    np.testing.assert_array_equal(cut[1], _PICTURE[30:90, 60:100])
    cut[0][:] = 0
    assert _PICTURE[20:60, 10:50].any()
    assert result.crops(padding=30)[0].shape[:2] == (90, 80)
    line = _result(xyxy=[[160, 120, 160, 120]] * 3).crops(_PICTURE)
    np.testing.assert_array_equal(line[0], _PICTURE[-1:, -1:])
    with pytest.raises(OptionError, match="padding"):
        result.crops(padding=-1)
    with pytest.raises(OptionError, match="image="):
        _result().crops()


_SCORE = st.floats(0, 1, width=32)


@st.composite
def results(draw: st.DrawFn) -> SegmentationResult:
    n = draw(st.integers(0, 3))
    corners = draw(hnp.arrays(np.float32, (n, 2, 2), elements=st.floats(0, 120, width=32)))
    scores = draw(st.none() | hnp.arrays(np.float32, n, elements=_SCORE))
    finite = st.floats(-(2.0**100), 2.0**100, width=32)
    return SegmentationResult(
        image_hw=(120, 160),
        xyxy=np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1),
        labels=draw(st.lists(st.none() | st.text(), min_size=n, max_size=n)),
        class_ids=[-1] * n,
        classes=draw(st.lists(st.text(), max_size=2)),
        scores=scores,
        mask_logits=np.broadcast_to(
            draw(hnp.arrays(np.float32, (n, 1, 1), elements=finite)), (n, 64, 64)
        ),
        raw_text=draw(st.text()),
        rejects=draw(st.lists(st.builds(Reject, st.text(), st.text(), st.just(0), st.just(3)))),
        presence=draw(st.none() | st.dictionaries(st.text(), _SCORE)),
        passes=draw(st.none() | st.integers(0, 500)),
        timings={"decode": draw(st.floats(0, 1e3))},
        time=draw(st.none() | st.floats(0, 1e6)),
        source=draw(st.none() | st.text()),
        frame_index=draw(st.integers(0, 10**9)),
    )


@given(results())
def test_json_round_trip_is_exact(result: SegmentationResult) -> None:
    back = result_from_dict(json.loads(result.to_json()))
    assert type(back) is SegmentationResult
    assert back == result
    assert "\n" not in result.to_json()


def test_text_and_detections_come_back_too() -> None:
    text = TextResult(image_hw=(4, 6), text="стоп", score=0.1)
    for result in (text, _result(tracker_ids=[1, 2, 3]), _result(edge_std=[[0.1] * 4] * 3)):
        assert result_from_dict(json.loads(result.to_json())) == result


def test_reading_back_refuses_what_is_broken() -> None:
    whole = _segmented().to_dict()
    for broken, hint in (
        ({"type": "Failure"}, "type must be"),
        ([], "list"),
        ({key: value for key, value in whole.items() if key != "xyxy"}, "xyxy"),
        (whole | {"scores": [0.5]}, "scores"),
        (whole | {"rejects": [{"text": "x"}]}, "reason"),
    ):
        with pytest.raises(DataError, match=hint):
            result_from_dict(broken)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="DetectionResult"):
        DetectionResult.from_dict(whole)


def test_plot_draws_on_a_copy_and_near_boxes_only() -> None:
    before = _PICTURE.copy()
    drawn = _result().plot(_PICTURE, labels=False, thickness=1)
    changed = (drawn != before).any(axis=2)
    np.testing.assert_array_equal(_PICTURE, before)
    assert changed[20, 10:50].mean() > 0.9
    assert not changed[25:55, 15:45].any()
    assert not changed[100:, :90].any()


def test_plot_choices_change_the_picture() -> None:
    result = _segmented(tracker_ids=[1, 1, 2]).with_image(_PICTURE)
    drawn = {
        choice: result.plot(**options).tobytes()
        for choice, options in {
            "all": {},
            "no boxes": {"boxes": False},
            "no labels": {"labels": False},
            "no scores": {"scores": False},
            "no masks": {"masks": False},
            "no contours": {"contours": False},
            "thick": {"thickness": 6},
            "tracks": {"color_by": "track"},
            "index": {"color_by": "index"},
        }.items()
    }
    assert len(set(drawn.values())) == len(drawn)
    bare = result.plot(boxes=False, labels=False, masks=False, contours=False)
    np.testing.assert_array_equal(bare, _PICTURE)


def test_plot_tints_exactly_the_mask() -> None:
    result = _segmented().with_image(np.zeros_like(_PICTURE))
    drawn = result.plot(boxes=False, labels=False, contours=False)
    np.testing.assert_array_equal(drawn.any(axis=2), result.masks.any(axis=0))


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({}, OptionError, "with_image"),
        ({"image": _PICTURE[:50]}, ShapeError, "BGR"),
        ({"image": _PICTURE, "color_by": "score"}, OptionError, "color_by"),
        ({"image": _PICTURE, "color_by": "track"}, OptionError, "with_trackers"),
        ({"image": _PICTURE, "thickness": 0}, OptionError, "thickness"),
    ],
)
def test_plot_refuses(options: dict[str, Any], error: type[Exception], hint: str) -> None:
    with pytest.raises(error, match=hint):
        _result().plot(**options)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".png", ".bmp", ".webp"])
def test_save_writes_the_plotted_picture(tmp_path: Path, ending: str) -> None:
    result = _segmented().with_image(_PICTURE)
    path = result.save(tmp_path / "new" / f"out{ending}")
    read = cv2.imread(str(path))
    assert read.shape == (120, 160, 3)
    if ending in (".png", ".bmp"):
        np.testing.assert_array_equal(read, result.plot())
    assert [each.name for each in path.parent.iterdir()] == [f"out{ending}"]


def test_save_json_needs_no_picture(tmp_path: Path) -> None:
    for result in (_result(), _segmented(), TextResult(image_hw=(4, 6), text="a")):
        path = result.save(tmp_path / "out.json")
        assert result_from_dict(json.loads(path.read_text(encoding="utf-8"))) == result


def test_save_refuses_other_endings_and_leaves_nothing(tmp_path: Path) -> None:
    text = TextResult(image_hw=(120, 160), text="a")
    for result in (_result(), text):
        with pytest.raises(OptionError, match=r"\.gif.*\.jpg"):
            result.save(tmp_path / "out.gif", image=_PICTURE)
        with pytest.raises(OptionError, match="image="):
            result.save(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []
    assert text.save(tmp_path / "a.txt").read_text(encoding="utf-8") == "a\n"
    assert cv2.imread(str(text.save(tmp_path / "a.png", image=_PICTURE))).shape[0] > 120


def test_an_answer_is_drawn_with_its_question() -> None:
    alone = TextResult(image_hw=(120, 160), text="4", prefix="caption en").plot(_PICTURE)
    asked = TextResult(image_hw=(120, 160), text="4", prefix="answer en how many?").plot(_PICTURE)
    assert asked.shape[0] > alone.shape[0]  # one line more
    blank = TextResult(image_hw=(120, 160), text="", prefix="ocr").plot(_PICTURE)
    assert (blank[120:] != blank[120, 0]).any()  # nothing read is said, not left blank


def test_notebooks_show_a_picture_only_where_there_is_a_picture() -> None:
    for result in (_result(), _segmented(), TextResult(image_hw=(120, 160), text="a")):
        assert result._repr_jpeg_() is None
        shown = result.with_image(_PICTURE)._repr_jpeg_()
        decoded = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[1] == 160


def test_common_fields_round_trip_on_the_base() -> None:
    answer = Answer(image_hw=(4, 6), rejects=(Reject("x", "no box", 0, 1),), truncated=True)
    assert Answer.from_dict(json.loads(answer.to_json())) == answer
