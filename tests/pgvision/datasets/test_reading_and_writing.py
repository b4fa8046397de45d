"""Formats told apart, parts named, and nothing half-written left behind."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ExampleOptions,
    ImageRecord,
    detect_format,
    merge_datasets,
    plot_truth,
    read_dataset,
    read_evaluation_part,
    read_splits,
    truth_result,
    write_dataset,
)
from pgvision.datasets.formats import has_objects
from pgvision.datasets.writing import compare_datasets
from pgvision.errors import DataError, OptionError, SourceError

HELMET = (Category(3, "helmet"),)


def dataset(folder, name="a.png", number=7):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(folder / name)
    box = Annotation(number, 3, (4.0, 5.0, 20.0, 10.0))
    return Dataset((ImageRecord(number, name, folder / name, (48, 64), (box,)),), HELMET)


@pytest.mark.parametrize("name", ["coco", "yolo", "jsonl"])
@pytest.mark.parametrize("images", ["copy", "link"])
def test_a_written_folder_is_told_and_read(tmp_path, name, images):
    before = dataset(tmp_path / "src", "sub/a.png")
    report = write_dataset(before, tmp_path / "out", format=name, images=images)
    assert (report.num_images, report.num_objects) == (1, 1)
    assert detect_format(tmp_path / "out") == name
    after = read_dataset(tmp_path / "out")
    image = after.images[0]
    assert (image.file_name, image.image_hw) == ("sub/a.png", (48, 64))
    assert image.path.read_bytes() == before.images[0].path.read_bytes()
    assert image.path.is_symlink() == (images == "link")
    assert image.path.is_relative_to(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["coco", "yolo", "jsonl"])
@pytest.mark.parametrize("given", ["sub\\a.png", "C:\\photos\\sub\\a.png"])
def test_names_of_windows_become_folders(tmp_path, name, given):
    before = dataset(tmp_path / "src", "sub/a.png")
    named = replace(before, images=(replace(before.images[0], file_name=given),))
    write_dataset(named, tmp_path / "out", format=name, images="copy")
    (image,) = read_dataset(tmp_path / "out").images
    assert image.file_name == ("sub/a.png" if given[0] == "s" else "a.png")


@pytest.mark.parametrize(
    ("box", "is_cut"),
    [
        ((4, 5, 60, 43), False),
        ((4, 5, 61, 10), True),
        ((4, 5, 10, 45), True),
        ((-1, 5, 9, 9), True),
    ],
)
def test_objects_that_are_cut_at_the_border_are_counted(tmp_path, box, is_cut):
    before = dataset(tmp_path / "src")  # 64 wide, 48 high
    one = replace(before.images[0], objects=(Annotation(1, 3, tuple(map(float, box))),))
    report = write_dataset(replace(before, images=(one,)), tmp_path / "out", format="yolo")
    assert any("cut at the border" in found.message for found in report.findings) == is_cut


@pytest.mark.parametrize("name", ["coco", "yolo", "jsonl"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path, name, kind):
    """As boxes of results have them: COCO raised a bare TypeError, YOLO a DataError."""
    before = dataset(tmp_path / "src")
    number = np.int64(7)
    box = Annotation(number, 3, tuple(map(kind, (4, 5, 20, 10))), extra={"score": kind(0.5)})
    hw = (np.int64(48), np.int64(64))
    image = replace(before.images[0], id=number, image_hw=hw, objects=(box,))
    write_dataset(replace(before, images=(image,)), tmp_path / "out", format=name)
    (item,) = read_dataset(tmp_path / "out").images[0].objects
    assert item.xywh == pytest.approx((4, 5, 20, 10), abs=0.1)
    if name == "coco":
        assert item.extra == {"score": 0.5}
        bad = replace(box, extra={"score": kind("nan")})
        with pytest.raises(DataError, match="not finite"):
            write_dataset(
                replace(before, images=(replace(image, objects=(bad,)),)),
                tmp_path / "bad.json",
                format=name,
            )


@pytest.mark.parametrize("name", ["coco", "yolo", "jsonl"])
def test_splits_become_parts(tmp_path, name):
    parts = {"train": dataset(tmp_path / "t"), "val": dataset(tmp_path / "v", number=8)}
    write_dataset(parts, tmp_path / "out", format=name)
    back = read_splits(tmp_path / "out")
    assert sorted(back) == ["train", "val"]
    assert all(part.images[0].path.is_file() for part in back.values())
    one = read_dataset(tmp_path / "out", split="val")
    assert one.images[0].path.parts[-2] == "val"
    with pytest.raises(OptionError, match="split='test'"):
        read_dataset(tmp_path / "out", split="test")


@pytest.mark.parametrize("format_", ["coco", "yolo", "jsonl"])
def test_parts_are_merged_where_none_is_named(tmp_path, format_):
    parts = {"train": dataset(tmp_path / "t"), "val": dataset(tmp_path / "v")}
    write_dataset(parts, tmp_path / "out", format=format_)
    data = read_dataset(tmp_path / "out")
    assert sorted(image.file_name for image in data.images) == ["train/a.png", "val/a.png"]
    assert (data.classes, data.num_objects) == (("helmet",), 2)


def test_formats_by_their_files(tmp_path):
    cases = {
        "a/x.xml": "voc",
        "b/Annotations/x.xml": "voc",
        "c/data.yaml": "yolo",
        "d/labels/x.txt": "yolo",
        "e/x.jsonl": "jsonl",
        "f/annotations/instances_val.json": "coco",
    }
    for name, expected in cases.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        assert detect_format(tmp_path / name.split("/")[0]) == expected
    (tmp_path / "l.json").write_text(json.dumps({"version": "5", "shapes": []}))
    assert detect_format(tmp_path / "l.json") == "labelme"
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        detect_format(tmp_path / "none.json")
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.json" / "data.yaml").touch()
    assert detect_format(tmp_path / "a.json") == "yolo"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected \*\.json files, found none"):
        read_splits(tmp_path / "empty", format="coco")
    for unknown in (tmp_path / "empty", tmp_path / "x.csv"):
        with pytest.raises(DataError, match="the format is unknown"):
            detect_format(unknown)


def test_wrong_words_and_missing_places_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read_dataset(tmp_path / "none")
    with pytest.raises(OptionError, match="format: .* got 'csv'"):
        read_dataset(tmp_path, format="csv")
    with pytest.raises(DataError, match="expected the folder of images"):
        (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
        read_dataset(tmp_path / "a.json", images=tmp_path / "none")
    data = dataset(tmp_path / "src")
    with pytest.raises(OptionError, match="format: .* got 'voc'"):
        write_dataset(data, tmp_path / "out", format="voc")
    with pytest.raises(OptionError, match="images: .* got 'move'"):
        write_dataset(data, tmp_path / "out", format="coco", images="move")
    with pytest.raises(OptionError, match="one file cannot hold 2 splits"):
        write_dataset({"a": data, "b": data}, tmp_path / "out.json", format="coco")
    for split in ("../up", "a/b", ".hidden"):
        with pytest.raises(OptionError, match="plain name"):
            write_dataset({split: data}, tmp_path / "out", format="coco")


def test_a_folder_with_files_is_not_written_into(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="already holds files"):
        write_dataset(dataset(tmp_path / "src"), tmp_path / "out", format="coco")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("format_", ["coco", "yolo", "jsonl"])
def test_shares_of_an_image_of_another_size_are_reported(tmp_path, format_):
    """A telephone's image, annotated before its rotation: the boxes were written elsewhere."""
    data = dataset(tmp_path / "src")
    with Image.open(data.images[0].path) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(data.images[0].path, exif=exif)
    report = write_dataset(data, tmp_path / "out", format=format_)
    lost = [finding.rule for finding in report.findings if finding.is_loss]
    assert lost == ([] if format_ == "coco" else ["size-mismatch"])  # COCO states sides and pixels


