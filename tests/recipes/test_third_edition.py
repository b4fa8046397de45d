"""Third edition of small: truth under one box convention, views, prompts and rates."""

import json

import numpy as np
import pytest

from recipes.small.prompts import Part, part_shares
from recipes.small.sources import Item, cropped, is_held_out, mirrored, read_source
from recipes.small.third_edition import learning_rates


@pytest.fixture
def data(tmp_path):
    """A data root with one set of hats: image 1 trains, image 5 is held out."""
    folder = tmp_path / "hats_and_heads"
    (folder / "images").mkdir(parents=True)
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 200}
            for number in (1, 5)
        ],
        "categories": [{"id": 1, "name": "helmet"}, {"id": 2, "name": "hat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 150, 20, 40]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [10, 20, 30, 40]},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return tmp_path


def test_hat_boxes_grow_to_the_chin_and_stay_in_the_image(data):
    (item,) = read_source(data, "hats", held_out=False)
    assert item.labels == ("hat", "helmet")  # left to right
    # 1.6 times 40 px from 150 px would end at 214 px; the image ends at 200.
    assert item.boxes[1] == pytest.approx([0.75, 0.6, 1.0, 0.8])
    assert item.boxes[0] == pytest.approx([0.1, 0.1, 0.3, 0.4])


def test_a_crowd_makes_its_class_incomplete(data):
    (item,) = read_source(data, "hats", held_out=False)
    assert "helmet" not in item.complete
    assert "hat" in item.complete


def test_images_are_split_by_id(data):
    assert [one.path.name for one in read_source(data, "hats", held_out=True)] == ["5.jpg"]
    assert not is_held_out("hardhat", 5)
    assert is_held_out("person", 6)


def item(boxes, labels=("helmet", "head")):
    return Item(
        None, "hats", tuple(labels), np.array(boxes, np.float32), (None,) * len(labels),
        ("head", "helmet"), (),
    )  # fmt: skip


def test_a_mirror_image_mirrors_boxes_and_order():
    shown = mirrored(item([[0.1, 0.0, 0.3, 0.2], [0.2, 0.6, 0.4, 0.9]]))
    assert shown.labels == ("head", "helmet")
    assert shown.boxes == pytest.approx(np.array([[0.2, 0.1, 0.4, 0.4], [0.1, 0.8, 0.3, 1.0]]))


@pytest.mark.parametrize("seed", range(20))
def test_crops_contain_what_they_say(seed):
    """Paint each object in a colour of its own and look for it in the crop."""
    image = np.zeros((200, 300, 3), np.uint8)
    truth = item([[0.1, 0.1, 0.3, 0.2], [0.5, 0.6, 0.8, 0.9]])
    for number, (top, left, bottom, right) in enumerate(truth.boxes, 1):
        rows = slice(round(top * 200), round(bottom * 200))
        image[rows, round(left * 300) : round(right * 300)] = 100 * number
    shown, pixels = cropped(truth, image, np.random.default_rng(seed))
    height, width = pixels.shape[:2]
    for label, (top, left, bottom, right) in zip(shown.labels, shown.boxes, strict=True):
        colour = 100 * (1 + ("helmet", "head").index(label))
        middle = pixels[int((top + bottom) / 2 * height), int((left + right) / 2 * width), 0]
        assert middle == colour
    # A class stays complete only if none of its objects is visible without a box.
    for number, label in enumerate(("helmet", "head"), 1):
        visible = (pixels == 100 * number).all(-1).sum()
        whole = (image == 100 * number).all(-1).sum()
        if label not in shown.labels and label in shown.complete:
            assert visible <= 0.15 * whole


def test_shares_follow_sources_and_views():
    rows = [{}] * 10
    parts = [
        Part(name, None, rows) for name in ("hardhat_whole.0", "hats_whole", "scene_0", "scene_1")
    ]
    hardhat, hats, one, two = part_shares(parts, 0.2)
    assert hats == pytest.approx(4 * hardhat)
    assert one == two == pytest.approx(0.1)
    assert hardhat + hats + one + two == pytest.approx(1)


def test_heads_learn_first_and_all_rates_end_at_zero():
    kind = {"steps": 100, "head_steps": 10, "decay": 0.5, "rate": 1.0, "vision_rate": 0.5}
    first, late, last = (learning_rates(step, **kind) for step in (5, 75, 100))
    assert first["text"] == 0 < first["heads"]
    assert late["text"] == pytest.approx(0.5)
    assert late["vision rest"] == pytest.approx(0.125)
    assert set(last.values()) == {0.0}
