"""The real processor's batch: what is learnt, what is seen, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgvision.datasets import read_splits
from pgvision.errors import DataError
from pgvision.runtime import Engine, load, load_apart
from pgvision.training.finetuning.collator import Collator
from pgvision.training.finetuning.objectives import TokenLoss, losses_of, usual_length
from pgvision.training.finetuning.samples import ObjectSource, Sample
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.trainer import FinetuneTrainer, arguments
from pgvision.training.localisation import MaskLoss
from pgvision.training.noise import NOISE
from vqvae import MaskCodec

PICTURES = np.random.default_rng(1).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
SAMPLES = [
    Sample("a", PICTURES[0], "detect helmet", "<loc0100><loc0200><loc0300><loc0400> helmet"),
    Sample("b", PICTURES[1], "detect head", ""),
    Sample("c", PICTURES[2], "caption en", "two workers, a truck and a red barrel"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load("tiny")


@pytest.fixture(scope="module")
def collator(engine: Engine) -> Collator:
    return Collator(engine.processor, max_length=1024)


def test_the_answer_and_its_end_are_learnt_and_nothing_else(collator: Collator) -> None:
    batch = collator(SAMPLES)
    tokenizer = collator.processor.tokenizer
    for sample, ids, labels in zip(SAMPLES, batch["input_ids"], batch["labels"], strict=True):
        learnt = labels[labels >= 0]
        assert tokenizer.decode(learnt) == sample.suffix + "<eos>"
        torch.testing.assert_close(ids[labels >= 0], learnt)
    assert batch["names"] == ["a", "b", "c"]


def test_the_prompt_is_the_engines(engine: Engine, collator: Collator) -> None:
    """Padding stands behind: what is learnt stands where it will be asked for."""
    batch = collator(SAMPLES)
    for sample, ids, types in zip(
        SAMPLES, batch["input_ids"], batch["token_type_ids"], strict=True
    ):
        prompt = engine.input_ids(sample.prefix)
        assert ids[: len(prompt)].tolist() == prompt
        assert types[: len(prompt)].sum() == 0 and types[len(prompt)] == 1


def test_the_loss_and_its_gradients_are_transformers(engine: Engine, collator: Collator) -> None:
    batch = collator(SAMPLES)
    inputs = {
        name: batch[name]
        for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    }
    model = engine.model
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    weight.requires_grad_(True)
    theirs = model(**inputs, labels=batch["labels"], use_cache=False).loss
    (wanted,) = torch.autograd.grad(theirs, weight)
    kept = batch["kept"]
    logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    usual = float((batch["labels"] != -100).sum(1).float().mean())
    loss = TokenLoss(first_loc=engine.vocabulary.first_loc, usual=usual)
    ours = loss(logits, batch["labels"][:, kept + 1])
    (found,) = torch.autograd.grad(ours, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def trainer_of(
    settings: FinetuneSettings,
    collator: Collator,
    engine: Engine,
    samples: list[Sample],
    folder: Path,
    *,
    usual: float,
    codec: MaskCodec | None = None,
) -> FinetuneTrainer:
    return FinetuneTrainer(
        settings,
        losses_of(settings, collator, codec, usual=usual),
        model=engine.model,
        args=arguments(settings, folder, steps=1, device="cpu", rate=5e-4),
        train_dataset=samples,
        data_collator=collator,
        callbacks=[],
    )


def test_a_step_of_the_trainer_takes_that_loss(collator: Collator, tmp_path: Path) -> None:
    """What the stock loop minimises is transformers' loss on the collator's batch."""
    settings = FinetuneSettings(steps=1, model="tiny", loc_sigma=0.0, dtype="float32")
    usual = usual_length(SAMPLES, collator)
    engine = load_apart("tiny", device="cpu", dtype="float32")
    trainer = trainer_of(settings, collator, engine, SAMPLES, tmp_path, usual=usual)
    batch = collator(SAMPLES)
    ours = trainer.compute_loss(engine.model, batch)
    inputs = {
        name: batch[name]
        for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    }
    theirs = engine.model(**inputs, labels=batch["labels"], use_cache=False).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_each_loss_has_its_weight_and_its_settings(scenes: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(
        steps=1, model="tiny", task="segment", dtype="float32", augment=False, negatives=0.0,
        mask_loss=0.3, label_smoothing=0.2, loc_sigma=3.0,
    )  # fmt: skip
    codec = MaskCodec.load("tiny")
    source = ObjectSource(read_splits(scenes)["train"], settings, "tiny", codec=codec)
    samples = [source.draw(k, np.random.default_rng(k)) for k in range(3)]
    engine = load_apart("tiny", device="cpu", dtype="float32")
    collator = Collator(engine.processor, max_length=1024)
    trainer = trainer_of(settings, collator, engine, samples, tmp_path, usual=9.0, codec=codec)
    batch = collator(samples)
    total = trainer.compute_loss(engine.model, batch)
    names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    logits = engine.model(**{name: batch[name] for name in names}, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    table = engine.vocabulary
    tokens = TokenLoss(first_loc=table.first_loc, usual=9.0, smoothing=0.2, loc_sigma=3.0)
    masks = torch.from_numpy(np.concatenate([one.masks for one in samples]))
    shapes = MaskLoss(codec)(logits, labels, masks, first_seg=table.first_seg)
    assert len(shapes) > 3
    by_hand = tokens(logits, labels) + 0.3 * shapes.mean()
    torch.testing.assert_close(total, by_hand, rtol=1e-4, atol=0)


def test_the_picture_is_the_engines(engine: Engine, collator: Collator) -> None:
    batch = collator(SAMPLES)
    for sample, pixels in zip(SAMPLES, batch["pixel_values"], strict=True):
        side = engine.resolution
        rgb = Image.fromarray(sample.bgr[..., ::-1].copy()).resize((side, side), Image.BILINEAR)
        wanted = torch.from_numpy(np.array(rgb)).permute(2, 0, 1) / 127.5 - 1
        assert float((pixels - wanted).abs().mean()) < 0.02


def test_the_weight_of_each_kind_reaches_its_tokens(collator: Collator) -> None:
    """With one kind's weight alone, other tokens' logits get no gradient."""
    codes = "".join(f"<seg{k:03d}>" for k in range(16))
    box = "<loc0001><loc0002><loc0003><loc0004>"
    suffix = f"{box}{codes} helmet ; {box}{codes} helmet"
    batch = collator([Sample("a", PICTURES[0], "segment helmet", suffix)])
    labels = batch["labels"][:, batch["kept"] + 1]
    words = collator.processor.tokenizer.convert_ids_to_tokens(labels[0])
    separator = set(collator.processor.tokenizer.convert_ids_to_tokens(collator.separator))
    kinds = {
        "loc_weight": [word.startswith("<loc") for word in words],
        "seg_weight": [word.startswith("<seg") for word in words],
        "label_weight": [word.endswith("helmet") for word in words],
        "end_weight": [word == "<eos>" or word in separator for word in words],
    }
    assert np.array(list(kinds.values())).sum(0).tolist() == [1] * len(words)
    size = len(collator.processor.tokenizer)
    for name, mine in kinds.items():
        weights = {other: float(other == name) for other in kinds}
        settings = FinetuneSettings(steps=1, **weights)
        ((_, loss), *_) = losses_of(settings, collator, None)
        logits = torch.zeros(*labels.shape, size, requires_grad=True)
        loss(logits, labels, None).backward()
        assert (logits.grad[0].abs().sum(-1) > 0).tolist() == mine, name


def test_no_answer_sees_what_follows_and_every_prompt_sees_itself(
    engine: Engine, collator: Collator
) -> None:
    batch = collator(SAMPLES[:1])
    inputs = {
        name: batch[name]
        for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    }

    def logits(changed: int) -> torch.Tensor:
        ids = batch["input_ids"].clone()
        ids[0, changed] = (ids[0, changed] + 7) % 200 + 300
        with torch.inference_mode():
            return engine.model(**{**inputs, "input_ids": ids}, use_cache=False).logits[0]

    with torch.inference_mode():
        before = engine.model(**inputs, use_cache=False).logits[0]
    start = int(batch["token_type_ids"][0].nonzero()[0])
    last = batch["input_ids"].shape[1] - 2
    leak = (logits(last) - before)[start:last].abs().max()
    sight = (logits(start - 2) - before)[: start - 2].abs().max()
    assert float(leak) <= 1e-5 and float(sight) > 1e-6


def test_noise_teaches_its_class_alone(collator: Collator) -> None:
    box = "<loc0001><loc0002><loc0003><loc0004>"
    for true in ("", f"{box} helmet"):
        suffix = " ; ".join([*([true] if true else []), f"{box} {NOISE}", f"{box} {NOISE}"])
        batch = collator([Sample("a", PICTURES[0], "detect all classes", suffix, len(true))])
        labels = batch["labels"][batch["labels"] >= 0]
        tokenizer = collator.processor.tokenizer
        noise = tokenizer(f"<loc0000> {NOISE}", add_special_tokens=False)["input_ids"][1:]
        assert tokenizer.decode(labels).startswith(true)
        assert labels.tolist()[-2 * len(noise) :] == noise * 2
        first = collator.vocabulary.first_loc
        is_loc = (labels >= first) & (labels < first + 1024)
        assert int(is_loc.sum()) == (4 if true else 0)


def test_what_is_too_long_or_has_no_end_is_refused(engine: Engine, collator: Collator) -> None:
    short = Collator(engine.processor, max_length=110)
    with pytest.raises(DataError, match=r"c: prompt and answer are \d+ tokens, .* places for 110"):
        short(SAMPLES)
    stuck = Collator(engine.processor, max_length=1024)
    stuck.processor.tokenizer.eos_token = "<bos>"  # a processor that ends answers otherwise
    with pytest.raises(DataError, match="does not end in <eos>"):
        stuck(SAMPLES)


def test_the_engines_processor_is_left_alone(engine: Engine) -> None:
    Collator(engine.processor, max_length=1024)
    assert engine.processor.tokenizer.padding_side == "left"
    assert isinstance(Path(engine.card.location), Path)
