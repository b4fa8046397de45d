"""YOLO: exact from COCO and back, and lines that are no box and no polygon refused."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ExampleOptions,
    ImageRecord,
    Rle,
    check_dataset,
    read_dataset,
    read_splits,
    read_yolo,
    segmentation_to_mask,
    write_dataset,
)
from pgvision.errors import DataError

SIDES = {"a.png": (640, 427), "b.png": (333, 500)}


def image_at(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def folder_with(tmp_path, lines, *, names=("helmet", "head")):
    image_at(tmp_path / "images" / "a.png", (640, 427))
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.txt").write_text(lines)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": list(names)}))
    return tmp_path


def dataset_at(folder, boxes, segmentation=None):
    """Boxes are COCO's: two decimals, on two images of odd sizes."""
    images = []
    for number, (name, (width, height)) in enumerate(SIDES.items()):
        objects = tuple(
            Annotation(1 + 2 * index + number, 30 + index % 2, box, segmentation)
            for index, box in enumerate(boxes)
        )
        path = image_at(folder / name, (width, height))
        images.append(ImageRecord(50 - number, name, path, (height, width), objects))
    return Dataset(tuple(images), (Category(31, "head"), Category(30, "helmet")))


def comparable(dataset):
    images = [(image.file_name, image.image_hw) for image in dataset.images]
    objects = [
        (image.file_name, dataset.names[item.category_id], item.xywh)
        for image in dataset.images
        for item in image.objects
    ]
    return images, objects, dataset.classes


def spans(side):
    """Start and length in cents of a pixel, inside both images."""
    ends = st.tuples(st.integers(0, side * 100), st.integers(0, side * 100)).map(sorted)
    return ends.map(lambda pair: (pair[0] / 100, (pair[1] - pair[0]) / 100))


boxes_inside = st.tuples(spans(333), spans(427)).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(st.lists(boxes_inside, max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_coco_to_yolo_to_coco_is_exact(tmp_path_factory, boxes):
    place = tmp_path_factory.mktemp("exact")
    before = dataset_at(place / "images", boxes)
    write_dataset(before, place / "yolo", format="yolo")
    assert comparable(read_dataset(place / "yolo")) == comparable(before)


@given(st.tuples(st.floats(0, 160), st.floats(0, 210), st.floats(0, 160), st.floats(0, 210)))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_of_any_number_of_digits_come_back_within_a_billionth_of_a_pixel(
    tmp_path_factory, box
):
    place = tmp_path_factory.mktemp("digits")
    write_dataset(dataset_at(place / "images", [box]), place / "yolo", format="yolo")
    back = read_dataset(place / "yolo").images[0].objects[0]
    np.testing.assert_allclose(back.xywh, box, atol=1e-9, rtol=0)


def test_splits_keep_their_names_and_images(tmp_path):
    parts = {
        "train": dataset_at(tmp_path / "t", [(1.5, 2.5, 3, 4)]),
        "val": dataset_at(tmp_path / "v", []),
    }
    parts["val"] = Dataset(
        tuple(
            ImageRecord(i.id + 100, i.file_name, i.path, i.image_hw) for i in parts["val"].images
        ),
        parts["val"].categories,
    )
    write_dataset(parts, tmp_path / "yolo", format="yolo")
    back = read_splits(tmp_path / "yolo")
    assert list(back) == ["train", "val"]
    assert comparable(back["train"]) == comparable(parts["train"])
    assert comparable(back["val"]) == comparable(parts["val"])
    joined = read_dataset(tmp_path / "yolo")
    assert {image.file_name for image in joined.images} == {
        f"{split}/{name}" for split in parts for name in SIDES
    }


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.25",
        "0.5 0.5 0.25 0.25",
        "0 0.5 0.5 0.25 0.25 0.9",
        "0 0.1 0.1 0.9 0.1 0.9 0.9 0.5",
        "0",
    ],
)
def test_lines_of_4_or_6_or_8_numbers_are_refused(tmp_path, line):
    count = len(line.split())
    with pytest.raises(DataError, match=rf"a\.txt: line 2: {count} numbers"):
        read_yolo(folder_with(tmp_path, f"0 0.5 0.5 0.25 0.25\n{line}\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2, but there are 2 class names"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "whole class number"),
        ("0 nan 0.5 0.1 0.1", "finite"),
        ("0 inf 0.5 0.1 0.1", "finite"),
        ("helmet 0.5 0.5 0.1 0.1", "expected a whole class number"),
        ("0 0.5 0.5 -0.1 0.1", "must not be negative"),
    ],
)
def test_other_broken_lines_are_refused(tmp_path, line, message):
    with pytest.raises(DataError, match=rf"a\.txt: line 1: .*{message}"):
        read_yolo(folder_with(tmp_path, line))


