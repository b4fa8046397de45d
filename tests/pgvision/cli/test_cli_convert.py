"""`pgvision convert` says what it leaves out, and its exit code tells."""

import json

import pytest
from PIL import Image


def put(folder, annotations, **more):
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "helmet"}],
        "annotations": annotations,
        **more,
    }
    (folder / "x.json").write_text(json.dumps(data))
    return folder / "x.json"


def box(number=1, **more):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], **more}


@pytest.mark.parametrize("target", ["out.json", "out.jsonl", "yolo"])
def test_nothing_is_said_and_the_code_is_0_where_nothing_is_lost(run, tmp_path, target):
    source = put(tmp_path, [box(area=400, iscrowd=0)])
    ran = run("convert", source, tmp_path / target, *(["--to", "yolo"] * (target == "yolo")))
    assert ran.code == 0
    lines = [line for line in ran.err.splitlines() if "read back" not in line]
    assert lines[-1].endswith("1 images, 1 objects")
    # YOLO needs the key 'val', and there is one part only.
    assert len(lines) == 1 + (target == "yolo")


@pytest.mark.parametrize("target", ["out.jsonl", "yolo"])
def test_objects_that_a_format_cannot_hold_are_counted_and_the_code_is_1(run, tmp_path, target):
    source = put(tmp_path, [box(), box(2, iscrowd=1), box(3, iscrowd=1)])
    ran = run("convert", source, tmp_path / target, *(["--to", "yolo"] * (target == "yolo")))
    assert ran.code == 1
    assert "1 images, 1 objects" in ran.err
    assert "lost: 2 crowd regions were left out" in ran.err
    assert "a.png annotation 2" in ran.err


def test_what_a_reader_leaves_out_is_said_and_the_code_is_1(run, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    asked = [("detect cat", "<loc0000><loc0000><loc0512><loc0512> cat")]
    asked += [("caption en", str(number)) for number in range(5)]
    lines = [{"image": "a.png", "prefix": prefix, "suffix": suffix} for prefix, suffix in asked]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = run("convert", tmp_path / "a.jsonl", tmp_path / "out.json")
    assert ran.code == 1
    assert "left-out: 5 (a.png: " in ran.err
    assert len(ran.err.splitlines()) == 2
    # The JSON report lacked what the reader left out.
    (report,) = run("convert", tmp_path / "a.jsonl", tmp_path / "out.json", "--json").lines
    assert [finding["rule"] for finding in report["findings"]] == ["left-out"] * 5


def test_classes_of_one_part_are_selected_and_renamed_in_it(run, tmp_path):
    """They were refused as unknown where another part of the data set lacks them."""
    for part, names in (("train", ("helmet", "head")), ("valid", ("helmet",))):
        (tmp_path / part).mkdir()
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        put(tmp_path / part, [box(category_id=len(names))], categories=categories)
    words = ("--to", "coco", "--classes", "head", "--classes", "helmet")
    ran = run("convert", tmp_path, tmp_path / "out", *words, "--rename", "head=person")
    assert (ran.code, "2 images, 2 objects" in ran.err) == (0, True), ran.err
    train, valid = (
        json.loads((tmp_path / f"out/{n}.json").read_text()) for n in ("train", "valid")
    )
    assert [entry["name"] for entry in train["categories"]] == ["helmet", "person"]
    assert [entry["name"] for entry in valid["categories"]] == ["helmet"]
    for wrong in (("--classes", "vest"), ("--rename", "vest=x")):
        ran = run("convert", tmp_path, tmp_path / "other", "--to", "coco", *wrong)
        assert (ran.code, "'vest' not in the data set" in ran.err) == (2, True)


def test_eval_says_what_is_not_in_the_truth(run, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    asked = [("detect helmet", "<loc0000><loc0000><loc0512><loc0512> helmet"), ("ocr", "EXIT")]
    lines = [{"image": "a.png", "prefix": prefix, "suffix": suffix} for prefix, suffix in asked]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    ran = run("eval", "--data", tmp_path / "a.jsonl", "--out", out, "--worst", 0, "--json")
    assert ran.code == 0
    assert "left-out: 1 (a.png: " in ran.err


def test_mends_are_said_and_no_failure(run, tmp_path):
    ran = run("convert", put(tmp_path, [box(iscrowd=0.0, category_id=1.0)]), tmp_path / "o.json")
    assert ran.code == 0
    assert "mended: whole numbers written as 1.0: 1 (first: annotations[0]" in ran.err


def test_pictures_that_are_not_there_to_be_copied_end_with_1(run, tmp_path):
    source = put(tmp_path, [box()])
    (tmp_path / "a.png").unlink()
    ran = run("convert", source, tmp_path / "yolo", "--to", "yolo")
    assert ran.code == 1
    assert "missing-file: 1 (a.png: " in ran.err


def test_a_broken_file_is_refused_with_a_way_to_see_all_of_it(run, tmp_path):
    source = put(tmp_path, [box(n, image_id=9) for n in range(1, 9)])
    ran = run("convert", source, tmp_path / "out.json")
    assert ran.code != 0
    assert "8 problems" in ran.err
    assert not (tmp_path / "out.json").exists()
    listed = run("convert", source, "--check", "--json")
    assert listed.code == 1
    found = [one for one in listed.lines[0]["findings"] if one["rule"] == "broken-entry"]
    assert len(found) == 8


def test_figures_that_are_not_known_are_not_printed(run, tmp_path):
    ran = run("convert", put(tmp_path, [box()]), tmp_path / "o.jsonl")
    assert "None" not in ran.err
    assert "mask" not in ran.err


def test_classes_are_selected_and_renamed_and_broken_entries_skipped(run, tmp_path):
    source = put(tmp_path, [box(), box(2, bbox=[1, 2, -3, 4])])
    ran = run(
        "convert", source, tmp_path / "o.json", "--skip-broken", "--rename", "helmet=hard hat"
    )
    assert ran.code == 1  # an entry was left out, and is named
    assert "annotations[1].bbox" in ran.err
    held = json.loads((tmp_path / "o.json").read_text())
    assert len(held["annotations"]) == 1
    assert "hard hat" in [one["name"] for one in held["categories"]]
    for bad in (["--rename", "helmet"], ["--rename", "x=y"], ["--classes", "x"]):
        assert run("convert", source, tmp_path / "p.json", "--skip-broken", *bad).code == 2
