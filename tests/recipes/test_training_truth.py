"""What training teaches is what the scenes and transformers say: every figure by a second way."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import TrainerCallback

from pgvision.errors import DataError
from pgvision.tokens import parse_suffix
from recipes.architecture import NUM_IMAGE_TOKENS, build_processor
from recipes.batches import Batch, BatchMaker, Wording
from recipes.dense import AskedHead, DenseHead
from recipes.optimisers import has_bfloat16
from recipes.reading import text_losses
from recipes.run import RecipeTrainer, Run, _Steps
from recipes.scene_cache import render_shard
from recipes.scenes import CLASSES, render_scene
from recipes.scenes.wordings import kept_back_forms, trained_forms
from recipes.shards import Shard
from recipes.state import last_checkpoint
from recipes.tiny import Settings, TinyRecipe, words_of
from vqvae import MaskCodec

SIZE = 10
_HW = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))


@pytest.fixture(scope="module")
def shard() -> Shard:
    return render_shard(3, resolution=160, size=SIZE, codec=MaskCodec.load("tiny"))


@pytest.fixture(scope="module")
def recipe(shard: Shard) -> TinyRecipe:
    processor = build_processor(words_of(shard.sentences))
    maker = BatchMaker([shard], processor.tokenizer, NUM_IMAGE_TOKENS)
    return TinyRecipe(Settings(steps=10, vision_steps=2, num_images=3), processor, maker)


@pytest.fixture(scope="module")
def batch(recipe: TinyRecipe) -> Batch:
    return recipe.maker.draw((5,), num_images=5, num_prompts=4)


def _texts(recipe: TinyRecipe, batch: Batch, row: int) -> tuple[str, str]:
    tokenizer = recipe.processor.tokenizer
    asks = (batch.types[row] == 0) & (batch.attention[row] == 1)
    prefix = tokenizer.decode(batch.ids[row][asks][NUM_IMAGE_TOKENS + 1 :])
    return prefix.removesuffix("\n"), tokenizer.decode(batch.ids[row][batch.is_target[row]][:-1])


def test_answers_are_true_of_the_picture_that_they_are_about(
    recipe: TinyRecipe, batch: Batch
) -> None:
    checked = 0
    for row in range(len(batch.ids)):
        seed = 3 * SIZE + int(batch.rows[row // 4])
        scene = render_scene(seed, image_hw=_HW[seed % 5])
        prefix, suffix = _texts(recipe, batch, row)
        task, _, rest = prefix.partition(" ")
        if task in ("detect", "segment"):
            truth = [item for item in scene.objects if item.label == rest]
            truth = truth[:5] if task == "segment" else truth
            found = parse_suffix(suffix, image_hw=scene.image_hw).objects
            assert len(found) == len(truth)
            for one, item in zip(found, truth, strict=True):
                np.testing.assert_allclose(one.xyxy, item.xyxy, atol=max(scene.image_hw) / 1024)
                checked += 1
        elif task == "answer":
            question = rest.removeprefix("en ")
            first = [one for one in scene.questions if question in trained_forms(one.question)]
            assert suffix in {one.answer for one in first}
        else:
            assert suffix == (scene.caption if task == "caption" else scene.reading)
    assert checked > 10


def test_pictures_stand_in_the_order_of_their_prompts(batch: Batch) -> None:
    for picture, row in zip(batch.pictures.numpy(), batch.rows, strict=True):
        alike = []
        for place in range(SIZE):
            seed = 3 * SIZE + place
            scene = render_scene(seed, image_hw=_HW[seed % 5])
            small = cv2.resize(scene.image, (160, 160), interpolation=cv2.INTER_AREA)[..., ::-1]
            alike.append(np.corrcoef(small.ravel(), picture.transpose(1, 2, 0).ravel())[0, 1])
        assert int(np.argmax(alike)) == row
        assert max(alike) > 0.95  # another light, the same picture


def test_the_suffix_loss_and_its_gradients_are_those_of_transformers(
    recipe: TinyRecipe, batch: Batch
) -> None:
    # Words only: for coordinates the loss differs from transformers' by design.
    rows = [row for row in range(len(batch.ids)) if batch.asked[row] < 0]
    wordless = Batch(**{**vars(batch), "is_target": batch.is_target.clone()})
    wordless.is_target[[row for row in range(len(batch.ids)) if row not in rows]] = False
    model = recipe.model
    seen = model.model.vision_tower(batch.pictures).last_hidden_state
    projected = model.model.multi_modal_projector(seen)
    first_loc = recipe.maker.first_loc
    ours = text_losses(
        model, projected, wordless, asked=recipe.asked, first_loc=first_loc, groups=1
    )["suffix"]
    parameters = [p for name, p in model.named_parameters() if "tower.head" not in name]
    gradients = torch.autograd.grad(ours, parameters)
    theirs = model(
        input_ids=batch.ids[rows],
        attention_mask=batch.attention[rows],
        token_type_ids=batch.types[rows],
        pixel_values=batch.pictures[[row // 4 for row in rows]],
        labels=batch.ids[rows].masked_fill(~batch.is_target[rows], -100),
    ).loss
    assert len(rows) > 4
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, other in zip(gradients, torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_every_coordinate_counts_as_much_as_a_word(recipe: TinyRecipe, batch: Batch) -> None:
    model, first = recipe.model, recipe.maker.first_loc
    with torch.no_grad():
        seen = model.model.vision_tower(batch.pictures).last_hidden_state
        projected = model.model.multi_modal_projector(seen)
        ours = text_losses(model, projected, batch, asked=recipe.asked, first_loc=first)["suffix"]
        logits = model(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            token_type_ids=batch.types,
            pixel_values=batch.pictures[torch.arange(20) // 4],
        ).logits
    costs = []
    for row, column in batch.is_target.nonzero().tolist():
        chances = logits[row, column - 1].log_softmax(-1).double().numpy()
        goal = int(batch.ids[row, column])
        if first <= goal < first + 1024:
            spread = np.exp(-0.5 * ((np.arange(1024) - (goal - first)) / 4.0) ** 2)
            costs.append(-(chances[first : first + 1024] * spread / spread.sum()).sum())
        else:
            costs.append(-chances[goal])
    assert ours.item() == pytest.approx(np.mean(costs), rel=1e-4)


def _focal(logits: np.ndarray, goal: np.ndarray) -> float:
    """Lin et al. 2017, exponent 2, with a quarter for nothing and a half for something."""
    chance = 1 / (1 + np.exp(-logits))
    right = np.where(goal > 0, chance, 1 - chance)
    weight = np.where(goal > 0, 0.5, 0.25)
    return float((-weight * (1 - right) ** 2 * np.log(right)).sum() / max(1, goal.sum()))


def _edge_cost(out: np.ndarray, goal: np.ndarray, sides: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean error of four edges as a share of the side, under the tokens' weights."""
    height_width = np.maximum(np.concatenate([sides, sides], -1), 0.02)
    error = (np.abs(out - goal) / height_width).mean(-1)
    return float((error * weights).sum() / weights.sum())