def test_the_current_folder_is_refused_by_name(tmp_path, monkeypatch):
    """It gave a raw ValueError: "." has an empty name."""
    data = dataset(tmp_path / "src")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(OptionError, match="is the current folder"):
        write_dataset(data, ".", format="coco")


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    twice = dataset(tmp_path / "src")
    other = ImageRecord(8, "a.png", twice.images[0].path, (48, 64))
    data = Dataset((*twice.images, other), HELMET)
    with pytest.raises(DataError, match=r"two images .* 'a\.png'"):
        write_dataset(data, tmp_path / "out", format="coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_images_that_are_not_there_are_described_and_said(tmp_path):
    lost = Dataset((ImageRecord(1, "lost.png", tmp_path / "lost.png", (4, 4)),), HELMET)
    report = write_dataset(lost, tmp_path / "out", format="coco")
    assert not (tmp_path / "out" / "images").exists()
    assert [(f.rule, f.where) for f in report.findings] == [("missing-file", "lost.png")]
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["images"][0]["id"] == 1


def test_data_yaml_has_what_ultralytics_asks_for(tmp_path):
    write_dataset(dataset(tmp_path / "src"), tmp_path / "out", format="yolo")
    config = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert config == {"train": "images", "val": "images", "names": {0: "helmet"}}
    label = (tmp_path / "out" / "labels" / "a.txt").read_text()
    assert [float(word) for word in label.split()] == [0, 14 / 64, 10 / 48, 20 / 64, 10 / 48]


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (("instances_train2017", "instances_val2017"), "instances_train2017", "instances_val2017"),
        (("helmets_test", "helmets_val", "helmets_train"), "helmets_train", "helmets_val"),
        (("val", "others"), "others", "val"),
        (("train", "valid"), "train", "valid"),
        (("a", "b"), "a", "a"),
        (("val", "test"), "val", "val"),
    ],
)
def test_train_and_val_of_data_yaml_are_the_parts_of_these_words(tmp_path, names, train, val):
    """COCO's instances_val2017 was written, and `val` named the training images."""
    parts = {name: dataset(tmp_path / name, number=at + 1) for at, name in enumerate(names)}
    report = write_dataset(parts, tmp_path / "out", format="yolo")
    config = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert (config["train"], config["val"]) == (f"images/{train}", f"images/{val}")
    assert [one.rule for one in report.findings] == ["no-validation"] * (train == val)


