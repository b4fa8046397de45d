"""Pascal VOC: boxes as the devkit counts pixels, and no entity ever followed."""

from pathlib import Path

import pytest
from PIL import Image

from pgvision.datasets import dataset_to_coco, read_dataset, read_voc
from pgvision.errors import DataError

OBJECT = """<object><name>{name}</name>{more}<bndbox><xmin>{0}</xmin><ymin>{1}</ymin>
<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


FAR = "<polygon><x1>1</x1><y1>2</y1><x2>5001</x2><y2>2</y2><x3>5</x3><y3>8</y3></polygon>"


def xml(*objects, filename="a.jpg", size="<width>500</width><height>375</height>"):
    return (
        f"<annotation><filename>{filename}</filename><size>{size}</size>"
        f"{''.join(objects)}</annotation>"
    )


def box(name, *corners, more=""):
    return OBJECT.format(*corners, name=name, more=more)


def folder_with(tmp_path, **files):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    for name, text in files.items():
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    return tmp_path


def test_pixels_count_from_one_and_the_far_edge_is_included(tmp_path):
    # VOC 2007's 000001.xml: a dog over pixels 48..195 by 240..371, counted from 1.
    folder = folder_with(tmp_path, a=xml(box("dog", 48, 240, 195, 371)))
    item = read_voc(folder).images[0].objects[0]
    assert item.xyxy == (47, 239, 195, 371)
    whole = xml(box("dog", 1, 1, 500, 375))
    (folder / "Annotations" / "a.xml").write_text(whole)
    assert read_voc(folder).images[0].objects[0].xywh == (0, 0, 500, 375)


def test_classes_sizes_flags_and_ids(tmp_path):
    folder = folder_with(
        tmp_path,
        b=xml(box("dog", 1, 1, 9, 9, more="<difficult>1</difficult>"), filename="b.jpg"),
        a=xml(box("person", 2, 2, 8, 8), box("cat", 3, 3, 7, 7)),
        c=xml(filename="c.jpg"),
    )
    data = read_dataset(folder)
    assert data.classes == ("cat", "dog", "person")
    assert [image.file_name for image in data.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert data.images[0].image_hw == (375, 500)
    assert data.images[0].path == folder / "JPEGImages" / "a.jpg"
    assert [data.names[item.category_id] for item in data.images[0].objects] == ["person", "cat"]
    assert data.images[1].objects[0].extra == {"difficult": 1}
    coco = dataset_to_coco(data)
    for name in ("images", "categories", "annotations"):
        assert [entry["id"] for entry in coco[name]] == [1, 2, 3]


def test_polygons_stay_polygons(tmp_path):
    outline = (
        "<polygon><x1>11</x1><y1>21</y1><x2>31.5</x2><y2>21</y2><x3>31</x3><y3>41</y3></polygon>"
    )
    folder = folder_with(tmp_path, a=xml(box("dog", 11, 21, 31, 41, more=outline)))
    item = read_voc(folder).images[0].objects[0]
    assert item.segmentation == ((10, 20, 30.5, 20, 30, 40),)
    assert item.xyxy == (10, 20, 31, 41)


@pytest.mark.parametrize(
    "more", ["<polygon/>", "<polygon><x1>1</x1><y1>2</y1><x2>5</x2><y2>2</y2></polygon>"]
)
def test_polygons_that_enclose_nothing_leave_the_box(tmp_path, more):
    folder = folder_with(tmp_path, a=xml(box("dog", 11, 21, 31, 41, more=more)))
    item = read_voc(folder).images[0].objects[0]
    assert (item.xyxy, item.segmentation) == ((10, 20, 31, 41), None)


def test_a_size_that_is_not_stated_is_read_from_the_image(tmp_path):
    folder = folder_with(tmp_path, a=xml(box("dog", 1, 1, 9, 9), size=""))
    with pytest.raises(DataError, match=r"a\.xml: lacks <size>"):
        read_voc(folder)
    Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / "a.jpg")
    assert read_voc(folder).images[0].image_hw == (30, 40)


@pytest.mark.parametrize("stated", ["a", "a.JPG", "a%20b", "cafe\u0301.jpg"])
def test_sizes_of_0_and_names_without_ending(tmp_path, stated):
    on_disk = {"a%20b": "a b.jpg", "cafe\u0301.jpg": "caf\u00e9.jpg"}.get(stated, "a.jpg")
    size = "<width>0</width><height>0</height>"
    folder = folder_with(tmp_path, a=xml(box("dog", 1, 1, 9, 9), size=size, filename=stated))
    Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / on_disk)
    image = read_voc(folder).images[0]
    assert (image.path.name, image.image_hw) == (on_disk, (30, 40))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    name = "caf\u00e9" if encoding == "latin-1" else "\u4eba"
    head = f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?>"
    folder = folder_with(tmp_path)
    (folder / "Annotations" / "a.xml").write_bytes(
        (head + xml(box(name, 1, 1, 9, 9))).encode(encoding)
    )
    assert read_voc(folder).classes == (name,)


@pytest.mark.parametrize("encoding", ["gbk", "no-such"])
def test_other_encodings_are_refused(tmp_path, encoding):
    head = f"<?xml version='1.0' encoding='{encoding}'?>"
    with pytest.raises(DataError, match=r"a\.xml: not complete XML: .*encoding"):
        read_voc(folder_with(tmp_path, a=head + xml(box("dog", 1, 1, 9, 9))))


@pytest.mark.parametrize(
    "entity",
    [
        '<!ENTITY secret SYSTEM "file://{place}">',
        '<!ENTITY % secret SYSTEM "file://{place}"> %secret;',
        '<!ENTITY secret "aaaa">',
    ],
)
def test_a_file_with_an_entity_is_refused_and_nothing_is_read(tmp_path, entity):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP-SECRET")
    head = f"<?xml version='1.0'?><!DOCTYPE annotation [{entity.format(place=secret)}]>"
    folder = folder_with(tmp_path, a=head + xml(box("&secret;", 1, 1, 9, 9)))
    with pytest.raises(DataError, match=r"a\.xml: refused: .*entity") as caught:
        read_voc(folder)
    assert "TOP-SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(box("dog", 1, 1, 9, 9))[:90], "not complete XML"),
        ("<html></html>", "expected <annotation>"),
        (xml("<object><name>dog</name></object>"), "bndbox"),
        (xml(box("", 1, 1, 9, 9)), "<object> lacks <name>"),
        (xml(box("dog", 1, 1, "nan", 9)), "xmax"),
        (xml(box("dog", 1, 1, "", 9)), "xmax"),
        (xml(box("dog", 1, 1, "1e300", 9)), "xmax"),
        (xml(size="<width>9999999</width><height>9999999</height>"), "at most"),
        (xml(filename="../../a.jpg"), "leaves the image folder"),
        (xml(filename="/etc/a.jpg"), "absolute"),
        (xml(box("dog", 1, 1, 9, 9, more="<polygon><x1>a</x1></polygon>")), "expected numbers"),
        (xml(box("dog", 1, 1, 9, 9, more="<polygon><x1>1</x1></polygon>")), "x, y pairs"),
        (xml(box("dog", 1, 1, 9, 9, more=FAR)), "reaches x = 5000, far outside"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_voc(folder_with(tmp_path, a=text))
    assert "a.xml" in str(caught.value)


def test_a_folder_without_xml_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected Pascal VOC files"):
        read_voc(Path(tmp_path))


def test_decimals_keep_all_their_digits(tmp_path):
    folder = folder_with(tmp_path, a=xml(box("dog", 1.6, 2.7, 9.1, 8.2)))
    assert read_voc(folder).images[0].objects[0].xyxy == pytest.approx((0.6, 1.7, 9.1, 8.2), 1e-12)


def test_broken_files_cost_their_image_alone(tmp_path):
    folder = folder_with(tmp_path, a=xml(box("dog", 1, 1, 9, 9))[:90], b=xml(filename="b.jpg"))
    data = read_voc(folder, on_error="record")
    assert [image.file_name for image in data.images] == ["b.jpg"]
    assert [(f.rule, f.where) for f in data.findings] == [("broken-entry", "a.xml")]


def test_corners_that_are_swapped_are_refused(tmp_path):
    folder = folder_with(tmp_path, a=xml(box("dog", 30, 5, 10, 20)))
    with pytest.raises(DataError, match=r"a\.xml: <bndbox>: xmax 10 .* is below xmin 30"):
        read_voc(folder)
    # One pixel: the far edge is included, so that both corners are the same.
    (folder / "Annotations" / "a.xml").write_text(xml(box("dog", 30, 5, 30, 5)))
    assert read_voc(folder).images[0].objects[0].xywh == (29, 4, 1, 1)


@pytest.mark.parametrize("filename", ["<filename></filename>", ""])
def test_without_a_filename_the_image_has_the_name_of_its_xml(tmp_path, filename):
    text = xml(box("dog", 1, 2, 3, 4)).replace("<filename>a.jpg</filename>", filename)
    folder = folder_with(tmp_path, a=text)
    Image.new("RGB", (500, 375)).save(folder / "JPEGImages" / "a.png")
    (image,) = read_voc(folder).images
    assert image.path == folder / "JPEGImages" / "a.png"
    assert image.objects[0].xywh == (0, 1, 3, 3)