def test_the_dense_loss_by_hand(batch: Batch) -> None:
    torch.manual_seed(0)
    head = DenseHead(16, num_classes=len(CLASSES), num_colours=8, num_texts=24)
    features = torch.randn(5, NUM_IMAGE_TOKENS, 16)
    present, edges, colours, texts = (part.detach() for part in head.outputs(features))
    dense = batch.dense
    here = dense.present.numpy() > 0
    edge_cost = _edge_cost(
        edges.numpy()[here], dense.edges.numpy()[here], dense.sides.numpy()[here],
        dense.weights.numpy()[here],
    )  # fmt: skip
    expected = 2 * _focal(present.double().numpy(), dense.present.numpy()) + 2 * edge_cost
    for logits, labels, weight in ((colours, dense.colours, 1.0), (texts, dense.texts, 0.25)):
        mine = labels >= 0
        if mine.any():
            chances = logits[mine].log_softmax(-1)
            expected -= weight * float(chances[torch.arange(len(chances)), labels[mine]].mean())
    assert head(features, dense).item() == pytest.approx(expected, rel=1e-4)


def test_what_a_picture_does_not_tell_costs_nothing(shard: Shard, recipe: TinyRecipe) -> None:
    hats = Shard(**{**vars(shard), "names": ("helmet", "head"), "absent": ("truck",)})
    keep = shard.classes < 2
    offsets = np.concatenate([[0], np.cumsum(keep)])[shard.offsets]
    rows = {name: getattr(shard, name)[keep] for name in ("boxes", "classes", "colours", "texts")}
    hats = Shard(**{**vars(hats), **rows, "codes": shard.codes[keep], "offsets": offsets})
    maker = BatchMaker([hats], recipe.processor.tokenizer, NUM_IMAGE_TOKENS, wording=Wording())
    dense = maker.draw((1,), num_images=4, num_prompts=0).dense
    assert dense.known.sum(0).tolist() == [4, 4, 0, 0, 0, 0, 0, 4, 0]
    head = DenseHead(4, num_classes=len(CLASSES), num_colours=8, num_texts=24)
    features = torch.randn(4, NUM_IMAGE_TOKENS, 4)
    head(features, dense).backward()
    told = head.layers.bias.grad[: len(CLASSES)] != 0
    assert told.tolist() == [True, True, *[False] * 5, True, False]


