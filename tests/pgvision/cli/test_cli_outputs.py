"""Where results go: lines, files, pictures, COCO."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pgvision.batch import KnownIds
from pgvision.cli.outputs import (
    OverlayNames,
    coco_file,
    describe,
    draw_result,
    images,
    json_lines_file,
    printed,
)
from pgvision.errors import DataError, ImageError
from pgvision.results import (
    DetectionResult,
    Failure,
    SegmentationResult,
    TextResult,
    result_from_dict,
)

FAILURE = Failure(source="b.jpg", index=0, error=ImageError("b.jpg: 0 bytes"))


def detection(source="in/a.jpg", **changes):
    fields = {
        "image_hw": (40, 60),
        "xyxy": [[1, 2, 11, 22], [30, 5, 50, 25]],
        "scores": [0.75, 0.5],
        "labels": ["helmet", "head"],
        "class_ids": [0, 1],
        "classes": ["helmet", "head"],
        "source": source,
    }
    return DetectionResult(**(fields | changes))


def test_json_lines_hold_results_and_failures(capsys):
    result = detection()
    with printed(as_json=True) as write:
        write(result)
        write(FAILURE)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert result_from_dict(first) == result
    assert second["message"] == "b.jpg: 0 bytes"


def test_plain_lines_name_what_was_found(capsys):
    with printed(as_json=False) as write:
        write(detection())
        write(FAILURE)
    assert capsys.readouterr().out == "in/a.jpg: 1 helmet (0.75), 1 head (0.50)\n"


def test_unknown_scores_are_not_shown_as_numbers():
    assert describe(detection(scores=None)) == "1 helmet, 1 head"
    assert describe(detection()[:0]) == "nothing found"


def test_jsonl_file_has_each_answer_at_once_and_keeps_them_after_an_error(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(ZeroDivisionError), json_lines_file(path) as write:
        for count in (1, 2):
            write(detection())
            lines = path.read_text(encoding="utf-8").splitlines()
            assert [result_from_dict(json.loads(line)) for line in lines] == [detection()] * count
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8").count("\n") == 2


def test_a_full_disk_names_the_file(capsys):
    """Closing the file raised a second error, without its name, in place of the first."""
    full = pytest.raises(OSError, match="No space left on device: '/dev/full'")
    with full, json_lines_file(Path("/dev/full")) as write:
        write(detection())
    assert "wrote" not in capsys.readouterr().err


def test_an_image_too_large_for_a_jpeg_costs_its_own_overlay(tmp_path, capsys):
    names, wide = OverlayNames(tmp_path), np.zeros((2, 65_501, 3), np.uint8)
    with images(names, lambda result: wide if result.source == "a" else wide[:, :9]) as write:
        write(detection("a"))
        write(detection("b"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.overlay.jpg"]
    assert "a.overlay.jpg: not written" in capsys.readouterr().err


@pytest.mark.parametrize("letter", ["x", "ä", "☃"])
def test_overlays_of_long_names_have_shorter_ones(tmp_path, letter):
    names = OverlayNames(tmp_path)
    for count in (250 // len(letter.encode()), 249 // len(letter.encode())):
        path = names.path_for(letter * count + ".png", ".jpg")
        path.touch()
    assert len(list(tmp_path.iterdir())) == 2


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    image = np.full((40, 60, 3), 200, np.uint8)
    with images(OverlayNames(tmp_path), draw_result) as write:
        for source in ("one/a.jpg", "two/a.jpg"):
            write(detection(source).with_image(image))
        write(detection("film.mp4", time=0.5).with_image(image))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.overlay.jpg", "a.overlay.jpg"]
    assert cv2.imread(str(tmp_path / "a.overlay.jpg")).shape == (40, 60, 3)


@pytest.mark.parametrize("source", ["camera:0", "rtsp://host/stream", "folder/", "", ".."])
def test_overlay_names_are_plain_file_names(source):
    path = OverlayNames(Path("out")).path_for(source, ".jpg")
    assert path.parent == Path("out")
    assert ":" not in path.name


def test_coco_file_stands_on_its_own(tmp_path, capsys):
    path = tmp_path / "found.json"
    with coco_file(path, None) as write:
        write(detection("in/a.jpg"))
        write(FAILURE)
        write(detection("film.mp4", time=0.5, frame_index=12)[:1])
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["in/a.jpg", "film.mp4#12"]
    assert {row["name"]: row["id"] for row in coco.cats.values()} == {"helmet": 1, "head": 2}
    boxes = [(a["image_id"], a["category_id"], a["bbox"], a["score"]) for a in coco.anns.values()]
    assert boxes == [
        (1, 1, [1, 2, 10, 20], 0.75),
        (1, 2, [30, 5, 20, 20], 0.5),
        (2, 1, [1, 2, 10, 20], 0.75),
    ]
    assert [a["area"] for a in coco.anns.values()] == [200, 400, 200]


def test_coco_file_names_pictures_relative_to_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/film.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with coco_file(Path("out/found.json"), None) as write:
        write(detection("in/a.jpg"))
        write(detection("in/film.mp4", time=0.5, frame_index=12))
        write(detection("camera:0"))
    images = json.loads((tmp_path / "out" / "found.json").read_text())["images"]
    assert [one["file_name"] for one in images] == ["../in/a.jpg", "../in/film.mp4#12", "camera:0"]


def test_coco_ids_go_by_the_folders_too(tmp_path, capsys):
    names = {11: "a/1.jpg", 12: "b/1.jpg", 13: "deep\\c\\2.jpg", 14: "3.jpg"}
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    truth = {"images": images, "categories": [{"id": 5, "name": "helmet"}]}
    # as Windows editors write it
    (tmp_path / "truth.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(truth).encode())
    with coco_file(tmp_path / "found.json", KnownIds(tmp_path / "truth.json")) as write:
        for source in ("p/b/1.jpg", "p/a/1.jpg", "/root/deep/c/2.jpg", "x/3.jpg"):
            write(detection(source)[:1])
        with pytest.raises(DataError, match=r"may be any of 'a/1\.jpg', 'b/1\.jpg'"):
            write(detection("p/c/1.jpg"))
        with pytest.raises(DataError, match=r"y/3\.jpg and x/3\.jpg would both be '3\.jpg'"):
            write(detection("y/3.jpg"))
    records = json.loads((tmp_path / "found.json").read_text())
    assert [record["image_id"] for record in records] == [12, 11, 13, 14]


def test_coco_file_has_masks_with_their_own_area(tmp_path, capsys):
    logits = np.full((1, 64, 64), -1.0, np.float32)
    logits[:, :, :32] = 1.0
    result = SegmentationResult(
        image_hw=(40, 60),
        xyxy=[[0, 0, 20, 20]],
        labels=["helmet"],
        class_ids=[0],
        classes=["helmet"],
        mask_logits=logits,
        source="a.jpg",
    )
    path = tmp_path / "found.json"
    with coco_file(path, None) as write:
        write(result)
    coco = COCO(str(path))
    mask = coco.annToMask(coco.anns[1]).astype(bool)
    assert (mask == result.masks[0]).all()
    assert coco.anns[1]["area"] == mask.sum()


def test_coco_ids_come_from_an_annotation_file(tmp_path, capsys):
    truth = {
        "images": [{"id": 70, "file_name": "images/a.jpg"}],
        "categories": [{"id": 9, "name": "head"}, {"id": 4, "name": "helmet"}],
    }
    ids = tmp_path / "truth.json"
    ids.write_text(json.dumps(truth))
    path = tmp_path / "found.json"
    with coco_file(path, KnownIds(ids)) as write:
        write(detection("somewhere/a.jpg"))
    records = json.loads(path.read_text())
    assert [(r["image_id"], r["category_id"]) for r in records] == [(70, 4), (70, 9)]


def test_coco_ids_refuse_a_picture_that_is_not_in_the_file(tmp_path, capsys):
    ids = tmp_path / "truth.json"
    ids.write_text(json.dumps({"images": [], "categories": []}))
    with (
        pytest.raises(DataError, match=r"a\.jpg"),
        coco_file(tmp_path / "found.json", KnownIds(ids)) as write,
    ):
        write(detection())
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}', None])
def test_coco_ids_refuse_what_is_no_coco_file(tmp_path, text):
    ids = tmp_path / "truth.json"
    if text is not None:
        ids.write_text(text)
    with pytest.raises(DataError, match=r"truth\.json"):
        coco_file(tmp_path / "found.json", KnownIds(ids))


def test_a_text_without_known_score_is_shown_bare():
    assert describe(TextResult(image_hw=(4, 6), text="EXIT")) == "EXIT"


def test_all_answers_that_were_asked_for_are_shown_and_an_empty_one_is_said():
    best = TextResult(image_hw=(4, 6), text="4", score=0.5, alternatives=[("4", 0.5), ("3", 0.25)])
    assert describe(best) == "4  (0.50); 3  (0.25)"
    assert describe(TextResult(image_hw=(4, 6), text="", score=1.0)) == "(nothing)  (1.00)"


def test_what_nobody_asked_for_is_no_find():
    strange = detection(labels=["truck", "helmet"], class_ids=[-1, 0])
    assert describe(strange) == "1 helmet (0.50); not asked for: 1 truck (0.75)"
    assert describe(strange[:1]) == "nothing found; not asked for: 1 truck (0.75)"


def test_tracks_are_told_apart_where_there_are_some():
    blank = np.zeros((40, 60, 3), np.uint8)
    both = detection(labels=["helmet"] * 2, class_ids=[0, 0]).with_image(blank)
    tracked = both.with_trackers([4, 5])
    assert (draw_result(tracked) == tracked.plot(color_by="track")).all()
    assert (draw_result(tracked, color_by="class") == tracked.plot(color_by="class")).all()
    assert (draw_result(both, color_by="track") == both.plot(color_by="class")).all()