def test_supervision_reads_the_same_boxes_from_what_is_written(tmp_path):
    import supervision

    write_dataset(dataset(tmp_path / "src"), tmp_path / "out", format="yolo")
    out = Path(tmp_path / "out")
    theirs = supervision.DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml")
    )
    _, _, found = theirs[0]
    assert found.xyxy.tolist() == [[4, 5, 24, 15]]


@pytest.mark.parametrize(("name", "key"), [("b.json", "file_name"), ("b.jsonl", "image")])
def test_a_file_names_images_relative_to_itself(tmp_path, name, key):
    data = dataset(tmp_path / "src" / "pictures", "sub/a.png")
    format_ = "coco" if name == "b.json" else "jsonl"
    for place, expected in (
        (tmp_path / "src", "pictures/sub/a.png"),
        (tmp_path, "src/pictures/sub/a.png"),
        (tmp_path / "src" / "pictures", "sub/a.png"),
        (tmp_path / "out", "../src/pictures/sub/a.png"),
    ):
        write_dataset(data, place / name, format=format_)
        held = json.loads((place / name).read_text())
        assert (held["images"][0] if format_ == "coco" else held)[key] == expected
        back = read_dataset(place / name)
        assert back.images[0].path.samefile(data.images[0].path)
        # Into a folder, such a name does not climb out of it.
        copied = read_dataset(_copied(back, tmp_path / f"copy of {place.name}")).images[0].path
        assert copied.read_bytes() == data.images[0].path.read_bytes()


def _copied(data, out):
    return write_dataset(data, out, format="coco").path


def test_cocos_own_layout_is_read_past_captions_and_what_is_not_asked_for(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
    objects = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]
    held = {
        "instances_val2017": {
            "info": {},
            "images": images,
            "annotations": objects,
            "categories": [{"id": 3, "name": "cat"}],
        },
        "captions_val2017": {
            "images": images,
            "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}],
        },
    }
    for name, content in held.items():
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(content))
    assert list(read_splits(tmp_path)) == ["instances_val2017"]
    (tmp_path / "annotations" / "instances_train2017.json").write_text('{"images": [')
    assert read_dataset(tmp_path, split="instances_val2017").num_objects == 1
    with pytest.raises(DataError, match="instances_train2017"):
        read_splits(tmp_path)


