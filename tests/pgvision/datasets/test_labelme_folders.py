"""LabelMe: every shape that encloses something, groups as one object, holes kept."""

import base64
import io
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pgvision.datasets import read_dataset, read_labelme, read_splits, segmentation_to_mask
from pgvision.errors import DataError

TRIANGLE = [[10.5, 20], [30, 20], [30, 44.25]]


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def write(folder, *shapes, name="a", **more):
    entry = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": 100,
        "imageWidth": 200,
        **more,
    }
    (folder / f"{name}.json").write_text(json.dumps(entry))
    return folder


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def objects(folder):
    return read_labelme(folder).images[0].objects


def test_polygons_and_rectangles(tmp_path):
    write(tmp_path, shape("man", TRIANGLE), shape("hat", [[9, 8], [3, 2]], "rectangle"))
    data = read_dataset(tmp_path)
    first, second = data.images[0].objects
    assert data.classes == ("hat", "man")
    assert first.segmentation == ((10.5, 20, 30, 20, 30, 44.25),)
    assert first.xyxy == (10.5, 20, 30, 44.25)
    assert (second.xyxy, second.segmentation) == ((3, 2, 9, 8), None)
    assert data.images[0].image_hw == (100, 200)


def test_a_rotated_rectangle_in_a_group_keeps_all_outlines(tmp_path):
    rotated = [[50, 50], [60, 60], [50, 70], [40, 60]]
    upright = shape("man", [[9, 8], [3, 2]], "rectangle", group_id=1)
    write(tmp_path, upright, shape("man", rotated, "rectangle", group_id=1))
    (item,) = objects(tmp_path)
    assert item.xyxy == (3, 2, 60, 70)
    assert len(item.segmentation) == 2 and item.segmentation[1] == tuple(np.ravel(rotated))


def test_a_circle_has_its_centre_and_radius(tmp_path):
    write(tmp_path, shape("ball", [[50, 40], [53, 44]], "circle"))
    item = objects(tmp_path)[0]
    assert item.xyxy == pytest.approx((45, 35, 55, 45))
    area = segmentation_to_mask(item.segmentation, (100, 200)).sum()
    assert area == pytest.approx(np.pi * 25, rel=0.1)


def test_shapes_of_a_group_are_one_object(tmp_path):
    far = [[100, 50], [120, 50], [120, 90]]
    write(
        tmp_path,
        shape("man", TRIANGLE, group_id=1),
        shape("man", far, group_id=1),
        shape("hat", far, group_id=1),
        shape("man", far),
    )
    found = objects(tmp_path)
    assert len(found) == 3
    assert found[0].xyxy == (10.5, 20, 120, 90)
    assert len(found[0].segmentation) == 2


def test_a_mask_keeps_its_hole_and_its_place(tmp_path):
    part = np.ones((5, 7), dtype=bool)
    part[2, 3] = False
    write(tmp_path, shape("ring", [[11, 21], [17, 25]], "mask", mask=png(part)))
    item = objects(tmp_path)[0]
    expected = np.zeros((100, 200), dtype=bool)
    expected[21:26, 11:18] = part
    assert (segmentation_to_mask(item.segmentation, (100, 200)) == expected).all()
    assert item.xywh == (11, 21, 7, 5)


def test_points_and_lines_are_left_out_and_said(tmp_path):
    write(tmp_path, shape("p", [[1, 1]], "point"), shape("man", TRIANGLE))
    data = read_labelme(tmp_path)
    assert data.classes == ("man",)
    assert [(f.rule, f.level) for f in data.findings] == [("left-out", "warning")]


@pytest.mark.parametrize("name", ["..\\images\\a.jpg", "../images/a.jpg", "a.jpg", "a.JPG", "a"])
def test_images_in_a_folder_beside_are_found(tmp_path, name):
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    write(tmp_path / "labels", shape("man", TRIANGLE), imagePath=name)
    for path, where in ((tmp_path, None), (tmp_path / "labels", tmp_path / "images")):
        data = read_dataset(path, images=where)
        assert data.images[0].path == tmp_path / "images" / "a.jpg"
        assert data.images[0].file_name.endswith("a.jpg")


def test_a_name_that_may_mean_two_pictures_is_refused(tmp_path):
    for ending in ("jpg", "png"):
        (tmp_path / f"a.{ending}").touch()
    write(tmp_path, shape("man", TRIANGLE), imagePath="a")
    with pytest.raises(DataError, match=r"may mean .*a\.jpg or .*a\.png"):
        read_labelme(tmp_path)


def test_a_name_out_of_the_data_set_is_refused(tmp_path):
    write(tmp_path, shape("man", TRIANGLE), imagePath="../../secret.jpg")
    with pytest.raises(DataError, match=r"leaves the image folder .*images="):
        read_labelme(tmp_path)


def test_rectangles_of_four_corners_and_turned_ones(tmp_path):
    corners = [[5, 6], [20, 6], [20, 30], [5, 30]]
    diamond = [[10, 6], [20, 16], [10, 26], [0, 16]]
    kinds = ("rectangle", "oriented_rectangle", "rotation", "quadrilateral")
    write(tmp_path, shape("hat", corners, "rectangle"), *(shape("hat", diamond, k) for k in kinds))
    upright, *turned = objects(tmp_path)
    assert (upright.xywh, upright.segmentation) == ((5, 6, 15, 24), None)
    assert [item.xywh for item in turned] == [(0, 6, 20, 20)] * 4
    assert {item.segmentation for item in turned} == {((10, 6, 20, 16, 10, 26, 0, 16),)}


