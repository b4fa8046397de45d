"""Results as files, tables, crops and windows; masks read back from run lengths."""

import csv
import json
import logging
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import supervision as sv

from pgvision.errors import DataError, DependencyError, ImageError, OptionError, ShapeError
from pgvision.results import (
    DetectionResult,
    Failure,
    SegmentationResult,
    TextResult,
    load_results,
    result_from_dict,
    save_results,
    to_table,
)

HW = (120, 160)
FIELDS = {
    "image_hw": HW, "xyxy": [[10, 20, 50, 60], [60.5, 30.25, 100, 90], [100, 0, 160, 120]],
    "labels": ["helmet", "head", "bucket"], "class_ids": [0, 1, -1], "classes": ["helmet", "head"],
    "scores": [0.9, 0.25, 0.5], "source": "site/a.jpg",
}  # fmt: skip
IMAGE = np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8)


def ring() -> np.ndarray:
    """Two parts, one with a hole."""
    logits = -np.ones((64, 64), np.float32)
    logits[4:40, 4:40] = 1
    logits[12:20, 12:30] = -1
    logits[50:60, 44:62] = 1
    return logits


def detected(**changes: object) -> DetectionResult:
    return DetectionResult(**FIELDS | changes)


def segmented(**changes: object) -> SegmentationResult:
    masks = np.stack([ring(), ring().T, -np.ones((64, 64))])
    return SegmentationResult(**FIELDS | {"mask_logits": masks} | changes)


def read_back(result: SegmentationResult) -> SegmentationResult:
    return result_from_dict(json.loads(result.to_json()))


def test_boxes_in_other_coordinates() -> None:
    result = detected()
    assert result.xywh.tolist()[1] == [60.5, 30.25, 39.5, 59.75]
    assert result.xyxyn[1].tolist() == pytest.approx([60.5 / 160, 30.25 / 120, 100 / 160, 0.75])
    assert result.xyxyn.dtype == result.xywh.dtype == np.float32
    assert detected(
        xyxy=[[0, 1.1, 160, 120], [2, 0, 160, 120], [0, 0, 158.5, 119]]
    ).whole_image.tolist() == [True, False, True]


def test_masks_from_a_file_are_the_same_without_logits() -> None:
    result, back = segmented(), read_back(segmented())
    assert back == result == back
    assert back.mask_logits is None
    np.testing.assert_array_equal(back.masks, result.masks)
    assert back.area.tolist() == result.area.tolist()
    assert back.rle() == result.rle()
    exact = [one.area for one in result.polygons(tolerance=0.0)]
    assert [one.area for one in result.polygons()] == exact == result.area.tolist()
    for one, other in zip(back.polygons(), result.polygons(), strict=True):
        assert one.equals(other)
    np.testing.assert_array_equal(back.plot(IMAGE), result.plot(IMAGE))
    assert back[[1, 2]] == result[[1, 2]]
    assert back[1:] != result[:2]
    assert read_back(back) == back
    assert len(result.to_json()) < 2500  # the logits alone took 65,000
    other = np.stack([ring(), ring(), -np.ones((64, 64))])
    assert back != segmented(mask_logits=other)
    assert result != segmented(mask_logits=other)


def test_run_lengths_of_any_form_are_checked() -> None:
    empty = {"size": [120, 160], "counts": [120 * 160]}
    result = segmented(mask_logits=None, mask_rle=[empty] * 3)
    assert result.area.tolist() == [0, 0, 0]
    assert result.to_yolo() == []
    for rles, hint in (
        (None, "one of the two"),
        ([empty] * 2, "each of 3 boxes"),
        ([empty, empty, {"size": [160, 120], "counts": [19200]}], r"mask_rle\[2\] RLE size"),
        ([empty, {"size": [120, 160], "counts": "04"}, empty], r"mask_rle\[1\] has runs over 4"),
    ):
        with pytest.raises(ShapeError, match=hint):
            segmented(mask_logits=None, mask_rle=rles)
    with pytest.raises(DataError, match="rle"):
        data = segmented().to_dict()
        result_from_dict({name: data[name] for name in data if name != "rle"})


def test_a_mask_that_leaves_its_box_is_kept() -> None:
    mask = np.zeros(HW, np.bool_)
    mask[5:9, 3:120] = True
    rle = {"size": list(HW), "counts": _runs(mask)}
    result = segmented(mask_logits=None, mask_rle=[rle] * 3)
    assert all((one == mask).all() for one in result.masks)


def _runs(mask: np.ndarray) -> list[int]:
    flat = mask.ravel("F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    ends = np.concatenate([[0], edges, [flat.size]])
    return np.diff(ends).tolist()


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_an_image_too_large_for_its_format_is_refused_and_the_old_file_stays(
    tmp_path: Path, ending: str
) -> None:
    width = 70_000
    wide = np.zeros((2, width, 3), np.uint8)
    result = detected(image_hw=(2, width), xyxy=np.zeros((3, 4)))
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"older")
    with pytest.raises(OptionError, match=f"70000 x 2 pixels cannot be written as {ending}"):
        result.save(path, image=wide)
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert result.save(tmp_path / "a.png", image=wide).stat().st_size > 0