def test_a_polygon_is_a_mask_and_its_extent_the_box(tmp_path):
    folder = folder_with(tmp_path, "1 0.25 0.5 0.75 0.5 0.5 1\n\n")
    item = read_yolo(folder)["train"].images[0].objects[0]
    assert item.segmentation == ((160.0, 213.5, 480.0, 213.5, 320.0, 427.0),)
    assert item.xywh == (160.0, 213.5, 320.0, 213.5)


def test_images_without_labels_have_no_objects_and_labels_without_images_are_found(tmp_path):
    folder = folder_with(tmp_path, "")
    image_at(folder / "images" / "free.png", (10, 10))
    (folder / "labels" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = read_yolo(folder)["train"]
    assert [len(image.objects) for image in data.images] == [0, 0]
    assert [(f.rule, f.where) for f in data.findings] == [("missing-file", "lost.txt")]


def labelled(folder, *pictures, line="0 0.5 0.5 0.5 0.5"):
    for name in pictures:
        image_at(folder / name, (100, 100))
        label = folder / name.replace("images", "labels").replace(".png", ".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(line)


def configured(folder, text):
    (folder / "data.yaml").write_text(text)
    return {key: [i.path.name for i in part.images] for key, part in read_yolo(folder).items()}


def test_roboflows_folders_are_found_though_its_yaml_steps_out(tmp_path):
    labelled(tmp_path, "train/images/a.png", "valid/images/b.png")
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [helmet]\n"
    assert configured(tmp_path, text) == {"train": ["a.png"], "val": ["b.png"]}
    train = read_yolo(tmp_path)["train"]
    assert train.images[0].objects[0].xywh == (25.0, 25.0, 50.0, 50.0)
    assert [(f.rule, f.level, f.where) for f in train.findings] == [
        ("missing-folder", "error", "test")
    ]


@pytest.mark.parametrize(
    "value", ["../vlaid/images", "images/vla", "[images/a, images/x]", "v.txt"]
)
def test_a_split_that_is_not_there_is_refused(tmp_path, value):
    labelled(tmp_path, "images/a/a.png")
    with pytest.raises(DataError, match=r"data\.yaml: val: .* is not there"):
        configured(tmp_path, f"train: images/a\nval: {value}\nnames: [helmet]\n")


@pytest.mark.parametrize(
    ("train", "found"),
    [
        ("[images/a, images/b]", ["a.png", "b.png"]),
        ("images", ["a.png", "b.png"]),
        (".", ["a.png", "b.png"]),
        ("./images/b/", ["b.png"]),
        (r"images\b", ["b.png"]),
        ("football-12/images/b", ["b.png"]),
        ("../images/b", ["b.png"]),
        ("list.txt", ["b.png", "a.png"]),
        ("[list.txt, images/a]", ["b.png", "a.png"]),
    ],
)
@pytest.mark.parametrize("path", ["", "path: .\n", "path: football-12\n", "path: null\n"])
def test_every_form_of_entry_finds_its_pictures_and_their_labels(tmp_path, train, found, path):
    folder = tmp_path / "football-12"
    labelled(folder, "images/a/a.png", "images/b/b.png")
    (folder / "list.txt").write_text("./images/b/b.png\nimages/a/a.png\n")
    assert configured(folder, f"{path}train: {train}\nnames: [helmet]\n") == {"train": found}
    assert [len(i.objects) for i in read_yolo(folder)["train"].images] == [1] * len(found)


def test_path_may_name_another_folder_and_a_split_its_parent(tmp_path):
    labelled(tmp_path, "site/train/images/a.png", "site/val/images/b.png")
    (tmp_path / "configs").mkdir()
    text = f"path: {tmp_path / 'site'}\ntrain: train\nval: val\ntest:\nnames: [helmet]\nnc: 1\n"
    assert configured(tmp_path / "configs", text) == {"train": ["a.png"], "val": ["b.png"]}
    parts = read_yolo(tmp_path / "configs").values()
    assert [image.objects[0].xywh for part in parts for image in part.images] == [
        (25.0, 25.0, 50.0, 50.0)
    ] * 2


def test_an_entry_that_may_mean_two_places_is_refused(tmp_path):
    labelled(tmp_path, "train/images/a.png", "site/train/images/b.png")
    with pytest.raises(DataError, match=r"may mean .*site/train/images or .*/train/images"):
        configured(tmp_path / "site", "train: ../train/images\nnames: [helmet]\n")


def test_the_same_pictures_twice_are_said(tmp_path):
    labelled(tmp_path, "images/a.png")
    text = "train: images\nval: images\ntest: imagse\nlicense: CC/BY\nnames: [helmet]\n"
    assert configured(tmp_path, text) == {"train": ["a.png"]}
    findings = read_yolo(tmp_path)["train"].findings
    assert [(f.rule, f.where) for f in findings] == [
        ("missing-folder", "test"),
        ("same-split", "val"),
    ]


def test_names_stay_text(tmp_path):
    folder = folder_with(tmp_path, "0 0.5 0.5 0.1 0.1")
    text = "names: [no, on, 007, 12:30, null, 1e3, ~, 2024-01-01, 0x1F]\n"
    (folder / "data.yaml").write_text(text)
    expected = ("no", "on", "007", "12:30", "null", "1e3", "~", "2024-01-01", "0x1F")
    assert read_yolo(folder)["train"].classes == expected


def test_names_of_another_number_than_nc_are_refused(tmp_path):
    folder = folder_with(tmp_path, "")
    (folder / "data.yaml").write_text("nc: 3\nnames: [a, b]\n")
    with pytest.raises(DataError, match="nc is 3, but there are 2 names"):
        read_yolo(folder)


def test_key_points_are_left_out_and_the_box_is_the_box(tmp_path):
    # data.md finding 4, counted by hand on 60 x 40.
    labelled(tmp_path, "images/a.png", line="0 .5 .5 .2 .2 .1 .1 .2 .2 .3 .3 0 0")
    image_at(tmp_path / "images" / "a.png", (60, 40))
    configured(tmp_path, "train: images\nkpt_shape: [4, 2]\nnames: [hand]\n")
    data = read_yolo(tmp_path)["train"]
    (item,) = data.images[0].objects
    assert (item.xywh, item.segmentation) == ((24, 16, 12, 8), None)
    assert [(finding.rule, finding.is_loss) for finding in data.findings] == [("not-kept", False)]


def test_darknets_files_and_labels_beside_their_pictures(tmp_path):
    picture = image_at(tmp_path / "obj_train_data" / "a.png", (100, 100))
    picture.with_suffix(".txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "obj.names").write_text("helmet\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\n")
    (tmp_path / "obj.data").write_text(
        "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    data = read_dataset(tmp_path)
    assert (data.num_objects, data.classes) == (1, ("helmet",))
    (tmp_path / "obj_train_data" / "classes.txt").write_text("helmet\n")
    assert read_dataset(tmp_path / "obj_train_data").num_objects == 1


def test_the_last_images_of_a_path_becomes_labels(tmp_path):
    # As Ultralytics' img2label_paths: a data set below a folder of that name, too.
    root = tmp_path / "images" / "site"
    image_at(root / "images" / "train" / "a.png", (100, 50))
    label = root / "labels" / "train" / "a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": ["a"]}))
    data = read_dataset(root)
    assert [item.xywh for item in data.images[0].objects] == [(40, 20, 20, 10)]


@pytest.mark.parametrize("value", ["../../elsewhere", "/etc"])
def test_folders_outside_the_data_set_are_refused(tmp_path, value):
    folder = folder_with(tmp_path, "")
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": value, "names": ["a"]}))
    with pytest.raises(DataError, match="outside the data set"):
        read_yolo(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "not YAML"),
        ("- a", "expected a JSON object, got a list"),
        ("names: {0: a, 2: b}", "numbered from 0"),
        ("names: {0: [a]}", "a list of texts"),
        ("nc: 2", "class names are missing"),
    ],
)
def test_broken_yaml_is_named(tmp_path, text, message):
    folder = folder_with(tmp_path, "")
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(folder)