@pytest.mark.parametrize("turned", [False, True])
def test_a_sheared_rectangle_keeps_its_outline(tmp_path, turned):
    points = np.array([[0, 0], [10, 0], [15, 10], [5, 10]])[:, :: -1 if turned else 1]
    write(tmp_path, shape("hat", points.tolist(), "rectangle"))
    assert objects(tmp_path)[0].segmentation == (tuple(points.ravel()),)


def test_flags_and_description_are_kept(tmp_path):
    item = shape("man", TRIANGLE, flags={"far": True}, description="by the crane", id=7)
    write(tmp_path, item, flags={"night": True})
    image = read_labelme(tmp_path).images[0]
    assert image.extra == {"flags": {"night": True}}
    assert image.objects[0].extra == {"flags": {"far": True}, "description": "by the crane"}


def test_a_size_of_0_is_read_from_the_image(tmp_path):
    write(tmp_path, shape("man", TRIANGLE), imageHeight=0, imageWidth=0)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    assert read_labelme(tmp_path).images[0].image_hw == (48, 64)


def test_folders_of_parts_share_their_classes(tmp_path):
    for part, label in (("train", "man"), ("valid", "hat")):
        (tmp_path / part).mkdir()
        write(tmp_path / part, shape(label, TRIANGLE))
    parts = read_splits(tmp_path)
    assert {key: part.classes for key, part in parts.items()} == {
        "train": ("hat", "man"),
        "valid": ("hat", "man"),
    }
    assert read_dataset(tmp_path).num_objects == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("man", TRIANGLE[:2]), "2 points, expected at least 3"),
        (shape("man", [[1, 2, 3]] * 3), "x, y pairs"),
        (shape("man", [["1", "2"]] * 3), "x, y pairs"),
        (shape("", TRIANGLE), "'label' is ''"),
        ({"label": "man", "shape_type": "polygon"}, "lacks 'points'"),
        (shape("man", [[0, 0], [9, 9]], "mask", mask="no base64!"), "not a PNG"),
        (shape("man", [[199, 0], [9, 9]], "mask", mask=png(np.ones((3, 3)))), "beyond the image"),
        (shape("man", [[0, 98], [9, 9]], "mask", mask=png(np.ones((3, 3)))), "beyond the image"),
        (shape("man", [[0, 0], [2, 2]], "mask", mask=png(np.zeros((3, 3)))), "is empty"),
    ],
)
def test_broken_shapes_are_named(tmp_path, bad, message):
    with pytest.raises(DataError, match=message) as caught:
        read_labelme(write(tmp_path, bad))
    assert "a.json: shapes[0]" in str(caught.value)


def test_shapes_without_a_type_are_polygons_and_odd_types_are_left_out(tmp_path):
    bare = shape("man", TRIANGLE)
    del bare["shape_type"]
    write(tmp_path, bare, shape("x", TRIANGLE, []), shape("y", TRIANGLE, ["mask"]))
    data = read_labelme(tmp_path)
    assert data.num_objects == 2
    assert [finding.rule for finding in data.findings] == ["left-out"]


def test_a_size_that_no_image_has_is_refused(tmp_path):
    write(tmp_path, shape("man", TRIANGLE), imageHeight=10**9, imageWidth=10**9)
    with pytest.raises(DataError, match="at most"):
        read_labelme(tmp_path)


def test_a_cut_file_and_a_folder_without_shapes_are_refused(tmp_path):
    with pytest.raises(DataError, match="found none"):
        read_labelme(tmp_path)
    write(tmp_path, shape("man", TRIANGLE))
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text[:-20])
    with pytest.raises(DataError, match=r"a\.json: not complete JSON"):
        read_labelme(tmp_path)


def test_embedded_images_are_not_kept(tmp_path):
    for number in range(40):
        data = base64.b64encode(bytes(1_000_000)).decode()
        write(tmp_path, shape("man", TRIANGLE), name=f"{number}", imageData=data)
    read_labelme(tmp_path / "0.json")  # imports
    tracemalloc.start()
    assert read_labelme(tmp_path).num_objects == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000  # the parser of one file; 53 MB when all were kept


def test_wild_coordinates_and_broken_files_are_named(tmp_path):
    write(tmp_path, shape("man", [[0, 0], [1e9, 0], [1e9, 30]]))
    write(tmp_path, shape("man", TRIANGLE), name="b")
    with pytest.raises(DataError, match=r"a\.json: shapes\[0\]: 'points' .*far outside"):
        read_labelme(tmp_path)
    data = read_labelme(tmp_path, on_error="record")
    assert [image.file_name for image in data.images] == ["b.jpg"]
    assert [(f.rule, f.where) for f in data.findings] == [("broken-entry", "a.json")]


def test_a_mask_of_too_many_pixels_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")  # 50 kB
    mask = base64.b64encode(file.getvalue()).decode()
    write(tmp_path, shape("h", [[0, 0], [5, 5]], "mask", mask=mask))
    with pytest.raises(DataError, match=r"shapes\[0\]: 'mask' is not a PNG"):
        read_labelme(tmp_path)