def test_a_root_whose_sub_folders_are_the_splits(tmp_path):
    for number, split in enumerate(("train", "valid")):
        data = dataset(tmp_path / "site" / split, f"{split}.png", number)
        write_dataset(data, tmp_path / "site" / split / "_annotations.coco.json", format="coco")
    assert detect_format(tmp_path / "site") == "coco"
    parts = read_splits(tmp_path / "site")
    assert {name: part.images[0].path.name for name, part in parts.items()} == {
        "train": "train.png",
        "valid": "valid.png",
    }
    assert read_dataset(tmp_path / "site", split="valid").num_objects == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"categories": [{"id": 1, "name": "shapes"}], "images": [], "annotations": []}, "coco"),
        ({"info": {"shapes": []}, "images": [], "annotations": []}, "coco"),
        ({"version": "5", "flags": {"images": True}, "shapes": []}, "labelme"),
        ({"imageData": "images", "annotations": 3}, "labelme"),
    ],
)
def test_json_files_are_told_by_their_own_keys(tmp_path, content, expected):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert detect_format(tmp_path / "x.json") == expected


def written_parts(tmp_path, format_, names):
    parts = {
        name: dataset(tmp_path / f"src{number}", number=number)
        for number, name in enumerate(names, start=1)
    }
    write_dataset(parts, tmp_path / "out", format=format_)
    return tmp_path / "out"


@pytest.mark.parametrize("format_", ["coco", "yolo", "jsonl"])
@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("train", "val", "test"), None, "val"),
        (("train", "valid"), None, "valid"),
        (("train", "test"), None, "test"),
        (("train", "val", "test"), "test", "test"),
        (("train", "val"), "train", "train"),
        (("train",), None, "train"),
    ],
)
def test_evaluation_reads_the_validation_part_whatever_the_format(
    tmp_path, format_, names, split, expected
):
    name, part = read_evaluation_part(written_parts(tmp_path, format_, names), split=split)
    assert name == expected
    assert part.images[0].path.is_file()
    assert len(part.images) == 1


def test_evaluation_refuses_parts_that_cannot_be_told_and_data_without_annotations(tmp_path):
    with pytest.raises(DataError, match=r"which part to evaluate on: a, b"):
        read_evaluation_part(written_parts(tmp_path, "coco", ("a", "b")))
    bare = dataset(tmp_path / "bare")
    bare = replace(bare, images=(replace(bare.images[0], objects=()),))
    write_dataset(bare, tmp_path / "none", format="yolo")
    with pytest.raises(DataError, match="1 images and no annotation"):
        read_evaluation_part(tmp_path / "none")


def test_cocos_other_files_are_left_out_and_splits_are_known_by_their_words(tmp_path):
    data = dataset(tmp_path / "src")
    for name in ("instances_val2017", "person_keypoints_val2017", "instances_train2017"):
        write_dataset(data, tmp_path / "annotations" / f"{name}.json", format="coco")
    panoptic = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 3}]}],
        "categories": [{"id": 3, "name": "helmet"}],
    }
    (tmp_path / "annotations" / "panoptic_val2017.json").write_text(json.dumps(panoptic))
    assert sorted(read_splits(tmp_path)) == ["instances_train2017", "instances_val2017"]
    assert read_dataset(tmp_path, split="val2017").num_objects == 1
    assert list(read_splits(tmp_path, split="person_keypoints_val2017")) == [
        "person_keypoints_val2017"
    ]
    with pytest.raises(DataError, match="is COCO panoptic annotations"):
        read_dataset(tmp_path / "annotations" / "panoptic_val2017.json")


