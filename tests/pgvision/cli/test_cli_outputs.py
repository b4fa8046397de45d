"""Where results go: lines, files, pictures, COCO."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pgvision.cli.outputs import (
    OverlayNames,
    coco_file,
    describe,
    draw_result,
    images,
    json_lines_file,
    printed,
)
from pgvision.errors import ImageError
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
    with images(OverlayNames(tmp_path)) as write:
        for source, width in (("a", 65_501), ("b", 60)):
            image = np.zeros((40, width, 3), np.uint8)
            write(detection(source, image_hw=image.shape[:2]).with_image(image))
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
    with images(OverlayNames(tmp_path)) as write:
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
    with coco_file(path) as write:
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
    with coco_file(Path("out/found.json")) as write:
        write(detection("in/a.jpg"))
        write(detection("in/film.mp4", time=0.5, frame_index=12))
        write(detection("camera:0"))
    images = json.loads((tmp_path / "out" / "found.json").read_text())["images"]
    assert [one["file_name"] for one in images] == ["../in/a.jpg", "../in/film.mp4#12", "camera:0"]


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
    with coco_file(path) as write:
        write(result)
    coco = COCO(str(path))
    mask = coco.annToMask(coco.anns[1]).astype(bool)
    assert (mask == result.masks[0]).all()
    assert coco.anns[1]["area"] == mask.sum()


def test_a_text_without_known_score_is_shown_bare():
    assert describe(TextResult(image_hw=(4, 6), text="EXIT")) == "EXIT"


def test_an_answer_is_shown_with_its_score_and_an_empty_one_is_said():
    assert describe(TextResult(image_hw=(4, 6), text="4", score=0.5)) == "4  (0.50)"
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
    assert (draw_result(both) == both.plot(color_by="class")).all()