def test_crops_are_files_by_label(tmp_path: Path) -> None:
    result = detected(labels=["a/b:c", "head", None], class_ids=[-1, 1, -1], frame_index=7)
    paths = result.save_crops(tmp_path / "crops", IMAGE, padding=2)
    names = [path.relative_to(tmp_path / "crops").as_posix() for path in paths]
    assert names == ["a-b-c/a.7.0.jpg", "head/a.7.1.jpg", "unnamed/a.7.2.jpg"]
    assert [cv2.imread(str(path)).shape[:2] for path in paths] == [(44, 44), (64, 44), (120, 62)]


def test_yolo_lines_of_masks_are_polygons_that_fill_the_mask(tmp_path: Path) -> None:
    result = segmented(class_ids=[1, 0, 0], scores=[0.5, 0.25, 1.0])
    path = result.save(tmp_path / "labels" / "a.txt")
    lines = path.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"]  # the third mask is empty
    for line, mask in zip(lines, result.masks, strict=False):
        points = np.array(line.split()[1:], float).reshape(-1, 2) * [160, 120]
        # supervision draws YOLO polygons with cv2.fillPoly, whose borders and bridges are a pixel.
        drawn = sv.polygon_to_mask(np.rint(points).astype(int), (160, 120)).astype(bool)
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        outer = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert drawn[inner].all()
        assert drawn[~outer].sum() < 40 < mask.sum() / 10
    with_scores = result.to_yolo(scores=True)
    assert [line.split()[-1] for line in with_scores] == ["0.500000", "0.250000"]
    assert (detected().save(tmp_path / "b.txt").read_text().splitlines()) == detected().to_yolo()
    for nothing in (detected()[[]], segmented()[[]]):  # a label file of an image without objects
        assert nothing.save(tmp_path / "c.txt").read_bytes() == b""


def test_many_results_in_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failure = Failure(source="b.jpg", index=0, error=ImageError("b.jpg: 0 bytes"))
    results = [segmented(time=1.5), failure, segmented()[[]], segmented(tracker_ids=[4, 5, -1])]
    path = save_results(iter(results), tmp_path / "all.jsonl")
    assert len(path.read_text().splitlines()) == 4
    assert list(load_results(path)) == [results[0], results[2], results[3]]
    with caplog.at_level(logging.WARNING, "pgvision"):
        table = pd.read_csv(save_results(results, tmp_path / "all.csv"))
        joined = to_table(results)
    assert caplog.text.count("1 images could not be read") == 2
    assert len(table) == len(joined) == 6
    for name in ("label", "score", "left", "bottom", "area", "class_id"):
        assert (
            table[name].tolist() == pytest.approx(joined[name].tolist(), rel=1e-6)
            if name != "label"
            else True
        )
    assert table["label"].tolist() == joined["label"].tolist() == ["helmet", "head", "bucket"] * 2
    assert joined["tracker_id"].isna().tolist() == [True] * 3 + [False] * 3
    assert table["right"][1] == 100
    texts = [TextResult(image_hw=HW, text='a "b",\nc', prefix="answer en why?", score=0.5)] * 2
    with save_results(texts, tmp_path / "texts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["text"] == 'a "b",\nc'
    assert rows[0]["question"] == "why?"
    assert to_table(texts)["score"].tolist() == [0.5, 0.5]
    with pytest.raises(OptionError, match="has other columns"):
        save_results([*texts, detected()], tmp_path / "mixed.csv")
    with pytest.raises(OptionError, match="a table: SegmentationResult has other columns"):
        to_table([detected(), segmented()])
    with pytest.raises(OptionError, match=r"\.jsonl, \.csv"):
        save_results([], tmp_path / "all.xlsx")
    assert {file.name for file in tmp_path.iterdir()} == {"all.jsonl", "all.csv", "texts.csv"}
    for broken in ('{"type": "TextResult"}\n', "[" * 100_000):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"all\.jsonl, line 1"):
            list(load_results(path))


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    name = "caf\udce9.jpg"
    failure = Failure(source=name, index=0, error=ImageError(f"{name}: broken"))
    path = save_results([detected(source=name), failure], tmp_path / "all.jsonl")
    good, bad = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert good["source"] == bad["source"] == "caf%E9.jpg"
    assert bad["message"] == "caf%E9.jpg: broken"


def test_supervision_merges_results_of_which_one_lacks_a_field() -> None:
    known = segmented(
        edge_std=np.ones((3, 4)), loc_yxyx=np.ones((3, 4), int), codes=np.ones((3, 16), int)
    )
    merged = sv.Detections.merge([known.to_supervision(), segmented().to_supervision()])
    assert len(merged) == 6
    assert np.isnan(merged["edge_std"]).sum() == 12
    assert (merged["loc_yxyx"][3:] == -1).all()
    assert (merged["codes"][:3] == 1).all()


