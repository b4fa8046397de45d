"""The linter: each fault is found once, by its name, and a good set is passed."""

import io
import json

import pytest
from PIL import Image
from rich.console import Console

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ExampleOptions,
    ImageRecord,
    Rle,
    check_dataset,
    read_dataset,
)

HELMET = (Category(3, "helmet"),)


def image_at(folder, name, shade=0, size=(64, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 0)).save(folder / name)
    return folder / name


def shot(folder, number=1, *objects, shade=None, name=None):
    name = name or f"{number}.png"
    path = image_at(folder, name, number if shade is None else shade)
    return ImageRecord(number, name, path, (48, 64), objects)


def box(number, *xywh, **more):
    return Annotation(number, more.pop("category_id", 3), xywh, **more)


GOOD = box(1, 4, 4, 20, 20)


def errors(data, **options):
    return [finding.rule for finding in check_dataset(data, **options).errors]


def warnings(data, **options):
    found = check_dataset(data, **options).findings
    return [finding.rule for finding in found if finding.level == "warning"]


def test_a_good_set_is_passed(tmp_path):
    report = check_dataset(Dataset((shot(tmp_path, 1, GOOD),), HELMET))
    assert report.ok
    assert report.findings == ()
    assert (report.num_images, report.num_objects) == (1, 1)


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        (box(2, 60, 4, 20, 20), "box-outside"),
        (box(2, -1, 4, 20, 20), "box-outside"),
        (box(2, 200, 4, 20, 20), "box-outside"),
        (box(2, 9, 9, 0, 20), "box-degenerate"),
        (box(2, 9, 9, 20, -3), "box-degenerate"),
        (box(2, 4, 4, 20, 20), "duplicate-object"),
        (box(2, 9, 9, 9, 9, segmentation=Rle((48, 64), (48 * 64,))), "mask-empty"),
        (box(2, 9, 9, 9, 9, segmentation=Rle((48, 64), "3")), "mask-broken"),
    ],
)
def test_broken_objects(tmp_path, item, rule):
    report = check_dataset(Dataset((shot(tmp_path, 1, GOOD, item),), HELMET))
    assert [(finding.rule, finding.where) for finding in report.errors] == [(rule, "1.png")]
    assert "annotation 2 (helmet)" in report.errors[0].message


def test_rounding_at_the_border_and_two_classes_in_one_place_are_fine(tmp_path):
    two = (*HELMET, Category(4, "head"))
    other = box(2, 4, 4, 20, 20, category_id=4)
    edge = box(3, 0.004, 0, 64, 48)
    assert errors(Dataset((shot(tmp_path, 1, GOOD, other, edge),), two)) == []


def test_masks_are_asked_for_only_by_a_segmentation_task(tmp_path):
    data = Dataset((shot(tmp_path, 1, GOOD),), HELMET)
    assert errors(data, options=ExampleOptions(task="segment")) == ["mask-missing"]


def test_files(tmp_path):
    lost = ImageRecord(1, "lost.png", tmp_path / "lost.png", (48, 64), (GOOD,))
    (tmp_path / "text.png").write_text("no picture")
    text = ImageRecord(2, "text.png", tmp_path / "text.png", (48, 64))
    turned = ImageRecord(3, "t.png", image_at(tmp_path, "t.png", 9, (48, 64)), (48, 64))
    found = check_dataset(Dataset((lost, text, turned), HELMET)).errors
    assert [(finding.rule, finding.where) for finding in found] == [
        ("missing-file", "lost.png"),
        ("unreadable-image", "text.png"),
        ("size-mismatch", "t.png"),
    ]