def test_the_asked_head_looks_at_its_own_picture(batch: Batch) -> None:
    torch.manual_seed(0)
    head = AskedHead(8)
    hidden = torch.randn(len(batch.ids), NUM_IMAGE_TOKENS, 8)
    rows = torch.tensor([17, 0, 9, 6, 12, 3, 14])
    got = head(hidden[rows], batch.dense, batch.asked, rows)
    mine = [int(row) for row in rows if batch.asked[row] >= 0]
    assert len({row // 4 for row in mine}) >= 2
    out = head.layers(hidden[mine]).detach().double().numpy()
    parts = [
        [getattr(batch.dense, name)[row // 4, :, batch.asked[row]].numpy() for row in mine]
        for name in ("present", "edges", "sides", "weights")
    ]
    present, edges, sides, weights = (np.stack(part) for part in parts)
    here = present > 0
    cost = _edge_cost(out[..., 1:][here], edges[here], sides[here], weights[here])
    assert got.item() == pytest.approx(2 * _focal(out[..., 0], present) + 2 * cost, rel=1e-4)


def test_the_tower_is_taught_by_pictures_alone_at_first(recipe: TinyRecipe) -> None:
    shapes = [
        (len(one.pictures), len(one.ids)) for one in (recipe.draw(step, 0) for step in (0, 1, 2))
    ]
    assert shapes == [(32, 0), (32, 0), (3, 6)]


@torch.no_grad()
def test_all_losses_of_tiny_count_alike(recipe: TinyRecipe, batch: Batch) -> None:
    counted = recipe(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
        seen = recipe.model.model.vision_tower(batch.pictures).last_hidden_state
        projected = recipe.model.model.multi_modal_projector(seen)
        first = recipe.maker.first_loc
        plain = text_losses(recipe.model, projected, batch, asked=recipe.asked, first_loc=first)
    plain["dense"] = recipe.head(seen.float(), batch.dense)
    assert counted.keys() == plain.keys() == {"dense", "suffix", "asked"}
    for name, one in plain.items():
        assert counted[name].item() == pytest.approx(one.item(), rel=0.01), name


class _Moved(TrainerCallback):
    """Notes which parts moved, and the rates."""

    def __init__(self, recipe: TinyRecipe) -> None:
        self.recipe, self.parts, self.rates, self.norms = recipe, [], [], []

    def _now(self) -> dict[str, torch.Tensor]:
        return {name: one.detach().clone() for name, one in self.recipe.model.named_parameters()}

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.before = self._now()

    def on_pre_optimizer_step(self, *args: object, **kwargs: object) -> None:
        grads = [one.grad for one in self.recipe.model.parameters() if one.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(grads)))

    def on_optimizer_step(self, *args: object, **kwargs: Any) -> None:
        now = self._now()
        self.parts.append(
            {n.split(".")[1] for n, one in now.items() if (one != self.before[n]).any()}
        )
        self.before = now
        groups = kwargs["optimizer"].param_groups
        self.rates.append({group["start"]: group["lr"] for group in groups})


def test_the_tower_learns_alone_and_then_everything_does(shard: Shard, tmp_path: Path) -> None:
    processor = build_processor(words_of(shard.sentences))
    maker = BatchMaker([shard], processor.tokenizer, NUM_IMAGE_TOKENS)
    settings = Settings(steps=3, vision_steps=2, vision_images=2, num_images=2, warmup=4, decay=0.1)
    recipe = TinyRecipe(settings, processor, maker)
    run = Run(draw=recipe.draw, identity={}, steps=3, out=tmp_path, seed=1)
    trainer = RecipeTrainer(recipe, run)
    moved = _Moved(recipe)
    trainer.add_callback(moved)
    trainer.train()
    tower = {"vision_tower"}
    assert moved.parts == [tower, tower, tower | {"multi_modal_projector", "language_model"}]
    # Step 2 is the tower's third and the decoder's first of a warm-up of 4.
    assert moved.rates[2][0] == pytest.approx(settings.learning_rate * 3 / 4)
    assert moved.rates[2][2] == pytest.approx(settings.learning_rate * 1 / 4)
    # The model's gradients are clipped, whatever those of the heads are.
    assert moved.norms == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(shard: Shard, tmp_path: Path) -> None:
    processor = build_processor(words_of(shard.sentences))
    maker = BatchMaker([shard], processor.tokenizer, NUM_IMAGE_TOKENS)
    recipe = TinyRecipe(Settings(steps=2, num_images=1), processor, maker)
    recipe.head.layers.bias.data[0] = torch.nan
    run = Run(draw=recipe.draw, identity={}, steps=2, out=tmp_path, seed=1)
    with pytest.raises(DataError, match=r"step 0: the loss is no number: .*'dense': nan"):
        RecipeTrainer(recipe, run).train()
    assert last_checkpoint(tmp_path) is None


def test_kept_back_questions_are_never_trained_on(recipe: TinyRecipe, shard: Shard) -> None:
    held, seen = set(), set()
    for line in shard.sentences:
        for question, _ in json.loads(line)[2]:
            held |= set(kept_back_forms(question))
    for seed in range(40):
        one = recipe.maker.draw((seed,), num_images=2, num_prompts=4)
        prefixes = [_texts(recipe, one, row)[0] for row in range(8)]
        seen |= {text.removeprefix("answer en ") for text in prefixes if text.startswith("answer")}
    firsts = {question for line in shard.sentences for question, _ in json.loads(line)[2]}
    assert len(seen - firsts) > 5
    assert not seen & held


def test_the_loss_is_spread_over_groups_of_rows(recipe: TinyRecipe, batch: Batch) -> None:
    first, losses = recipe.maker.first_loc, []
    with torch.no_grad():
        projected = functional.normalize(torch.randn(5, NUM_IMAGE_TOKENS, 192), dim=-1)
        for groups, lengths in ((1, ()), (4, ()), (2, (160, 400))):
            losses.append(
                text_losses(
                    recipe.model, projected, batch, asked=recipe.asked, first_loc=first,
                    groups=groups, lengths=lengths,
                )
            )  # fmt: skip
    for other in losses[1:]:
        assert float(losses[0]["suffix"]) == pytest.approx(float(other["suffix"]), rel=1e-5)
        # Groups have different tokens, so that here the mean is another, but not by much.
        assert float(losses[0]["asked"]) == pytest.approx(float(other["asked"]), rel=0.4)


def test_an_answer_that_was_cut_does_not_end(recipe: TinyRecipe, shard: Shard) -> None:
    lefts = np.arange(16, dtype=np.float32)[:, None] / 20
    many = Shard(
        images=shard.images[:1], offsets=np.array([0, 16]),
        boxes=np.concatenate([lefts * 0 + 0.4, lefts, lefts * 0 + 0.6, lefts + 0.04], 1),
        classes=np.zeros(16, np.int64), colours=np.full(16, -1), texts=np.full(16, -1),
        codes=np.zeros((16, 16), np.int16), sentences=('["", "", []]',), names=("helmet",),
    )  # fmt: skip
    maker = BatchMaker([many], recipe.processor.tokenizer, NUM_IMAGE_TOKENS)
    batch = maker.draw((1,), num_images=1, num_prompts=2)
    for row in range(2):
        whole = recipe.processor.tokenizer.decode(batch.ids[row][batch.is_target[row]])
        prefix = _texts(recipe, batch, row)[0]
        found = parse_suffix(whole, image_hw=(1000, 1000)).objects
        assert len(found) == (5 if prefix.startswith("segment") else 14)
        assert not whole.endswith("<eos>")
        assert np.all(np.diff([one.xyxy[0] for one in found]) > 0)  # from left to right


def test_processes_draw_pictures_of_their_own(recipe: TinyRecipe) -> None:
    here, there = (recipe.draw(5, process) for process in (0, 1))
    assert here.rows.tolist() != there.rows.tolist()
    again = recipe.maker.draw((recipe.settings.seed, 5, 1), num_images=3, num_prompts=2)
    assert torch.equal(again.pictures, there.pictures) and torch.equal(again.ids, there.ids)
    alone = recipe.draw(1, 0)  # the tower's: more pictures, and no prompts
    assert (len(alone.pictures), len(alone.ids)) == (recipe.settings.vision_images, 0)


def test_processes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = Run(draw=lambda *which: which, identity={}, steps=2, out=tmp_path, seed=1)
    batches = _Steps(run)
    assert [batches[k] for k in range(len(batches))] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@torch.no_grad()
def test_each_loss_of_tiny_counts_once(recipe: TinyRecipe, batch: Batch) -> None:
    model, first_loc = recipe.model, recipe.maker.first_loc
    found = recipe(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
        seen = model.model.vision_tower(batch.pictures).last_hidden_state
        dense = recipe.head(seen, batch.dense)
        projected = model.model.multi_modal_projector(seen)
        told = text_losses(model, projected, batch, asked=recipe.asked, first_loc=first_loc)
    expected = {"dense": dense, "suffix": told["suffix"], "asked": told["asked"]}
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert float(found[name]) == pytest.approx(float(loss), rel=1e-5), name