BOX = {"x": 15, "y": 15, "width": 20, "height": 20}
FOREIGN = {
    "project.json": ([{"id": 1, "data": {"image": "/a.jpg"}, "annotations": [
        {"result": [{"type": "rectanglelabels", "value": {"rectanglelabels": ["helmet"]}}]}]}],
        "Label Studio"),
    "tasks.json": ([{"id": 1, "data": {"image": "/a.jpg"}, "predictions": []}], "Label Studio"),
    "annotations.xml": ("<annotations><version>1.1</version><meta/></annotations>", "CVAT"),
    "via.json": ({"a.jpg9": {"filename": "a.jpg", "regions": [
        {"shape_attributes": {"name": "rect", "x": 5}, "region_attributes": {}}]}}, "VIA"),
    "_annotations.createml.json": (
        [{"image": "a.jpg", "annotations": [{"label": "helmet", "coordinates": BOX}]}], "CreateML"),
    "_annotations.csv": ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "CSV"),
    "metadata.jsonl": ({"file_name": "a.jpg", "objects": {"bbox": [[5, 5, 20, 20]]}},
                       "ImageFolder"),
    "train.jsonl": ({"image": "a.jpg", "conversations": [{"from": "human"}]}, "ShareGPT, LLaVA"),
    "captions.json": ({"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}],
                       "categories": []}, "captions"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_of_other_tools_are_named_with_a_way_out(tmp_path, name):
    content, tool = FOREIGN[name]
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text + "\n")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"{name}: is .*{tool}.*Fix: "):
            read_dataset(place)


def two_classes(folder):
    data = dataset(folder)
    (image,) = data.images
    other = Annotation(8, 4, (30.0, 5.0, 20.0, 10.0), ((30.0, 5, 50, 5, 50, 15),))
    image = replace(image, objects=(*image.objects, other))
    return Dataset((image,), (*HELMET, Category(4, "RBC")))


def test_classes_are_selected_renamed_and_merged(tmp_path):
    data = two_classes(tmp_path)
    one = data.select(["RBC"])
    assert (one.classes, [item.id for item in one.images[0].objects]) == (("RBC",), [8])
    renamed = data.rename({"RBC": "red blood cell"})
    assert renamed.classes == ("helmet", "red blood cell")
    both = data.rename({"RBC": "helmet"})
    assert (both.classes, [i.category_id for i in both.images[0].objects]) == (("helmet",), [3, 3])
    for change in (lambda: data.select(["rbc"]), lambda: data.rename({"x": "y"})):
        with pytest.raises(OptionError, match="it has helmet, RBC"):
            change()
    with pytest.raises(OptionError, match="empty"):
        data.rename({"RBC": " "})
    merged = merge_datasets({"a": data, "b": renamed})
    assert merged.classes == ("RBC", "helmet", "red blood cell")
    names = [[merged.names[i.category_id] for i in image.objects] for image in merged.images]
    assert names == [["helmet", "RBC"], ["helmet", "red blood cell"]]
    assert [image.file_name for image in merged.images] == ["a/a.png", "b/a.png"]
    # Licences, to which images refer, were lost.
    licences = {"licenses": [{"id": 3, "name": "CC BY"}]}
    same, other = replace(data, info=licences), replace(data, info={"licenses": []})
    assert merge_datasets({"a": same, "b": same}).info == licences
    assert merge_datasets({"a": same, "b": other}).info == {}


def test_the_truth_is_drawn(tmp_path):
    data = two_classes(tmp_path)
    result = truth_result(data.images[0], data)
    assert (result.labels, result.xyxy.tolist()) == (
        ("helmet", "RBC"),
        [[4, 5, 24, 15], [30, 5, 50, 15]],
    )
    assert truth_result(data.select(["RBC"]).images[0], data).masks.sum() == pytest.approx(100, 0.2)
    drawn = plot_truth(data.images[0], data)
    assert (drawn.shape, drawn.any()) == ((48, 64, 3), True)


ROUTES = [(a, b) for a in ("coco", "yolo", "jsonl") for b in ("coco", "yolo", "jsonl")]