def test_class_names_may_come_from_classes_txt(tmp_path):
    folder = folder_with(tmp_path, "1 0.5 0.5 0.1 0.1")
    (folder / "data.yaml").unlink()
    (folder / "labels" / "classes.txt").write_text("helmet\nhead\n")
    data = read_dataset(folder)
    assert data.names[data.images[0].objects[0].category_id] == "head"
    # A blank line has a number too: the names after it were those of the classes before.
    (folder / "labels" / "classes.txt").write_text("helmet\n\nhead\n")
    with pytest.raises(DataError, match="class 1 has no name"):
        read_dataset(folder)
    (folder / "labels" / "classes.txt").write_text("helmet\nhead\n\n \n")
    assert read_dataset(folder).classes == ("helmet", "head")


@pytest.mark.parametrize("place", ["labels", "."])
def test_labels_of_images_elsewhere_are_in_labels_or_in_the_folder_itself(tmp_path, place):
    image_at(tmp_path / "photos" / "a.png", (640, 427))
    labels = tmp_path / "data" / place
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "a.txt").write_text("1 0.5 0.5 0.1 0.1")
    (labels / "classes.txt").write_text("helmet\nhead\n")
    data = read_yolo(tmp_path / "data", images=tmp_path / "photos")["train"]
    assert [data.names[one.category_id] for one in data.images[0].objects] == ["head"]


