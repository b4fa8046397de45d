"""Examples: text a model is trained on, and what comes back from it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ExampleOptions,
    ImageRecord,
    iter_examples,
    read_dataset,
    read_examples,
    read_jsonl,
    segmentation_to_mask,
    write_dataset,
)
from pgvision.datasets.examples import targets_of
from pgvision.datasets.outlines import clipped_xyxy
from pgvision.errors import DataError, OptionError, PromptError
from recipes.scenes.export import export_scenes


class GridCodec:
    """A codec that can be computed by hand: each code is the mean of one of 4 x 4 tiles."""

    def encode(self, masks):
        tiles = masks.reshape(-1, 4, 16, 4, 16).mean(axis=(2, 4))
        return np.rint(tiles.reshape(-1, 16) * 127).astype(np.int64)

    def decode(self, codes):
        tiles = codes.reshape(-1, 4, 4) / 127.0
        return (np.repeat(np.repeat(tiles, 16, axis=1), 16, axis=2) * 2 - 1).astype(np.float32)


def square(left, top, right, bottom):
    return ((left, top, right, top, right, bottom, left, bottom),)


def item(number, category, xywh, **more):
    x, y, w, h = xywh
    outline = more.pop("segmentation", square(x, y, x + w, y + h))
    return Annotation(number, category, xywh, outline, **more)


def shot(number, *objects, name=None, image_hw=(512, 1024)):
    name = name or f"{number}.png"
    return ImageRecord(number, name, Path(name), image_hw, objects)


CATEGORIES = (Category(5, "helmet"), Category(2, "head"), Category(9, "cat"))
LOW = item(1, 5, (100, 400, 50, 50))
BIG = item(2, 2, (500, 20, 400, 300))
TOP = item(3, 5, (700, 10, 30, 40))
DATA = Dataset((shot(1, LOW, BIG, TOP), shot(2)), CATEGORIES)


def texts(**options):
    found = iter_examples(DATA, options=ExampleOptions(**options))
    return [(e.image.name, e.prefix, e.suffix) for e in found]


def labels(suffix):
    return [part.rpartition(">")[2].strip() for part in suffix.split(" ; ")]


def test_a_suffix_is_top_left_bottom_right_in_1024_steps():
    name, prefix, suffix = texts()[0]
    assert (name, prefix) == ("1.png", "detect helmet ; head ; cat")
    assert suffix == (
        "<loc0020><loc0700><loc0100><loc0730> helmet ; "
        "<loc0040><loc0500><loc0640><loc0900> head ; "
        "<loc0800><loc0100><loc0900><loc0150> helmet"
    )


def test_edges_are_clamped_to_1023():
    whole = Dataset((shot(1, item(1, 5, (-9, -9, 2000, 2000))),), CATEGORIES[:1])
    for convention in ("1024", "1023"):
        options = ExampleOptions(convention=convention)
        suffix = next(iter_examples(whole, options=options)).suffix
        assert suffix == "<loc0000><loc0000><loc1023><loc1023> helmet"


def test_orders():
    assert labels(texts(order="raster")[0][2]) == ["helmet", "head", "helmet"]
    assert texts(order="random", seed=3) == texts(order="random", seed=3)
    found = {texts(order="random", seed=seed)[0][2] for seed in range(60)}
    assert len(found) == 6


def test_images_without_objects():
    assert texts(empty="keep")[1] == ("2.png", "detect helmet ; head ; cat", "")
    assert [name for name, _, _ in texts(empty="drop")] == ["1.png"]
    assert ("1.png", "detect cat", "") in texts(empty="negatives")
    assert texts(empty="negatives")[-1][2] == ""


def test_one_prompt_for_each_class():
    kept = texts(prompts="per_class", empty="drop")
    assert [(prefix, labels(suffix)) for _, prefix, suffix in kept] == [
        ("detect helmet", ["helmet", "helmet"]),
        ("detect head", ["head"]),
    ]
    kept = texts(prompts="per_class", empty="keep")
    assert [suffix for name, _, suffix in kept if name == "2.png"] == [""]
    kept = texts(prompts="per_class", empty="negatives", num_negatives=5)
    assert {prefix for name, prefix, suffix in kept if not suffix and name == "1.png"} == {
        "detect cat"
    }
    assert {prefix for name, prefix, _ in kept if name == "2.png"} == {
        "detect helmet",
        "detect head",
        "detect cat",
    }


def test_crowds_are_left_out():
    data = Dataset((shot(1, item(1, 5, (0, 0, 512, 256), iscrowd=True)),), CATEGORIES[:1])
    assert list(iter_examples(data)) == []
    beside = Dataset((shot(1, *data.images[0].objects, BIG),), CATEGORIES)
    for example in iter_examples(beside, options=ExampleOptions(empty="negatives")):
        assert (example.prefix, labels(example.suffix)) in [
            ("detect helmet ; head ; cat", ["head"]),
            ("detect cat", [""]),
        ]


def test_boxes_outside_or_without_extent_are_left_out():
    boxes = [(2000, 0, 9, 9), (9, 9, 0, 9), (9, 9, -4, 9), (9, 9, 0.4, 9)]
    lost = [item(number, 5, box) for number, box in enumerate(boxes, start=10)]
    data = Dataset((shot(1, *lost, LOW),), CATEGORIES[:1])
    assert labels(next(iter_examples(data)).suffix) == ["helmet"]
    assert list(iter_examples(Dataset((shot(1, *lost),), CATEGORIES[:1]))) == []


def test_masks_become_sixteen_codes_row_by_row():
    half = item(1, 5, (0, 0, 64, 64), segmentation=square(0, 0, 64, 32))
    data = Dataset((shot(1, half, image_hw=(128, 128)),), CATEGORIES[:1])
    options = ExampleOptions(task="segment")
    example = next(iter_examples(data, options=options, codec=GridCodec()))
    assert example.prefix == "segment helmet"
    assert example.suffix == (
        "<loc0000><loc0000><loc0512><loc0512>" + "<seg127>" * 8 + "<seg000>" * 8 + " helmet"
    )


def test_a_refcoco_seg_checkpoint_is_asked_one_bare_phrase_and_writes_no_label():
    """As big_vision's transfers/refcoco_seg.py: the phrase alone, then places and codes alone."""
    data = Dataset((shot(1, LOW, BIG),), CATEGORIES)
    options = ExampleOptions(task="segment", kind="refcoco-seg")
    found = list(iter_examples(data, options=options, codec=GridCodec()))
    assert [example.prefix for example in found] == ["helmet", "head"]
    assert all(re.fullmatch(r"(<loc\d{4}>){4}(<seg\d{3}>){16}", one.suffix) for one in found)


