"""Images of a data set: hidden files skipped, links followed, names found, lost ones cheap."""

import json
import os
import time

import pytest
from PIL import Image

from pgvision.datasets import Finding, read_dataset, read_splits, read_yolo, write_dataset
from pgvision.datasets.image_names import ImageFinder, list_images
from pgvision.errors import DataError


def image_at(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def coco(folder, *names, box=(1, 2, 3, 4)):
    data = {
        "images": [
            {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "helmet"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": list(box)} for i in range(len(names))
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.json").write_text(json.dumps(data))
    return folder / "x.json"


def test_hidden_folders_and_other_programs_files_are_no_data(tmp_path):
    for name in ("a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/._a.jpg", "._b.jpg",
                 "a.overlay.jpg", "sub/b.jpg"):  # fmt: skip
        image_at(tmp_path / "images" / "train" / name)
    found = list_images(tmp_path / "images")
    assert [path.relative_to(tmp_path / "images/train").as_posix() for path in found] == [
        "a.jpg", "sub/b.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "xml"])
def test_copies_in_checkpoint_folders_are_not_read_twice(tmp_path, ending):
    shape = {"label": "man", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    text = json.dumps(
        {"shapes": [shape], "imagePath": "a.jpg", "imageHeight": 48, "imageWidth": 64}
    )
    if ending == "xml":
        text = (
            "<annotation><filename>a.jpg</filename><size><width>64</width><height>48</height>"
            "</size><object><name>man</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>"
        )
    image_at(tmp_path / "a.jpg")
    for place in (tmp_path, tmp_path / ".ipynb_checkpoints"):
        place.mkdir(exist_ok=True)
        (place / f"a.{ending}").write_text(text)
    data = read_dataset(tmp_path)
    assert (len(data.images), data.num_objects) == (1, 1)


def test_linked_folders_are_followed_and_circles_are_not(tmp_path):
    image_at(tmp_path / "elsewhere" / "b.jpg")
    image_at(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    assert [path.name for path in list_images(tmp_path / "images")] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "name",
    [
        "/home/me/data/images/a.jpg",
        r"C:\Users\me\images\a.jpg",
        "../../label-studio/data/media/upload/1/a.jpg",
        "data/obj_train_data/a.jpg",
    ],
)
def test_the_tail_of_a_name_counts_where_the_image_folder_is_given(tmp_path, name):
    image = image_at(tmp_path / "images" / "a.jpg")
    file = coco(tmp_path / "labels", name)
    assert read_dataset(file, images=tmp_path / "images").images[0].path == image


def test_the_longest_tail_counts_and_no_image_is_taken_twice(tmp_path):
    for name in ("a.jpg", "x/a.jpg"):
        image_at(tmp_path / "images" / name)
    file = coco(tmp_path / "labels", "/far/x/a.jpg")
    image = read_dataset(file, images=tmp_path / "images").images[0]
    assert image.path == tmp_path / "images" / "x" / "a.jpg"
    file = coco(tmp_path / "labels", "/far/y/a.jpg", "/far/z/a.jpg")
    with pytest.raises(DataError, match=r"'/far/y/a.jpg' and '/far/z/a.jpg' both end like"):
        read_dataset(file, images=tmp_path / "images")
    with pytest.raises(DataError, match="no file of this folder ends like it"):
        read_dataset(coco(tmp_path / "labels", "/far/none.jpg"), images=tmp_path / "images")


@pytest.mark.parametrize("name", ["../images/a.jpg", "a.jpg"])
def test_images_that_are_not_there_are_expected_beside_their_labels(tmp_path, name):
    shapes = {"shapes": [], "imagePath": name, "imageHeight": 48, "imageWidth": 64}
    for folder in ("labels", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels" / "a.json").write_text(json.dumps(shapes))
    (image,) = read_dataset(tmp_path / "labels").images
    assert image.path == tmp_path / "images" / "a.jpg"


def test_an_absolute_name_inside_the_folder_is_no_other_file_of_it(tmp_path):
    image_at(tmp_path / "images" / "a.jpg")
    name = str(tmp_path / "images" / "x" / "a.jpg")
    file = coco(tmp_path / "labels", name)
    assert str(read_dataset(file, images=tmp_path / "images").images[0].path) == name


def test_names_with_a_colon_or_a_dot_in_front_are_written_and_read(tmp_path):
    for name in ("a:b.jpg", ".hidden.jpg"):
        image_at(tmp_path / "src" / name)
    data = read_dataset(coco(tmp_path / "src", "a:b.jpg", ".hidden.jpg"))
    assert all(image.path.is_file() for image in data.images)
    report = write_dataset(data, tmp_path / "yolo", format="yolo")
    assert (report.num_images, report.num_objects) == (2, 2)
    assert any("begin with a dot" in finding.message for finding in report.findings)
    back = read_yolo(tmp_path / "yolo")["train"]
    assert {image.file_name for image in back.images} == {"a:b.jpg", "_hidden.jpg"}
    assert back.num_objects == 2


def test_names_of_images_that_are_not_there_are_placed_quickly(tmp_path):
    (tmp_path / "images").mkdir()
    names = [f"{number:012d}.jpg" for number in range(5000)]
    finder = ImageFinder(tmp_path, None, tmp_path, "x")
    start = time.process_time()
    found = finder.find_all(names)
    # 1.1 ms each before, 5.5 s.
    assert time.process_time() - start < 1.5
    assert found[7].path == tmp_path / "images" / names[7]


def test_one_folder_for_each_image_is_read_in_linear_time(tmp_path):
    def seconds(count):
        folder = tmp_path / str(count)
        for number in range(count):
            place = folder / f"{number}"
            place.mkdir(parents=True)
            (place / "a.xml").write_text(
                "<annotation><filename>a.jpg</filename><size><width>6</width><height>4</height>"
                "</size></annotation>"
            )
        start = time.process_time()
        (part,) = read_splits(folder, format="voc").values() if count == 1 else (None,)
        read_dataset(folder, format="voc")
        return time.process_time() - start

    few, many = seconds(100), seconds(400)
    assert many < 10 * few  # quadratic: 16 times


def test_renamed_images_are_found_by_the_annotation_files_name(tmp_path):
    image_at(tmp_path / "JPEGImages" / "new.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "new.xml").write_text(
        "<annotation><filename>old.jpg</filename></annotation>"
    )
    data = read_dataset(tmp_path)
    assert data.images[0].path.name == "new.jpg"
    assert "'old.jpg', which is not there" in data.findings[0].message
    shapes = {"shapes": [], "imagePath": "old.jpg", "imageHeight": 48, "imageWidth": 64}
    image_at(tmp_path / "lm" / "new.png")
    (tmp_path / "lm" / "new.json").write_text(json.dumps(shapes))
    assert read_dataset(tmp_path / "lm").images[0].path.name == "new.png"


@pytest.mark.parametrize("format_", ["coco", "yolo", "jsonl"])
def test_names_that_are_no_utf8_are_written_readably_and_found_again(tmp_path, format_):
    image = image_at(tmp_path / "src" / "a.png")
    odd = image.rename(os.fsdecode(os.fsencode(image.parent) + b"/caf\xe9.png"))
    data = read_dataset(coco(tmp_path / "src", odd.name))
    assert data.images[0].path == odd
    report = write_dataset(data, tmp_path / "out", format=format_)
    assert (report.num_images, report.num_objects) == (1, 1)
    back = read_dataset(tmp_path / "out")
    assert back.images[0].path.name == "caf%E9.png"
    lost = Finding("missing-file", "error", f"{odd} is not there", odd.name)
    assert f"{lost.where}: {lost.message}".encode().endswith(b"caf%E9.png is not there")
