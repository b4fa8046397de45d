"""The data of a run: parts by their names, checks before the first step, identity by content."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from pgvision.datasets import read_splits
from pgvision.errors import DataError, OptionError
from pgvision.runtime import find_checkpoint, load
from pgvision.training import DataSource, TrainConfig
from pgvision.training.data import read_data, sample_part
from pgvision.training.folder import card_after
from pgvision.training.losses import Collator
from pgvision.training.samples import Sample

BOX = "<loc0100><loc0100><loc0500><loc0500>"


def read(*paths, **options):
    return read_data([DataSource(data=path) for path in paths], TrainConfig(**options))


def images_of(part):
    return {image.file_name for image in part.images}


@pytest.fixture
def coco(tmp_path):
    """Write a COCO file for images 0.jpg, 1.jpg ...: ``coco(name, numbers)``."""
    (tmp_path / "set" / "images").mkdir(parents=True)

    def write(name, numbers, **more):
        for k in numbers:
            pixels = np.full((48, 64, 3), k * 7 % 250, np.uint8)
            cv2.imwrite(str(tmp_path / "set" / "images" / f"{k}.jpg"), pixels)
        rows = [{"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in numbers]
        boxes = [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400,
             "iscrowd": 0}
            for k in numbers
        ]  # fmt: skip
        content = {
            "images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "helmet"}]
        }  # fmt: skip
        (tmp_path / "set" / f"{name}.json").write_text(json.dumps(content | more))
        return tmp_path / "set"

    return write


def roboflow(folder, parts):
    """The export that every PaliGemma tutorial uses: three JSONL files in one folder."""
    folder.mkdir()
    for part, count in parts.items():
        lines = []
        for k in range(count):
            Image.new("RGB", (64, 48), (200, 120, 9 * k)).save(folder / f"{part}{k}.png")
            row = {"image": f"{part}{k}.png", "prefix": "detect helmet", "suffix": f"{BOX} helmet"}
            lines.append(json.dumps(row) + "\n")
        (folder / f"_annotations.{part}.jsonl").write_text("".join(lines))
    return folder


def test_the_test_part_is_never_learnt_from(tmp_path):
    folder = roboflow(tmp_path / "rf", {"train": 8, "valid": 3, "test": 5})
    (task,) = read(folder).tasks
    assert len(task.train.images) == 8 and len(task.valid.images) == 3
    assert "8 images" in task.summary["training"] and "train" in task.summary["training"]
    (folder / "_annotations.train.jsonl").unlink()
    (folder / "_annotations.valid.jsonl").rename(folder / "other.jsonl")
    with pytest.raises(DataError):
        roboflow(tmp_path / "odd", {"a": 4, "b": 4})
        read(tmp_path / "odd")


def test_texts_in_folders_of_their_own_are_found(tmp_path):
    for part, count in (("train", 3), ("valid", 2)):
        folder = tmp_path / "set" / part
        folder.mkdir(parents=True)
        lines = []
        for k in range(count):
            Image.new("RGB", (9, 9), (k, 0, 0)).save(folder / f"{k}.png")
            lines.append(json.dumps({"image": f"{k}.png", "prefix": "ocr", "suffix": "A"}))
        (folder / "annotations.jsonl").write_text("\n".join(lines))
    (task,) = read(tmp_path / "set", task="read").tasks
    assert (len(task.train), len(task.valid)) == (3, 2)


def test_images_are_held_back_by_content(coco, tmp_path):
    folder = coco("all", range(20))
    (task,) = read(folder / "all.json").tasks
    assert len(task.valid.images) == 5 and len(task.train.images) == 15
    (again,) = read(folder / "all.json").tasks
    assert images_of(again.valid) == images_of(task.valid)
    for count, held in ((3, 1), (6, 2), (9, 3)):  # of few at most a third
        (task,) = read(coco(f"{count}", range(count)) / f"{count}.json").tasks
        assert (len(task.train.images), len(task.valid.images)) == (count - held, held)
    few = coco("few", range(1))
    with pytest.raises(DataError, match="1 images are too few.*--valid"):
        read(few / "few.json")


def test_what_would_end_the_run_is_left_out_and_named(coco, caplog):
    folder = coco("train", range(12))
    coco("valid", range(20, 26))
    turned = Image.Exif()
    turned[0x112] = 6
    Image.new("RGB", (64, 48)).save(folder / "images" / "7.jpg", exif=turned)
    (folder / "images" / "3.jpg").unlink()
    (folder / "images" / "22.jpg").write_bytes(b"no image")
    (task,) = read(folder).tasks
    assert {path.rpartition("/")[2] for path in task.left_out} == {"7.jpg", "3.jpg", "22.jpg"}
    assert len(task.train.images) == 10 and len(task.valid.images) == 5
    assert "the image is 48x64, its annotations say 64x48" in caplog.text
    for k in range(5):  # half of the images, with the one that is turned
        (folder / "images" / f"{k}.jpg").write_bytes(b"")
    assert len(read(folder).tasks[0].train.images) == 6
    for k in range(8):
        (folder / "images" / f"{k}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="8 of 12 images cannot be used.*convert --check"):
        read(folder)


def test_masks_are_looked_for_before_the_first_step(coco, scenes):
    folder = coco("train", range(6))
    coco("valid", range(6, 9))
    with pytest.raises(DataError, match="6 of 6 images cannot be used: .*no mask"):
        read(folder, task="segment", model="tiny")
    (task,) = read(scenes, task="segment", model="tiny").tasks
    assert not task.left_out


def test_nothing_to_learn_or_to_measure_is_refused(coco):
    folder = coco("train", range(6))
    coco("valid", range(6, 9), annotations=[])
    with pytest.raises(DataError, match="none of the 3 validation images has an object"):
        read(folder)
    coco("train", range(6), annotations=[])
    with pytest.raises(DataError, match="none of 6 images has an object"):
        read(folder)


def test_images_in_both_parts_and_unseen_classes_are_warned_of(coco, caplog):
    folder = coco("train", range(6))
    names = [{"id": 1, "name": "helmet"}, {"id": 2, "name": "dragon"}]
    coco("valid", range(4, 8), categories=names)
    read(folder)
    assert "2 validation images are in the training part too" in caplog.text
    assert "4.jpg, 5.jpg\n" in caplog.text
    coco("valid", range(1, 6), categories=names)
    read(folder)
    assert "5.jpg\n" in caplog.text and "more" not in caplog.text
    coco("valid", range(6), categories=names)
    read(folder)
    assert "4.jpg and 1 more" in caplog.text
    assert "the training part has no object of dragon" in caplog.text


def test_the_identity_of_data_is_their_content(scenes, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(scenes, moved)
    one = read(scenes)
    assert read(moved).digest == one.digest
    assert read(moved, rename={"helmet": "hat"}).digest != one.digest
    content = json.loads((moved / "train" / "instances.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (moved / "train" / "instances.json").write_text(json.dumps(content))
    assert read(moved).digest != one.digest
    before, image = read(moved).digest, read(moved).tasks[0].train.images[0]
    image.path.write_bytes(image.path.read_bytes() + b"0")
    assert read(moved).digest != before


def test_classes_are_renamed_and_joined(scenes):
    (task,) = read(scenes, rename={"helmet": "hat", "head": "hat"}).tasks
    assert task.classes[0] == "hat" and "helmet" not in task.classes
    before = read_splits(scenes)["train"]
    wanted = sum(
        before.names[item.category_id] in ("helmet", "head")
        for image in before.images
        for item in image.objects
    )
    found = sum(
        task.train.names[item.category_id] == "hat"
        for image in task.train.images
        for item in image.objects
    )
    assert found == wanted and task.asked_as == {"helmet": "hat", "head": "hat"}


def test_a_rename_of_a_class_that_is_not_there_is_refused(scenes):
    with pytest.raises(OptionError, match="rename: no class is named 'helmt'; there is helmet$"):
        read(scenes, rename={"helmt": "hat"})


def written(folder, rows):
    """Write JSONL examples about one image: pairs of prompt and answer."""
    folder.mkdir()
    Image.new("RGB", (40, 30), (9, 99, 200)).save(folder / "a.png")
    lines = [json.dumps({"image": "a.png", "prefix": p, "suffix": s}) for p, s in rows]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "valid.jsonl").write_text("\n".join(lines[:2]))
    return folder


def test_examples_that_the_model_would_cut_off_are_left_out_before_the_first_step(tmp_path, caplog):
    """One of them ended the run at the step that drew it."""
    collator = Collator(load("tiny").processor, max_length=150)  # 50 tokens beside the image
    rows = [
        ("ocr", "A"), ("<image>ocr\n", "B C"), ("ocr", "word " * 60), ("word " * 60, "A"),
        ("long " * 999, "A"), ("what is <image> ?", "A"),
    ]  # fmt: skip
    (data,) = read(written(tmp_path / "set", rows), task="read").tasks
    task = data.fitting(collator)
    assert [one[1:3] for one in task.train] == [("ocr", "A"), ("ocr", "B C")]
    assert len(task.left_out) == 4
    for text in ("prompt and answer have 301 tokens, the model takes 46", "at most 508 are read",
                 "the prompt contains <image>"):  # fmt: skip
        assert text in caplog.text
    # The longest that are kept go through the collator, to the token.
    for number in range(1, 12):
        example = task.train[0]._replace(suffix="word " * number)
        if replace(task, train=(example, task.train[0])).fitting(collator).train[0] is example:
            longest = example
    marked = task.train[0]._replace(paraphrases=("read", "read the <image> again"))
    assert marked not in replace(task, train=(marked, *task.train)).fitting(collator).train
    for number in (46, 47):
        suffix = "word " * 9
        while collator.num_tokens("ocr") + collator.num_tokens(suffix) < number:
            suffix += "."
        example = task.train[0]._replace(suffix=suffix)
        kept = replace(task, train=(example, task.train[0])).fitting(collator).train
        assert (example in kept) == (number == 46)
    # The longest prompt that the engine reads has 508 tokens.
    wide = Collator(load("tiny").processor, max_length=2000)
    per_word = wide.num_tokens("word " * 101) - wide.num_tokens("word " * 100)
    for number, is_kept in ((508, True), (508 + per_word, False)):
        prompt = "word " * ((number - wide.num_tokens("word")) // per_word) + "word"
        while wide.num_tokens(prompt) < number:
            prompt += "."
        assert wide.num_tokens(prompt) == number
        example = task.train[0]._replace(prefix=prompt)
        kept = replace(task, train=(example, task.train[0])).fitting(wide).train
        assert (example in kept) == is_kept
    image = np.zeros((30, 40, 3), np.uint8)
    batch = collator([Sample("a", image, longest.prefix, longest.suffix)])
    assert 140 < batch["input_ids"].shape[1] <= 150
    with pytest.raises(DataError, match="no example can be used"):
        replace(task, valid=task.train[:0]).fitting(collator)


def test_an_answer_of_a_closed_set_has_a_fifth_more_boxes_than_any_image(coco):
    box = {"image_id": 0, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    crowd = {"id": 99, **box, "iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 3072]}}
    coco("valid", range(6, 9))
    for count, expected in ((10, 12), (11, 14), (2, 4)):
        boxes = [{"id": number, **box} for number in range(count)]
        folder = coco("train", range(6), annotations=[*boxes, crowd])
        (task,) = read(folder, closed_set=True, model="tiny").tasks
        assert task.num_objects == expected


def test_a_closed_set_that_does_not_fit_is_refused(scenes):
    collator = Collator(load("tiny").processor, max_length=150)
    with pytest.raises(OptionError, match="closed_set: answers of 40 boxes have .* takes 46"):
        read(scenes, closed_set=True, max_objects=40).tasks[0].fitting(collator)


def test_a_closed_set_that_just_fits_is_taken(scenes):
    task = read(scenes, closed_set=True, max_objects=40).tasks[0]
    processor = load("tiny").processor
    for max_length in range(700, 100, -1):
        try:
            task.fitting(Collator(processor, max_length=max_length))
        except OptionError:
            break
    left = Collator(processor, max_length=max_length + 1).text_places
    names = [f"{one} ; " for one in task.classes]
    tokens = [processor.tokenizer(one, add_special_tokens=False)["input_ids"] for one in names]
    assert left - 4 == 40 * (4 + max(map(len, tokens)))  # four tokens around prompt and answer


def test_as_many_objects_are_learnt_as_fit_with_their_codes(scenes):
    card, collator = find_checkpoint("tiny"), Collator(load("tiny").processor, max_length=400)
    most = {}
    for task in ("detect", "segment"):
        source = read(scenes, task=task).tasks[0].train_source(card, 448, collator)
        assert (source.codec is not None) == (task == "segment")
        most[task] = source.max_objects
    tokens = load("tiny").processor.tokenizer
    names = read(scenes).tasks[0].classes
    longest = max(
        len(tokens(f"{name} ; ", add_special_tokens=False)["input_ids"]) for name in names
    )
    prompt = max(
        len(tokens(f"detect {name}", add_special_tokens=False)["input_ids"]) for name in names
    )
    left = collator.text_places - prompt - 4
    assert most == {"detect": left // (4 + longest), "segment": left // (20 + longest)}


def test_images_of_another_validation_set(coco, tmp_path):
    # Objects: the folder of the training images has nothing to do with the other set.
    coco("train", range(8))
    other = shutil.copytree(coco("valid", range(8, 12)), tmp_path / "other")
    (other / "train.json").unlink()
    for k in range(8, 12):
        (tmp_path / "set" / "images" / f"{k}.jpg").unlink()
    (tmp_path / "set" / "valid.json").unlink()
    sets = {"data": tmp_path / "set" / "train.json", "images": tmp_path / "set" / "images"}
    (task,) = read_data([DataSource(**sets, valid=other / "valid.json")], TrainConfig()).tasks
    assert len(task.valid.images) == 4
    # Texts: it is where the images of both are, unless another one is named.
    rows = [("ocr", "A"), ("ocr", "B"), ("ocr", "C")]
    texts = written(tmp_path / "texts", rows)
    (tmp_path / "apart").mkdir()
    shutil.move(texts / "a.png", tmp_path / "apart")
    source = DataSource(
        data=texts / "train.jsonl", images=tmp_path / "apart", valid=texts / "valid.jsonl"
    )
    (task,) = read_data([source], TrainConfig(task="read")).tasks
    assert [len(part) for part in (task.train, task.valid)] == [3, 2]


def test_each_data_set_of_a_mixture_has_its_task(scenes):
    sources = [
        DataSource(data=scenes),
        DataSource(data=scenes, task="segment", weight=2.0),
        DataSource(data=scenes / "train" / "examples.jsonl"),
    ]
    config = TrainConfig(task="mix", closed_set=True, model="tiny")
    data = read_data(sources, config)
    found = [(one.config.task, one.config.closed_set) for one in data.tasks]
    assert found == [("detect", True), ("segment", False), ("ask", False)]
    assert data.closed is data.tasks[0]
    assert data.questions and not any(text == "en" for text in data.questions)
    with pytest.raises(OptionError, match="two sets of classes"):
        read_data(sources[:1] * 2, config)
    with pytest.raises(OptionError, match="at least one data set"):
        read_data([], config)
    with pytest.raises(OptionError, match="closed_set: no data set of this run has the task det"):
        read_data(sources[1:], config)


def test_what_was_trained_on_is_no_longer_known_of_drawings_alone(scenes):
    """After a run with masks on photographs, `segment` refused photographs of the class."""
    card = find_checkpoint("small")
    sources = [DataSource(data=scenes), DataSource(data=scenes / "train", task="segment")]
    for count in (1, 2):
        data = read_data(sources[:count], TrainConfig(task="mix"))
        after = card_after(card, data)
        assert "helmet" in data.classes and card.masks_on["helmet"] == "drawings"
        assert set(card.trained_on) - set(after.trained_on) == set(card.trained_on) & {
            *data.classes
        }
        lost = set(card.masks_on) - set(after.masks_on)
        assert lost == (set(card.masks_on) & {*data.classes} if count == 2 else set())
        assert after.thresholds == after.least_presence == after.false_alarms == {}


def test_a_sample_is_the_same_for_a_seed_and_not_the_first_images(coco):
    (task,) = read(coco("all", range(60)) / "all.json").tasks
    some = [sample_part(task.train, 8, seed) for seed in (0, 0, 1)]
    assert images_of(some[0]) == images_of(some[1]) != images_of(some[2])
    assert len(some[0].images) == 8
    assert images_of(some[0]) != {image.file_name for image in task.train.images[:8]}
    assert sample_part(task.train, 100, 0) is task.train
    count = len(task.train.images) - 1  # no image twice
    assert len(images_of(sample_part(task.train, count, 0))) == count


def test_known_and_unknown_classes(scenes):
    card = find_checkpoint("tiny")
    assert read(scenes).is_known(card)
    other = read(scenes, rename={"helmet": "kask"})
    assert other.unknown_classes(card) == ("kask",) and not other.is_known(card)
    assert not other.unknown_classes(replace(card, classes=None))