def test_what_cannot_be_written_is_refused():
    bare = Dataset((shot(1, item(1, 5, (0, 0, 9, 9), segmentation=None)),), CATEGORIES[:1])
    options = ExampleOptions(task="segment")
    with pytest.raises(DataError, match=r"1\.png: annotation 1 has a box and no mask"):
        list(iter_examples(bare, options=options, codec=GridCodec()))
    with pytest.raises(OptionError, match="needs codec"):
        list(iter_examples(bare, options=options))
    with pytest.raises(PromptError):
        list(iter_examples(Dataset((shot(1),), (Category(1, "a ; b"),))))


@pytest.mark.parametrize(
    "bad",
    [
        {"task": "caption"}, {"order": "size"}, {"prompts": "all"}, {"empty": "skip"},
        {"convention": "1000"}, {"kind": "big"}, {"num_negatives": 0},
    ],
)  # fmt: skip
def test_unknown_options_are_refused(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        ExampleOptions(**bad)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.002, 1), st.floats(0.002, 1)),
        min_size=1,
        max_size=6,
    ),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.sampled_from(["1024", "1023"]),
    st.sampled_from(["raster", "random"]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_are_read_back_within_half_a_bin(tmp_path, shares, image_hw, convention, order):
    height, width = image_hw
    objects = [
        item(n, 5, (x * width, y * height, min(w, 1 - x) * width, min(h, 1 - y) * height))
        for n, (x, y, w, h) in enumerate(shares)
    ]
    data = Dataset((shot(1, *objects, image_hw=image_hw),), CATEGORIES)
    options = ExampleOptions(convention=convention, order=order)
    write_dataset(data, tmp_path / "a.jsonl", format="jsonl", options=options)
    if not (tmp_path / "a.jsonl").read_text():
        return
    name = json.loads((tmp_path / "a.jsonl").read_text())["image"]
    back = read_jsonl(tmp_path / "a.jsonl", convention=convention, known_hw={name: image_hw})
    kept = next(iter(targets_of(data.images[0], data, options))).objects
    bins = np.array([int(convention) / side for side in (width, height) * 2])
    for before, after in zip(kept, back.images[0].objects, strict=True):
        wanted = np.array(clipped_xyxy(before, image_hw)) * bins
        gap = np.abs(np.array(after.xyxy) * bins - wanted)
        # Bin 1023 is the last: the far edge costs up to one bin under convention 1024.
        assert (gap <= np.where(wanted > 1023.5, 1, 0.5) + 1e-6).all()


def test_a_data_set_becomes_jsonl_and_comes_back(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    images = []
    for record in DATA.images:
        Image.new("RGB", (1024, 512)).save(place / record.file_name)
        images.append(
            ImageRecord(
                record.id, record.file_name, place / record.file_name, (512, 1024), record.objects
            )
        )
    data = Dataset(tuple(images), CATEGORIES)
    options = ExampleOptions(task="segment", prompts="per_class")
    out = tmp_path / "out"
    write_dataset(data, out, format="jsonl", options=options, codec=GridCodec())
    lines = (out / "examples.jsonl").read_text().splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("image", "prefix", "suffix")}
    written = [(e.prefix, e.suffix) for e in read_examples(out / "examples.jsonl")]
    expected = iter_examples(data, options=options, codec=GridCodec())
    assert written == [(e.prefix, e.suffix) for e in expected]
    back = read_dataset(out, codec=GridCodec())
    assert not back.findings
    found = {
        (back.names[o.category_id], o.xyxy): segmentation_to_mask(o.segmentation, (512, 1024))
        for o in back.images[0].objects
    }
    for before in (LOW, BIG, TOP):
        mask = found.pop((data.names[before.category_id], before.xyxy))
        assert (mask == segmentation_to_mask(before.segmentation, (512, 1024))).all()
    assert not found


def jsonl(tmp_path, *entries):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return file


def entry(prefix="detect cat", suffix="<loc0000><loc0000><loc0512><loc0512> cat", image="a.png"):
    return {"image": image, "prefix": prefix, "suffix": suffix}


def test_what_cannot_be_parsed_is_found_not_dropped(tmp_path):
    file = jsonl(
        tmp_path,
        entry(),
        entry("detect cat", "<loc0000><loc0000><loc0512> cat"),
        entry("detect dog", "<loc0000><loc0000><loc0512><loc0512> bird"),
        entry("segment cat", "<loc0000><loc0000><loc0512><loc0512>" + "<seg001>" * 16),
        entry("caption en", "a cat"),
    )
    data = read_dataset(file)
    assert {finding.rule for finding in data.findings} == {"reject", "label", "left-out"}
    assert [data.names[o.category_id] for o in data.images[0].objects] == ["cat", "bird"]


@pytest.mark.parametrize(
    "text", ["{0}helmet", "{0} helmet ;", "{0} helmet; {0} helmet", "{0} helmet<eos>"]
)
def test_an_answer_that_a_model_should_not_learn_to_write_is_noted(tmp_path, text):
    box = "<loc0100><loc0100><loc0200><loc0200>"
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    for suffix, rules in ((text.format(box), {"form"}), (f"{box} helmet", set())):
        line = {"image": "a.png", "prefix": "detect helmet", "suffix": suffix}
        (tmp_path / "a.jsonl").write_text(json.dumps(line))
        assert {finding.rule for finding in read_jsonl(tmp_path / "a.jsonl").findings} == rules


def test_an_object_that_several_lines_name_is_one_object(tmp_path):
    box, other = "<loc0000><loc0000><loc0512><loc0512>", "<loc0100><loc0000><loc0512><loc0512>"
    codes = "<seg127>" * 16
    file = jsonl(
        tmp_path,
        entry("detect cat", f"{box} cat ; {other} cat ; {box} cat"),
        entry("segment cat", f"{box}{codes} cat ; {box}{codes} cat"),
        entry("detect cat ; dog", f"{box} cat ; {box} dog"),
    )
    data = read_dataset(file, codec=GridCodec())
    found = [(data.names[o.category_id], o.xywh, o.segmentation) for o in data.images[0].objects]
    assert [(name, xywh) for name, xywh, _ in found] == [
        ("cat", (0, 0, 32, 32)),
        ("cat", (0, 6.25, 32, 25.75)),
        ("cat", (0, 0, 32, 32)),
        ("dog", (0, 0, 32, 32)),
    ]
    assert [mask is not None for _, _, mask in found] == [True, False, True, False]
    assert [item.id for item in data.images[0].objects] == [1, 2, 3, 4]


def test_the_exported_world_is_read_as_its_coco_file_says(tmp_path):
    folder = export_scenes(
        tmp_path / "site", count=2, seed=5, image_hw=(160, 200), codec=GridCodec()
    )
    truth = json.loads((folder / "instances.json").read_text())
    for source in (folder, folder / "examples.jsonl"):
        data = read_dataset(source)
        assert data.num_objects == len(truth["annotations"])
    assert read_dataset(folder).classes == tuple(c["name"] for c in truth["categories"])


def test_a_line_may_hold_unicode_line_ends(tmp_path):
    file = jsonl(tmp_path)
    lines = [entry("caption en", "one\u2028two\x85three"), entry()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, encoding="utf-8")
    assert [e.suffix for e in read_examples(file)] == [line["suffix"] for line in lines]


def test_what_examples_do_not_hold_is_counted(tmp_path):
    crowd = item(4, 5, (0, 0, 300, 200), iscrowd=True, area=7.0)
    tiny = item(5, 5, (9, 9, 0.2, 9))
    away = item(6, 5, (2000, 9, 9, 9), extra={"score": 0.5})
    second = replace(crowd, id=7)
    images = (shot(1, LOW, crowd, tiny), shot(2, second), shot(3, away), shot(4))
    data = Dataset(images, CATEGORIES)
    report = write_dataset(data, tmp_path / "a.jsonl", format="jsonl")
    assert (report.num_images, report.num_objects) == (2, 1)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len({line["image"] for line in lines}) == report.num_images
    lost = {f.message for f in report.findings if f.is_loss}
    assert lost == {
        "2 crowd regions were left out (1.png annotation 4, 2.png annotation 7)",
        "1 objects were left out: their boxes have no extent in bins (1.png annotation 5)",
        "1 objects were left out: their boxes are outside the image (3.png annotation 6)",
        "2 images were left out with all their objects (2.png, 3.png)",
    }
    kept = " | ".join(f.message for f in report.findings if not f.is_loss)
    for words in ("1 masks", "1 annotations lost fields of their own (score)"):
        assert words in kept
    # What the options leave out is no loss.
    options = ExampleOptions(empty="drop")
    data = Dataset((shot(1, LOW), shot(2)), CATEGORIES)
    report = write_dataset(data, tmp_path / "b.jsonl", format="jsonl", options=options)
    assert [(f.message, f.is_loss) for f in report.findings if "images" in f.message] == [
        ("1 images were left out: they have no objects and empty='drop' (2.png)", False)
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"image": "a.png", "prefix": "detect', r"line 2: not complete JSON"),
        ('{"image": "a.png", "prefix": "detect cat", "suffix": NaN}', "line 2: .*contains NaN"),
        ({"image": "a.png", "prefix": "detect cat"}, "line 2: lacks 'suffix'"),
        ({"image": "a.png", "suffix": ""}, "line 2: lacks 'prefix'"),
        ({"prefix": "detect cat", "suffix": ""}, "line 2: lacks 'image'"),
        (entry(image="../a.png"), "line 2: image name '../a.png' leaves"),
        (entry(image="/etc/a.png"), "line 2: image name '/etc/a.png' is absolute"),
        ("[]", "line 2: expected a JSON object"),
    ],
)
def test_broken_lines_are_named(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        read_examples(jsonl(tmp_path, entry(), bad))


def test_no_lines_no_objects_and_no_image_are_refused(tmp_path):
    with pytest.raises(DataError, match="contains no example"):
        read_examples(jsonl(tmp_path, ""))
    with pytest.raises(DataError, match="no line has a prefix"):
        read_dataset(jsonl(tmp_path, entry("caption en", "a cat")))
    with pytest.raises(DataError, match="bins need the image's size"):
        read_dataset(jsonl(tmp_path, entry(image="gone.png")))


@pytest.mark.parametrize("wrong", ["answer en why?", [1], [""], {"a": "b"}])
def test_paraphrases_are_a_list_of_prompts(tmp_path, wrong):
    line = {"image": "a.jpg", "prefix": "answer en who?", "suffix": "no", "paraphrases": wrong}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"a\.jsonl: line 1: .*paraphrases.*a list"):
        read_examples(tmp_path / "a.jsonl")