@pytest.mark.parametrize(("first", "second"), ROUTES)
def test_nothing_is_lost_between_any_two_formats(tmp_path, first, second):
    data = two_classes(tmp_path / "src")
    for number, format_ in enumerate((first, second)):
        report = write_dataset(data, tmp_path / str(number), format=format_)
        assert (report.num_images, report.num_objects) == (1, 2)
        assert not [finding for finding in report.findings if finding.is_loss]
        data = read_dataset(tmp_path / str(number))
        names = sorted(data.names[item.category_id] for item in data.images[0].objects)
        assert (len(data.images), names) == (1, ["RBC", "helmet"])


def test_a_writer_that_loses_labels_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr("pgvision.datasets.writing.label_text", lambda *_: "")
    report = write_dataset(two_classes(tmp_path / "src"), tmp_path / "out", format="yolo")
    assert report.num_objects == 0
    lost = [finding.message for finding in report.findings if finding.is_loss]
    assert lost[0].startswith("2 objects were not read back (a.png annotation 7, a.png annotation")


def test_an_object_that_cannot_be_expressed_takes_no_other_objects_match(tmp_path):
    data = dataset(tmp_path)
    (image,) = data.images
    crowd = Annotation(7, 3, (4.0, 5.0, 20.0, 10.0), iscrowd=True)
    elsewhere = Annotation(7, 3, (40.0, 5.0, 20.0, 10.0))
    parts = [replace(data, images=(replace(image, objects=(one,)),)) for one in (crowd, elsewhere)]
    found = compare_datasets(
        *parts, names={image.id: image.file_name}, options=ExampleOptions(), bins=False
    )
    assert [finding.message.partition(" (")[0] for finding in found if finding.is_loss] == [
        "1 crowd regions were left out",
        "1 objects were read back that were not written",
    ]


@pytest.mark.parametrize("format_", ["coco", "yolo", "jsonl"])
@pytest.mark.parametrize(
    ("classes", "xywh", "message"),
    [
        (("h", "h"), (1.0, 2.0, 3.0, 4.0), "two classes are called 'h'"),
        (("h",), (1.0, 2.0, -3.0, 4.0), "a.jpg: annotation 1: box is .* negative width"),
        (("h",), (math.nan, 2.0, 3.0, 4.0), "a.jpg: annotation 1: box is .* finite number"),
    ],
)
def test_what_no_file_can_contain_is_refused_before_writing(
    tmp_path, format_, classes, xywh, message
):
    categories = tuple(Category(number, name) for number, name in enumerate(classes, 1))
    image = ImageRecord(1, "a.jpg", tmp_path / "a.jpg", (40, 60), (Annotation(1, 1, xywh),))
    with pytest.raises(DataError, match=message):
        write_dataset(Dataset((image,), categories), tmp_path / "out", format=format_)
    assert list(tmp_path.iterdir()) == []


def test_no_part_no_class_and_no_ending_are_refused(tmp_path):
    with pytest.raises(OptionError, match="got none"):
        write_dataset({}, tmp_path / "out", format="coco")
    (tmp_path / "a").write_bytes(b"x")
    image = ImageRecord(1, "a", tmp_path / "a", (40, 60))
    with pytest.raises(DataError, match="has no class"):
        write_dataset(Dataset((image,), ()), tmp_path / "out", format="yolo")
    with pytest.raises(DataError, match=r"1 image names have no ending .* \(a\)"):
        write_dataset(Dataset((image,), (Category(1, "h"),)), tmp_path / "out", format="yolo")


def test_a_yaml_of_another_purpose_and_encoding_is_no_obstacle(tmp_path):
    write_dataset(dataset(tmp_path / "src"), tmp_path / "out", format="coco")
    (tmp_path / "out" / "hyp.yaml").write_bytes("# Größe\nlr: 0.1\n".encode("latin-1"))
    assert detect_format(tmp_path / "out") == "coco"
    assert read_dataset(tmp_path / "out").num_objects == 1


@pytest.mark.parametrize(
    ("text", "is_coco"),
    [("[1, 2]", False), ('"images"', False), ('{"a": 1}', False), ('{"images": []}', True)],
)
def test_a_coco_file_is_an_object_with_its_keys(tmp_path, text, is_coco):
    file = tmp_path / "a.json"
    file.write_text(text)
    assert has_objects(file) is is_coco