@pytest.mark.parametrize(
    ("images", "labels"), [("images/val", "labels/val"), ("val/images", "val/labels")]
)
def test_images_that_are_a_part_of_the_data_set_have_its_labels(tmp_path, images, labels):
    """They had no objects: their labels were looked for in labels/ itself."""
    image_at(tmp_path / images / "a.png", (640, 427))
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / labels / "a.txt").write_text("1 0.5 0.5 0.1 0.1")
    (tmp_path / "classes.txt").write_text("helmet\nhead\n")
    data = read_yolo(tmp_path, images=tmp_path / images)["train"]
    assert (data.num_objects, data.findings) == (1, ())


@pytest.mark.parametrize(("over", "is_outside"), [(0.09, False), (0.11, True)])
def test_a_tenth_of_a_pixel_outside_is_rounding(tmp_path, over, is_outside):
    image = image_at(tmp_path / "a.png", (640, 427))
    box = Annotation(1, 3, (600.0, 10.0, 40.0 + over, 20.0))
    record = ImageRecord(1, "a.png", image, (427, 640), (box,))
    data = Dataset((record,), (Category(3, "helmet"),))
    codes = {finding.rule for finding in check_dataset(data).findings}
    assert ("box-outside" in codes) == is_outside


def test_masks_go_through_polygons_with_holes_and_parts(tmp_path):
    mask = np.zeros((427, 640), dtype=bool)
    mask[20:120, 30:200] = True
    mask[40:60, 50:90] = False
    mask[300:310, 600:640] = True
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    item = Annotation(1, 30, (30, 20, 610, 290), Rle((427, 640), runs["counts"].decode()))
    path = image_at(tmp_path / "images" / "a.png", (640, 427))
    before = Dataset((ImageRecord(1, "a.png", path, (427, 640), (item,)),), (Category(30, "x"),))
    options = ExampleOptions(task="segment")
    report = write_dataset(before, tmp_path / "yolo", format="yolo", options=options)
    assert any("run-length" in finding.message for finding in report.findings)
    back = read_dataset(tmp_path / "yolo").images[0].objects[0]
    assert (segmentation_to_mask(back.segmentation, (427, 640)) == mask).all()


def test_what_yolo_cannot_hold_is_said(tmp_path):
    path = image_at(tmp_path / "images" / "a.png", (20, 10))
    crowd = Annotation(1, 30, (0, 0, 9, 9), Rle((10, 20), (200,)), iscrowd=True)
    box = Annotation(2, 30, (0, 0, 9, 9), ((0, 0, 9, 0, 9, 9),))
    data = Dataset((ImageRecord(1, "a.png", path, (10, 20), (crowd, box)),), (Category(30, "x"),))
    report = write_dataset(data, tmp_path / "yolo", format="yolo")
    text = " ".join(finding.message for finding in report.findings)
    assert "1 crowd regions were left out" in text
    assert "1 masks were left out" in text
    assert (tmp_path / "yolo" / "labels" / "a.txt").read_text().count("\n") == 1