def test_show_in_a_notebook_enlarges_and_elsewhere_needs_a_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[bytes] = []
    notebook = types.SimpleNamespace(
        get_ipython=lambda: types.SimpleNamespace(kernel=1),
        display=types.SimpleNamespace(display=shown.append, Image=lambda data: data),
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    for result in (detected(), TextResult(image_hw=HW, text="EXIT")):
        result.with_image(IMAGE).show()
    sizes = [cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape for data in shown]
    assert sizes[0] == (480, 640, 3)
    monkeypatch.delitem(sys.modules, "IPython")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(DependencyError, match=r"save\('out\.jpg'\)"):
        detected().show(IMAGE)
    with pytest.raises(OptionError, match="image="):
        detected().show()


class _Labels:
    """Stands for fiftyone.core.labels, which the development set-up does not install."""

    @staticmethod
    def Detection(**fields: object) -> dict[str, object]:  # noqa: N802
        return fields

    @staticmethod
    def Detections(detections: list[object]) -> list[object]:  # noqa: N802
        return detections


def test_fiftyone_gets_parts_of_width_and_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone.core.labels", _Labels)
    for result in (segmented(tracker_ids=[7, 8, 9]), read_back(segmented(tracker_ids=[7, 8, 9]))):
        first, second, _ = result.to_fiftyone()
        assert first["bounding_box"] == pytest.approx([10 / 160, 20 / 120, 40 / 160, 40 / 120])
        assert (second["label"], second["confidence"], second["index"]) == ("head", 0.25, 8)
        np.testing.assert_array_equal(second["mask"], result.masks[1][30:90, 60:100])
    found = detected(tracker_ids=[7, -1, -1]).to_fiftyone()  # -1: not tracked yet
    assert [one["index"] for one in found] == [7, None, None]
    (plain, *_) = detected(scores=None).to_fiftyone()
    assert "mask" not in plain
    assert plain["confidence"] is None


def test_tables_of_nothing(tmp_path: Path) -> None:
    failure = Failure(source="b.jpg", index=0, error=ImageError("b.jpg: 0 bytes"))
    assert len(to_table([])) == len(to_table([failure])) == 0
    # Images without objects give a header, which pandas needs.
    path = save_results([failure, detected()[[]]], tmp_path / "none.csv")
    assert list(pd.read_csv(path).columns) == list(detected().to_rows()[0])
    with pytest.raises(OptionError, match="SegmentationResult has other columns"):
        save_results([detected(), segmented()], tmp_path / "mixed.csv")


def test_files_that_are_no_results_are_named(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(detected().to_json(), encoding="utf-8-sig")
    assert list(load_results(path)) == [detected()]
    path.write_bytes(b'{"type": "Failure", "source": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"all\.jsonl, line 1"):
        list(load_results(path))
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read: No such file"):
        list(load_results(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="type must be one of"):
        result_from_dict({"type": []})


@pytest.mark.parametrize("change", [{"timings": [1]}, {"presence": 3}, {"time": 10**400}])
def test_wrong_numbers_in_a_file_are_named(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        result_from_dict(detected().to_dict() | change)


def test_crops_of_images_of_one_name_are_all_kept(tmp_path: Path) -> None:
    paths = []
    for shade, source in ((10, "a/1.jpg"), (90, "b/1.jpg"), (200, "c/1.png")):
        image = np.full((*HW, 3), shade, np.uint8)
        paths += detected(source=source)[[0]].save_crops(tmp_path, image)
    assert [path.name for path in paths] == ["1.0.0.jpg", "1.0.0-2.jpg", "1.0.0-3.jpg"]
    assert [round(cv2.imread(str(path)).mean(), -1) for path in paths] == [10, 90, 200]


def test_crops_of_long_names_can_be_written(tmp_path: Path) -> None:
    result = detected(
        source="\u5199" * 83 + ".jpg", labels=["\u5199" * 200] * 3, class_ids=[-1] * 3
    )
    assert all(path.is_file() for path in result.save_crops(tmp_path, IMAGE))


def test_text_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    # A Latin-1 command line gives lone surrogates, and so may the JSON of a server.
    named = {"labels": ["caf\udce9", "x", "y"], "class_ids": [-1] * 3, "prefix": "detect caf\udce9"}
    for result in (detected(**named), TextResult(image_hw=HW, text="caf\udce9", raw_text="\ud83d")):
        for name in ("a.json", "a.txt"):
            result.save(tmp_path / name)
        path = save_results([result], tmp_path / "all.jsonl")
        assert "caf%E9" in path.read_text(encoding="utf-8")
        path = save_results([result], tmp_path / "all.csv")
        assert "caf%E9" in path.read_text(encoding="utf-8")
        assert "caf%E9" in result.to_json()


def test_ids_of_arrays_are_plain_numbers() -> None:
    (entry, *_) = detected().to_coco(image_id=np.int64(7))
    assert json.loads(json.dumps(entry))["image_id"] == 7
    with pytest.raises(OptionError, match="image_id must be a whole number, got 'a.jpg'"):
        detected().to_coco(image_id="a.jpg")
