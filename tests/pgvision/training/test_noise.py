"""Boxes that show nothing, and the answers that are filled with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.boxes import box_iou
from pgvision.runtime import find_checkpoint
from pgvision.tokens import parse_suffix
from pgvision.training.samples import CLOSED_PREFIX, NOISE, add_noise, noise_boxes
from recipes.architecture import NUM_IMAGE_TOKENS, build_processor
from recipes.batches import CLOSED_OBJECTS, BatchMaker, Wording
from recipes.scene_cache import render_shard
from recipes.scenes import CLASSES
from recipes.words import known_words
from vqvae import MaskCodec


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 12), num_true=st.integers(0, 6))
def test_they_lie_in_the_picture_and_have_an_area(seed: int, count: int, num_true: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.random((num_true, 2)) * 0.7
    true = np.concatenate([corners, corners + 0.05 + rng.random((num_true, 2)) * 0.2], 1)
    found = noise_boxes(true, count, rng)
    assert found.shape == (count, 4) and found.dtype == np.float32
    assert (found >= 0).all() and (found <= 1).all()
    assert ((found[:, 2:] - found[:, :2]) > 0.009).all()
    corner = np.array([[0.992, 0.992, 1.0, 1.0]])  # smaller than noise may be
    found = noise_boxes(corner, 20, rng)
    assert (found <= 1).all() and ((found[:, 2:] - found[:, :2]) > 0.009).all()


def test_some_answer_for_a_true_object_again_and_others_for_none() -> None:
    true = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.8]])
    found = noise_boxes(true, 2000, np.random.default_rng(1))
    overlap = box_iou(found, true).max(1)
    again = (overlap >= 0.15).mean()
    assert 0.25 < again < 0.42  # four of ten are drawn so, and some of those land far away
    sides = found[overlap < 0.05][:, 2:] - found[overlap < 0.05][:, :2]
    assert np.median(sides[:, 0]) == pytest.approx(0.25, abs=0.05)  # as large as true ones


@pytest.mark.parametrize("box", [[0.1, 0.5, 0.9, 0.54], [0.58, 0.1, 0.98, 0.14]])
def test_noise_for_one_flat_object_moves_by_its_sides(box: list[float]) -> None:
    found = noise_boxes(np.array([box]), 2000, np.random.default_rng(1))
    again = found[box_iou(found, np.array([box]))[:, 0] >= 0.15]
    assert 0.2 < len(again) / 2000 < 0.42
    moved = np.abs(again - box)
    # A fifth of its width, without the far ones.
    assert np.median(moved[:, 0]) > 0.08 * (box[2] - box[0])
    assert moved[:, [1, 3]].max() < 0.04


def test_noise_in_an_empty_image_has_sides_of_all_sizes() -> None:
    found = noise_boxes(np.zeros((0, 4)), 2000, np.random.default_rng(1))
    sides = found[:, 2:] - found[:, :2]
    assert sides.min() > 0.029 and sides.max() < 0.601
    assert np.median(sides) == pytest.approx((0.03 * 0.6) ** 0.5, abs=0.01)


def test_an_answer_is_filled_and_its_noise_teaches_a_class_alone() -> None:
    wording = Wording(closed=("helmet", "head"))
    shard = render_shard(3, resolution=160, size=10, codec=MaskCodec.load("tiny"))
    tokenizer = build_processor(known_words(find_checkpoint("tiny").location)).tokenizer
    size = len(tokenizer)
    noise = add_noise(tokenizer)
    assert noise == size and tokenizer(f"<loc0000> {NOISE} ; ")["input_ids"][1] == noise
    maker = BatchMaker([shard], tokenizer, NUM_IMAGE_TOKENS, wording=wording)
    batch = maker.draw((4,), num_images=8, num_prompts=4)
    rows = 0
    for row, ids in enumerate(batch.ids):
        text = tokenizer.decode(ids[NUM_IMAGE_TOKENS + 1 :])
        if not text.startswith(CLOSED_PREFIX):
            continue
        rows += 1
        place = int(batch.rows[row // 4])
        mine = slice(int(shard.offsets[place]), int(shard.offsets[place + 1]))
        names = [CLASSES[number] for number in shard.classes[mine]]
        whole = parse_suffix(text.split("\n")[1].split("<eos>")[0], image_hw=(1000, 1000)).objects
        labels = [one.label for one in whole]
        assert len(labels) == CLOSED_OBJECTS
        for name in ("helmet", "head"):
            assert labels.count(name) == names.count(name)
        first = labels.index(NOISE)
        assert set(labels[first:]) == {NOISE}
        boxes = np.array([[one.xyxy[k] / 1000 for k in (1, 0, 3, 2)] for one in whole[:first]])
        true = shard.boxes[mine][[name in ("helmet", "head") for name in names]]
        if first:
            assert box_iou(boxes, true).max(0).min() > 0.8
        taught = ids[batch.is_target[row]].tolist()
        assert taught.count(noise) == CLOSED_OBJECTS - first
        is_loc = [maker.first_loc <= one < maker.first_loc + 1024 for one in taught]
        assert sum(is_loc) == 4 * first
        assert len(taught) == 6 * first - (first > 0) + CLOSED_OBJECTS - first
    assert rows >= 4