def test_two_images_must_not_share_a_label_file(tmp_path):
    images = tuple(
        ImageRecord(index, name, image_at(tmp_path / name, (9, 9)), (9, 9))
        for index, name in enumerate(("a.png", "a.jpg"))
    )
    with pytest.raises(DataError, match="share the label file"):
        write_dataset(Dataset(images, (Category(1, "x"),)), tmp_path / "out", format="yolo")
    assert not (tmp_path / "out").exists()


def test_names_may_be_numbered_by_text(tmp_path):
    folder = folder_with(tmp_path, "1 0.5 0.5 0.1 0.1")
    (folder / "data.yaml").write_text("names: {'1': head, '0': helmet}")
    assert read_dataset(folder).classes == ("helmet", "head")
    (folder / "data.yaml").write_text("names: {null: head, a: helmet}")
    with pytest.raises(DataError, match="numbered from 0"):
        read_yolo(folder)


def test_what_leaves_the_image_is_cut_at_its_border_or_left_out(tmp_path):
    path = image_at(tmp_path / "images" / "a.png", (64, 48))
    triangle = ((-16.0, 0.0, 48.0, 0.0, 16.0, 64.0),)
    objects = (
        Annotation(1, 30, (-2, -2, 68, 52)),
        Annotation(2, 30, (-10, 10, 8, 8)),
        Annotation(3, 30, (64, 10, 8, 8)),
        Annotation(4, 30, (-16, 0, 64, 64), triangle),
    )
    data = Dataset((ImageRecord(1, "a.png", path, (48, 64), objects),), (Category(30, "x"),))
    for task in ("detect", "segment"):
        options = ExampleOptions(task=task)
        report = write_dataset(data, tmp_path / task, format="yolo", options=options)
        assert report.num_objects == 2
        lost = [finding.message for finding in report.findings if finding.is_loss]
        assert lost == [
            "2 objects were left out: their boxes are outside the image "
            "(a.png annotation 2, a.png annotation 3)"
        ]
        assert any("2 objects were cut at the border" in f.message for f in report.findings)
        text = (tmp_path / task / "labels" / "a.txt").read_text()
        assert all(0 <= float(word) <= 1 for line in text.splitlines() for word in line.split()[1:])
    back = read_dataset(tmp_path / "detect").images[0].objects
    assert [item.xywh for item in back] == [(0, 0, 64, 48), (0, 0, 48, 48)]
    mask = read_dataset(tmp_path / "segment").images[0].objects[1].segmentation
    expected = segmentation_to_mask(triangle, (48, 64))
    assert (segmentation_to_mask(mask, (48, 64)) ^ expected).sum() <= 0.02 * expected.sum()


def test_what_label_files_have_no_room_for_is_said(tmp_path):
    path = image_at(tmp_path / "images" / "a.png", (64, 48))
    odd = Annotation(9, 30, (0, 0, 8, 8), area=50.0, extra={"occluded": True, "text": "A"})
    image = ImageRecord(1, "a.png", path, (48, 64), (odd,), extra={"license": 4})
    category = Category(30, "x", {"supercategory": "y"})
    data = Dataset((image,), (category,), info={"licenses": []})
    report = write_dataset(data, tmp_path / "yolo", format="yolo")
    assert not any(finding.is_loss for finding in report.findings)
    assert [f.rule for f in report.findings if "val" in f.message] == ["no-validation"]
    assert {f.message for f in report.findings if f.rule == "not-kept"} == {
        "1 images lost fields of their own (license)",
        "1 annotations lost fields of their own (occluded, text)",
        "1 categories lost fields of their own (supercategory)",
        "1 the data set lost fields of their own (licenses)",
    }
    plain = replace(data, images=(replace(image, objects=(), extra={}),), info={})
    plain = replace(plain, categories=(Category(30, "x"),))
    report = write_dataset({"train": plain, "val": plain}, tmp_path / "plain", format="yolo")
    assert report.findings == ()


