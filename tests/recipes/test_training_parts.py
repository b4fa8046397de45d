"""Tokenizer, batches and losses of the tiny checkpoint, each against an independent reading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pgvision.datasets import (
    Annotation,
    Category,
    Dataset,
    ExampleOptions,
    ImageRecord,
    Rle,
    iter_examples,
)
from pgvision.rle import mask_to_rle
from pgvision.tokens import parse_suffix
from recipes.architecture import NUM_IMAGE_TOKENS, build_tokenizer
from recipes.batches import BatchMaker
from recipes.dense import DenseHead, DenseTargets, Truth, dense_targets
from recipes.reading import suffix_loss
from recipes.scene_cache import render_shard
from recipes.scenes import CLASSES, render_scene
from recipes.scenes.vocabulary import SIGN_WORDS
from recipes.shards import COLOURS, Shard, load_shard, save_shard
from recipes.starting import set_location_start
from recipes.tiny import words_of
from vqvae import MaskCodec

SIZE = 12


@pytest.fixture(scope="module")
def shard() -> Shard:
    return render_shard(1, resolution=160, size=SIZE, codec=MaskCodec.load("tiny"))


@pytest.fixture(scope="module")
def maker(shard: Shard) -> BatchMaker:
    tokenizer = build_tokenizer(words_of(shard.sentences))
    return BatchMaker([shard], tokenizer, NUM_IMAGE_TOKENS)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_the_tokenizer_writes_and_reads_any_text(text: str) -> None:
    tokenizer = _TOKENIZER
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


_TOKENIZER = build_tokenizer(["detect", "helmet", "caption", "en"])


def test_every_loc_and_seg_is_one_token() -> None:
    for word, digits, count in (("loc", 4, 1024), ("seg", 3, 128)):
        texts = [f"<{word}{number:0{digits}d}>" for number in range(count)]
        ids = _TOKENIZER(texts, add_special_tokens=False)["input_ids"]
        assert all(len(row) == 1 for row in ids)
        assert [row[0] - ids[0][0] for row in ids] == list(range(count))


def test_special_tokens_have_gemmas_order() -> None:
    names = ("<pad>", "<eos>", "<bos>", "<unk>")
    assert [_TOKENIZER.convert_tokens_to_ids(name) for name in names] == [0, 1, 2, 3]


def test_a_shard_holds_what_the_scenes_say(shard: Shard, tmp_path: Path) -> None:
    save_shard(shard, tmp_path / "shard.npz")
    again = load_shard(tmp_path / "shard.npz")
    np.testing.assert_array_equal(again.images, shard.images)
    assert again.sentences == shard.sentences
    sizes = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))
    for row in range(SIZE):
        seed = SIZE + row  # shard 1
        scene = render_scene(seed, image_hw=sizes[seed % 5])
        mine = slice(shard.offsets[row], shard.offsets[row + 1])
        assert [CLASSES[i] for i in shard.classes[mine]] == [o.label for o in scene.objects]
        height, width = scene.image_hw
        pixels = shard.boxes[mine][:, [1, 0, 3, 2]] * [width, height, width, height]
        expected = np.array([o.xyxy for o in scene.objects], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(pixels, expected, atol=1e-3)
        texts = [SIGN_WORDS[i] if i >= 0 else None for i in shard.texts[mine]]
        assert texts == [o.text for o in scene.objects]
        assert json.loads(shard.sentences[row])[0] == scene.caption


def test_masks_are_coded_as_convert_codes_them(shard: Shard, tmp_path: Path) -> None:
    # The other recipe, all the way: a scene's file, read as a data set, written as examples.
    sizes = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))
    codec = MaskCodec.load("tiny")
    for row in range(SIZE):
        seed = SIZE + row
        scene = render_scene(seed, image_hw=sizes[seed % 5])
        objects = tuple(
            Annotation(
                id=number + 1,
                category_id=CLASSES.index(item.label) + 1,
                xywh=(*map(float, item.xyxy[:2]), *map(float, item.xyxy[2:] - item.xyxy[:2])),
                segmentation=Rle(scene.image_hw, mask_to_rle(item.mask)["counts"]),
            )
            for number, item in enumerate(scene.objects)
        )
        record = ImageRecord(1, "a.png", tmp_path / "a.png", scene.image_hw, objects)
        data = Dataset((record,), tuple(Category(k + 1, name) for k, name in enumerate(CLASSES)))
        options = ExampleOptions(task="segment")
        told = {
            tuple(found.codes)
            for example in iter_examples(data, options=options, codec=codec)
            for found in parse_suffix(example.suffix, image_hw=scene.image_hw).objects
        }
        mine = slice(shard.offsets[row], shard.offsets[row + 1])
        assert {tuple(codes) for codes in shard.codes[mine]} == told


def test_a_batch_reads_as_prefix_and_suffix(maker: BatchMaker, shard: Shard) -> None:
    batch = maker.draw((1, 2), num_images=4, num_prompts=6)
    assert batch.pictures.shape == (4, 3, 160, 160)
    assert float(batch.pictures.abs().max()) <= 1.0
    tokenizer = maker._tokenizer
    seen = set()
    for ids, attention, types, target in zip(
        batch.ids, batch.attention, batch.types, batch.is_target, strict=True
    ):
        row = ids[attention == 1].tolist()
        assert row[:NUM_IMAGE_TOKENS] == [4] * NUM_IMAGE_TOKENS
        assert row[-1] == tokenizer.eos_token_id  # targets without an end never stop
        assert torch.equal(target, (types == 1) & (attention == 1))
        prefix = tokenizer.decode(ids[(types == 0) & (attention == 1)][NUM_IMAGE_TOKENS:])
        suffix = tokenizer.decode(ids[target][:-1])
        assert prefix.startswith("<bos>")
        assert prefix.endswith("\n")
        task = prefix[5:].split()[0]
        seen.add(task)
        if task in ("detect", "segment"):
            parsed = parse_suffix(suffix, image_hw=(100, 100), classes=[prefix[5:].split()[1]])
            assert not parsed.rejects
            assert all(one.class_id == 0 for one in parsed.objects)
            assert all((one.codes is not None) == (task == "segment") for one in parsed.objects)
    assert {"detect", "segment"} <= seen


def test_a_batch_is_a_function_of_its_seed(maker: BatchMaker) -> None:
    one, same, other = (
        maker.draw(seed, num_images=2, num_prompts=2) for seed in [(3, 4)] * 2 + [(3, 5)]
    )
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.pictures, same.pictures)
    assert not torch.equal(one.pictures, other.pictures)


def test_absent_classes_are_asked_for_now_and_then(shard: Shard) -> None:
    few = Shard(
        images=shard.images[:1], offsets=np.array([0, 1]),
        boxes=np.array([[0.1, 0.1, 0.3, 0.3]], np.float32), classes=np.zeros(1, np.int64),
        colours=np.full(1, -1), texts=np.full(1, -1), codes=np.zeros((1, 16), np.int16),
        sentences=('["", "", []]',), names=("helmet", "head", "cone"), absent=("truck",),
    )  # fmt: skip
    one = BatchMaker([few], _TOKENIZER, NUM_IMAGE_TOKENS)
    view, rng = one.view(0, 0), np.random.default_rng(0)
    asked = [one.class_to_ask(view, rng)[0] for _ in range(4000)]
    shares = {name: asked.count(CLASSES.index(name)) / 4000 for name in ("truck", "head", "cone")}
    wanted = {"truck": 0.2 * 0.15, "head": 0.97 * 0.1, "cone": 0.97 * 0.1}
    assert shares == pytest.approx(wanted, abs=0.015)


def test_dense_targets_say_where_objects_are(maker: BatchMaker, shard: Shard) -> None:
    view = maker.view(0, 5)
    targets = dense_targets([view.truth(len(CLASSES))], 10)
    assert targets.present.shape == (1, 100, len(CLASSES))
    for box, label in zip(view.boxes, view.classes, strict=True):
        cells = targets.present[0, :, label].reshape(10, 10)
        top, left, bottom, right = box
        middle = cells[min(9, int((top + bottom) * 5)), min(9, int((left + right) * 5))]
        assert middle == 1
    for row, column in np.argwhere(targets.present[0, :, 2].reshape(10, 10).numpy() > 0):
        edges = targets.edges[0, row * 10 + column, 2].numpy()
        centre = np.array([row, column, row, column]) / 10 + 0.05
        workers = view.boxes[view.classes == 2]
        assert np.abs(workers - (edges + centre)).max(1).min() < 1e-5


def test_where_two_of_a_class_overlap_the_smaller_one_is_taught() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5]], np.float32)
    for order in ([0, 1], [1, 0]):
        truth = Truth(boxes[order], np.zeros(2, np.int64), np.array([True]))
        sides = dense_targets([truth], 4).sides[0, :, 0]
        assert [tuple(one) for one in sides.tolist()] == [
            (0.25, 0.25) if cell == 5 else (1.0, 1.0) for cell in range(16)
        ]


def test_suffix_loss_is_cross_entropy_for_words() -> None:
    logits = torch.randn(5, 2000, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 5, 9, 300, 400])
    expected = functional.cross_entropy(logits, targets)
    assert suffix_loss(logits, targets, first_loc=900) == pytest.approx(float(expected), rel=1e-5)


def test_suffix_loss_shares_a_coordinate_among_neighbours() -> None:
    logits = torch.full((1, 1100), -50.0)
    logits[0, 50 + 500] = 0.0
    near, far = (suffix_loss(logits, torch.tensor([50 + b]), first_loc=50) for b in (501, 560))
    assert near < far
    # By hand: with sigma 4 the target puts exp(-d^2/32)/Z on each bin; all mass but that of the
    # one likely bin costs 50 nats.
    weights = np.exp(-0.5 * ((np.arange(1024) - 501) / 4.0) ** 2)
    expected = 50.0 * (1 - weights[500] / weights.sum())
    assert float(near) == pytest.approx(expected, rel=1e-3)


def test_the_dense_head_prefers_the_truth() -> None:
    torch.manual_seed(0)
    head = DenseHead(8, num_classes=2, num_colours=3, num_texts=4)
    present = torch.zeros(1, 4, 2)
    present[0, 1, 0] = 1
    edges = torch.zeros(1, 4, 2, 4)
    edges[0, 1, 0] = torch.tensor([-0.1, -0.2, 0.1, 0.2])
    unknown = torch.full((1, 4), -100)
    colours = unknown.clone()
    colours[0, 1] = 2
    sides, weights = torch.ones(1, 4, 2, 2), present.clone()
    sides[0, 1, 0] = torch.tensor([0.2, 0.4])
    known = torch.ones(1, 2, dtype=torch.bool)
    targets = DenseTargets(present, edges, colours, unknown, sides, weights, known)
    features = torch.randn(1, 4, 8)
    before = head(features, targets)
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        head(features, targets).backward()
        optimiser.step()
    assert head(features, targets).item() < 0.1 * before.item()


def test_edges_cost_what_they_are_of_the_side(maker: BatchMaker) -> None:
    targets = dense_targets([maker.view(0, row).truth(len(CLASSES)) for row in range(SIZE)], 10)
    here = targets.present > 0
    spans = targets.edges[..., 2:] - targets.edges[..., :2]
    torch.testing.assert_close(targets.sides[here], spans[here])
    # An object that owns n tokens weighs the root of n: large ones count more, but not n times.
    checked = 0
    for row in range(SIZE):
        for label, count in zip(
            *np.unique(maker.view(0, row).classes, return_counts=True), strict=True
        ):
            if count == 1:
                tokens = float(targets.present[row, :, label].sum())
                weight = float(targets.weights[row, :, label].sum())
                assert weight == pytest.approx(tokens**0.5, rel=1e-5)
                checked += tokens > 1
    assert checked > 3


def test_locations_start_ordered() -> None:
    embedding = torch.randn(1100, 48, generator=torch.Generator().manual_seed(3)) * 0.02
    before = embedding.clone()
    set_location_start(embedding, range(50, 1074))
    torch.testing.assert_close(embedding[:50], before[:50])
    torch.testing.assert_close(embedding[1074:], before[1074:])
    rows = functional.normalize(embedding[50:1074], dim=1)
    alike = rows @ rows.T
    near, far = alike.diagonal(2), alike.diagonal(300)
    assert float(near.min()) > 0.8
    assert float(near.min()) > float(far.max())
    assert float(embedding[50:1074].std()) == pytest.approx(float(before.std()), rel=1e-3)


def test_colours_of_the_scenes_are_all_known() -> None:
    for seed in range(40):
        for item in render_scene(seed, image_hw=(96, 128)).objects:
            assert item.colour is None or item.colour in COLOURS
