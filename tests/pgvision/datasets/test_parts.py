"""Parts are recognised by words, a test part is never learnt from, and doubt is an error."""

import json

import pytest
from PIL import Image

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ImageRecord,
    check_dataset,
    write_dataset,
)
from pgvision.datasets.reading import (
    find_split,
    part_of,
    read_splits,
    training_part,
    validation_part,
)
from pgvision.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("_annotations.train", "train"),
        ("instances_train2017", "train"),
        ("data_train90", "train"),
        ("TrainSet", "train"),
        ("my-training-data", "train"),
        ("helmets_val", "valid"),
        ("Validation", "valid"),
        ("instances_minival2014", "valid"),
        ("b.test", "test"),
        ("test-dev2017", "test"),
        ("latest", None),
        ("constraint", None),
        ("trains", None),
        ("interval", None),
        ("a_train_and_val", None),
        ("instances", None),
    ],
)
def test_a_word_of_the_name_is_the_part(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("names", "train", "valid"),
    [
        (["test", "train", "valid"], "train", "valid"),
        (["a_test", "b_train"], "b_train", "a_test"),
        (["instances_train2017", "instances_val2017"], "instances_train2017", "instances_val2017"),
        (["helmets", "helmets_test"], "helmets", "helmets_test"),
        (["helmets"], "helmets", None),
        (["valid"], "valid", None),
    ],
)
def test_what_is_learnt_from_and_validated_on(names, train, valid):
    for order in (names, names[::-1]):
        assert training_part(order, source="x") == train
        assert validation_part(order, source="x", beside=train) == valid


@pytest.mark.parametrize(
    "names", [["test"], ["a", "b"], ["a_train", "b_train"], ["test", "valid"], ["a", "b", "test"]]
)
def test_what_cannot_be_decided_is_listed_and_never_the_first_by_alphabet(names):
    with pytest.raises(DataError, match=f"{', '.join(names)}.*split"):
        training_part(names, source="x")


def test_evaluation_takes_the_validation_part_or_the_only_one():
    assert validation_part(["train", "val", "test"], source="x") == "val"
    assert validation_part(["train", "test"], source="x") == "test"
    assert validation_part(["train"], source="x") == "train"
    with pytest.raises(DataError, match="a, b"):
        validation_part(["a", "b"], source="x")
    with pytest.raises(DataError, match="a_val, b_val"):
        validation_part(["a_val", "b_val"], source="x", beside="train")


def test_a_split_is_named_whole_or_by_its_words():
    names = ["instances_train2017", "instances_val2017", "keypoints_val2014"]
    assert find_split(names, "val2017", source="x") == "instances_val2017"
    assert find_split(names, "train", source="x") == "instances_train2017"
    assert find_split(["valid", "train"], "val", source="x") == "valid"
    with pytest.raises(OptionError, match="several that fit: instances_val2017, keypoints_val2014"):
        find_split(names, "val", source="x")
    for unknown in ("test", "al2017", ""):
        with pytest.raises(OptionError, match="x has instances_train2017"):
            find_split(names, unknown, source="x")
    assert training_part(["test", "train"], "test", source="x") == "test"


def test_files_of_one_name_in_several_folders_are_all_read(tmp_path):
    for place in ("train/instances", "val/instances", "val/instances_old"):
        image = {"id": 1, "file_name": f"{place}.jpg", "height": 4, "width": 4}
        file = tmp_path / f"{place}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    parts = read_splits(tmp_path)
    assert list(parts) == ["train_instances", "val_instances", "val_instances_old"]
    assert parts["train_instances"].images[0].file_name == "train/instances.jpg"
    assert list(read_splits(tmp_path, split="train")) == ["train_instances"]


@pytest.mark.parametrize(
    "place", ["Annotations/{}", "annotations/{}", "labels/{}", "{}/Annotations"]
)
def test_parts_of_voc_are_told_apart_wherever_their_folder_is(tmp_path, place):
    text = "<annotation><size><width>4</width><height>4</height></size></annotation>"
    for name in ("train", "val"):
        folder = tmp_path / place.format(name)
        folder.mkdir(parents=True)
        (folder / f"{name}1.xml").write_text(text)
    parts = read_splits(tmp_path, format="voc")
    assert {name: len(part.images) for name, part in parts.items()} == {"train": 1, "val": 1}
    more = tmp_path / place.format("night")  # one of them is called a part, so all are
    more.mkdir(parents=True)
    (more / "night1.xml").write_text(text)
    assert set(read_splits(tmp_path, format="voc")) == {"train", "val", "night"}


def test_folders_of_voc_without_a_part_are_one_set(tmp_path):
    text = "<annotation><size><width>4</width><height>4</height></size></annotation>"
    for name in ("video-1", "video-2"):
        folder = tmp_path / "Annotations" / name
        folder.mkdir(parents=True)
        (folder / "1.xml").write_text(text)
    (whole,) = read_splits(tmp_path).values()
    assert len(whole.images) == 2


def test_parts_with_other_classes_become_one_yolo_set(tmp_path):
    """They were refused, and no fix was named."""
    parts = {}
    for number, (part, names) in enumerate({"train": "ab", "val": "cb", "test": ""}.items()):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"{part}.png")
        boxes = [Annotation(at + 5, at + 3, (4.0, 5.0, 20.0, 10.0)) for at in range(len(names))]
        file = tmp_path / f"{part}.png"
        shot = ImageRecord(9, file.name, file, (48, 64), tuple(boxes))
        parts[part] = Dataset((shot,), tuple(Category(at + 3, c) for at, c in enumerate(names)))
    report = write_dataset(parts, tmp_path / "yolo", format="yolo")
    assert (report.num_objects, report.findings) == (4, ())
    after = read_splits(tmp_path / "yolo")
    for part, names in {"train": "ab", "val": "cb", "test": ""}.items():
        assert after[part].classes == ("a", "b", "c")
        items = after[part].images[0].objects
        assert [after[part].names[item.category_id] for item in items] == list(names)


def test_parts_of_examples_share_the_numbers_of_classes(tmp_path):
    """Each part numbered them as its lines came: COCO files of the two meant other classes."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    for part, names in {"train": ("helmet", "head"), "val": ("head", "helmet")}.items():
        lines = [
            {
                "image": "a.png",
                "prefix": f"detect {name}",
                "suffix": f"<loc0000><loc0000><loc0512><loc0512> {name}",
            }
            for name in names
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{part}.jsonl").write_text(text)
    parts = read_splits(tmp_path)
    assert parts["train"].categories == parts["val"].categories
    assert check_dataset(parts).counts.keys() == {("leakage", "error")}
    for name in ("coco", "yolo"):
        write_dataset(parts, tmp_path / name, format=name)
        after = read_splits(tmp_path / name)
        for part in ("train", "val"):
            labels = [after[part].names[item.category_id] for item in after[part].images[0].objects]
            assert sorted(labels) == ["head", "helmet"]
        assert after["train"].names == after["val"].names