@pytest.mark.parametrize(
    "name", ["images/a.png", "sub/images/a.png", "images/images/a.png", "a.png", "labels/a.png"]
)
@pytest.mark.parametrize("split", ["", "train"])
def test_labels_are_written_where_ultralytics_and_we_read_them(tmp_path, name, split):
    path = image_at(tmp_path / "src" / name, (64, 48))
    item = Annotation(1, 3, (4.0, 5.0, 20.0, 10.0))
    data = Dataset((ImageRecord(7, name, path, (48, 64), (item,)),), (Category(3, "helmet"),))
    report = write_dataset({split: data} if split else data, tmp_path / "out", format="yolo")
    assert (report.num_images, report.num_objects) == (1, 1)
    (image,) = (tmp_path / "out" / "images").rglob("*.png")
    # ultralytics/data/utils.py, img2label_paths
    head, tail = str(image).rsplit("/images/", 1)
    assert Path(f"{head}/labels/{tail}").with_suffix(".txt").read_text().startswith("0 ")
    back = read_dataset(tmp_path / "out")
    assert [item.xywh for item in back.images[0].objects] == [(4, 5, 20, 10)]


def test_a_single_part_is_said_to_be_its_own_validation(tmp_path):
    data = dataset_at(tmp_path / "src", [(1.0, 2.0, 3.0, 4.0)])
    for parts, said in ((data, 1), ({"train": data}, 1), ({"train": data, "valid": data}, 0)):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        found = write_dataset(parts, tmp_path / "out", format="yolo").findings
        assert sum(finding.rule == "no-validation" for finding in found) == said


def test_labels_in_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: line 1: a coordinate of 32.*Divide pixels"):
        read_yolo(folder_with(tmp_path, "0 32 16 12 8"))
    assert read_yolo(folder_with(tmp_path, "0 0.5 0.5 1.02 1"))["train"].num_objects == 1


def test_a_yaml_of_another_name_is_found(tmp_path):
    folder = folder_with(tmp_path, "1 0.5 0.5 0.1 0.1")
    (folder / "data.yaml").rename(folder / "hardhat.yaml")
    assert read_dataset(folder).classes == ("helmet", "head")
    (folder / "other.yml").write_text("names: [a]")
    with pytest.raises(DataError, match=r"hardhat\.yaml, other\.yml all have class names"):
        read_dataset(folder)


def test_broken_label_files_cost_their_image_alone(tmp_path):
    folder = folder_with(tmp_path, "0 0.5 0.5 0.25")
    image_at(folder / "images" / "b.png", (10, 10))
    (folder / "labels" / "b.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = read_splits(folder, on_error="record")["train"]
    assert [image.file_name for image in data.images] == ["b.png"]
    assert [(f.rule, f.where) for f in data.findings if f.rule == "broken-entry"] == [
        ("broken-entry", "a.png")
    ]
    (folder / "labels" / "b.txt").write_text("0 0.5")
    with pytest.raises(DataError, match=r"got 0; .*a\.txt: line 1.*; .*b\.txt: line 1"):
        read_splits(folder, on_error="record")


def test_notes_among_the_labels_may_have_any_encoding(tmp_path):
    folder_with(tmp_path, "0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels" / "LIESMICH.txt").write_bytes("f\xfcr alle".encode("latin-1"))
    (tmp_path / "labels" / "lost.txt").write_text("\ufeff0 0.5 0.5 0.5 0.5", encoding="utf-8")
    data = read_yolo(tmp_path)["train"]
    assert data.num_objects == 1
    assert [finding.where for finding in data.findings] == ["lost.txt"]


@pytest.mark.parametrize("ending", [".jfif", ".gif", ".jp2"])
def test_images_of_further_kinds_are_read(tmp_path, ending):
    labelled(tmp_path, "images/a.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"b{ending}")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    configured(tmp_path, "train: images\nnames: [h]")
    data = read_yolo(tmp_path)["train"]
    assert [(image.file_name, len(image.objects)) for image in data.images] == [
        ("a.png", 1), (f"b{ending}", 1),
    ]  # fmt: skip
    assert data.findings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: *i\ntrain: images\n", "'names' is .* expected a list of texts"),
        ("[" * 5000, "not YAML that can be read"),
    ],
)
def test_nested_yaml_is_refused_without_gigabytes(tmp_path, text, message):
    aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for name, inner in zip("bcdefghi", "abcdefgh", strict=True):
        aliases += f"{name}: &{name} [{', '.join([f'*{inner}'] * 9)}]\n"
    image_at(tmp_path / "images" / "a.png", (64, 48))
    (tmp_path / "data.yaml").write_text(aliases + text if "names" in text else text)
    began = time.process_time()
    with pytest.raises(DataError, match=message):
        read_yolo(tmp_path)
    assert time.process_time() - began < 5  # hours, if the names were made texts