def test_a_file_of_several_pages_is_reported(tmp_path):
    pages = [Image.new("RGB", (64, 48), (shade, 0, 0)) for shade in (10, 120, 240)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    image = ImageRecord(1, "scan.tif", tmp_path / "scan.tif", (48, 64), (GOOD,))
    (found,) = check_dataset(Dataset((image,), HELMET)).findings
    assert (found.rule, found.level) == ("several-frames", "warning")
    assert "3 pages" in found.message


def test_a_camera_picture_lying_on_its_side_has_its_shown_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(tmp_path / "a.jpg", exif=exif)
    data = Dataset((ImageRecord(1, "a.jpg", tmp_path / "a.jpg", (48, 64), (GOOD,)),), HELMET)
    assert errors(data) == []


@pytest.mark.parametrize("name", ["a ; b", "a;b", "<loc0001>", "a<b", " hat", "hat\n", ";"])
def test_names_that_break_prompts(tmp_path, name):
    data = Dataset((shot(tmp_path, 1, GOOD),), (Category(3, name),))
    found = [finding for finding in check_dataset(data).errors if finding.rule == "class-name"]
    assert [finding.where for finding in found] == [name]


def test_names_that_a_prompt_cannot_tell_apart(tmp_path):
    names = (Category(3, "Hard Hat"), Category(4, "hard hat"))
    other = box(2, 30, 4, 20, 20, category_id=4)
    assert errors(Dataset((shot(tmp_path, 1, GOOD, other),), names)) == ["class-name"]


def test_what_should_be_known(tmp_path):
    crowd = box(2, 0, 0, 64, 48, iscrowd=True)
    tiny = box(3, 9, 9, 0.01, 9)
    first = shot(tmp_path, 1, GOOD, crowd, tiny)
    data = Dataset((first, shot(tmp_path, 2)), (*HELMET, Category(4, "head")))
    assert sorted(warnings(data)) == ["box-tiny", "crowd", "empty-image", "unused-category"]
    assert check_dataset(data).ok
    nothing = Dataset((shot(tmp_path, 1),), HELMET)
    assert errors(nothing) == ["no-annotations"]


def test_copies_inside_a_split_warn_and_between_splits_fail(tmp_path):
    first = shot(tmp_path / "a", 1, GOOD, shade=50)
    twin = shot(tmp_path / "a", 2, box(2, 4, 4, 9, 9), shade=50, name="twin.png")
    assert warnings(Dataset((first, twin), HELMET)) == ["duplicate-image"]
    parts = {
        "train": Dataset((first,), HELMET),
        "val": Dataset((shot(tmp_path / "b", 1, GOOD, shade=50, name="other.png"),), HELMET),
    }
    found = check_dataset(parts).errors
    assert [(f.rule, f.split, f.where) for f in found] == [("leakage", "val", "other.png")]
    assert "1.png in split 'train'" in found[0].message


def test_splits_with_other_categories(tmp_path):
    parts = {
        "train": Dataset((shot(tmp_path, 1, GOOD),), HELMET),
        "val": Dataset((shot(tmp_path, 2, GOOD),), (Category(3, "head"),)),
    }
    assert errors(parts) == ["categories-differ"]


def test_the_report_is_json_and_a_table_with_names_as_they_are(tmp_path):
    data = Dataset((shot(tmp_path, 1, GOOD, box(2, 60, 4, 20, 20)),), (Category(3, "a[b]<c"),))
    report = check_dataset(data)
    back = json.loads(report.to_json())
    assert back["ok"] is False
    assert {row["rule"]: row["count"] for row in back["counts"]}["box-outside"] == 1
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "box-outside" in text
    assert "a[b]<c" in text
    assert "1 images, 2 objects" in text


def test_what_a_reader_left_out_is_in_the_report(tmp_path):
    (tmp_path / "labels").mkdir()
    image_at(tmp_path / "images", "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels" / "gone.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "classes.txt").write_text("helmet")
    assert errors(read_dataset(tmp_path)) == ["missing-file"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.gif"])
def test_files_that_are_cut_are_unreadable(tmp_path, name):
    pages = [Image.effect_noise((64, 48), 50) for _ in range(3)]
    more = {"save_all": True, "append_images": pages[1:]} if name[-3:] in ("tif", "gif") else {}
    for share in (0.3, 0.5, 0.7):
        pages[0].save(tmp_path / name, **more)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(share * len(data))])
        record = ImageRecord(1, name, tmp_path / name, (48, 64), (GOOD,))
        found = errors(Dataset((record,), HELMET))
        # The first page of a TIFF and the first frames of a GIF may be whole.
        assert found == ["unreadable-image"] or (more and found == [])
