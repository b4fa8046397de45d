"""Batches and losses: transformers' own, plain formulas, and where gradients lead."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pgvision.errors import DataError
from pgvision.runtime import load, load_apart
from pgvision.training import TrainConfig
from pgvision.training import losses as losses_module
from pgvision.training.losses import (
    Collator,
    Objective,
    add_objective,
    make_objective,
    remove_objective,
    soft_bins,
)
from pgvision.training.samples import NOISE, Sample

ROOT = Path(__file__).parents[3]
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8)
SAMPLES = [
    Sample("a", IMAGES[0], "detect helmet", "<loc0100><loc0200><loc0300><loc0400> helmet"),
    Sample("b", IMAGES[1], "detect head", ""),
    Sample("c", IMAGES[2], "caption en", "two workers, a truck and a red barrel"),
]
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
FIRST, SIZE = 10, 10 + 1024 + 128


@pytest.fixture(scope="module")
def collator():
    return Collator(load("tiny").processor, max_length=1024)


def inputs_of(batch):
    return {name: batch[name] for name in INPUTS}


def identity(states):
    return states


def loss_of(logits, labels, **options):
    """The objective over logits that are given as they are."""
    padded = functional.pad(logits, (0, 0, 0, 1))
    return Objective(first_loc=FIRST, **options)(padded, identity, functional.pad(labels, (1, 0)))


def test_the_answer_and_its_end_are_learnt_and_nothing_else(collator):
    batch = collator(SAMPLES)
    for sample, ids, labels in zip(SAMPLES, batch["input_ids"], batch["labels"], strict=True):
        assert collator.processor.tokenizer.decode(labels[labels >= 0]) == sample.suffix + "<eos>"
        torch.testing.assert_close(ids[labels >= 0], labels[labels >= 0])
    (cut,) = collator([Sample("a", IMAGES[0], "ocr", "DANGER", is_whole=False)])["labels"]
    assert collator.processor.tokenizer.decode(cut[cut >= 0]) == "DANGER"
    assert batch["names"] == ["a", "b", "c"]


def test_prompt_and_pixels_are_the_engines(collator):
    engine, batch = load("tiny"), collator(SAMPLES)
    for sample, ids, types, pixels in zip(
        SAMPLES, *(batch[n] for n in ("input_ids", "token_type_ids", "pixel_values")), strict=True
    ):
        text = f"<image>{sample.prefix}"
        image = Image.fromarray(sample.bgr[..., ::-1].copy())
        alone = engine.processor(images=image, text=text, return_tensors="pt")
        prompt = alone["input_ids"][0]
        assert ids[: len(prompt)].tolist() == prompt.tolist()
        assert types[: len(prompt)].sum() == 0 and types[len(prompt)] == 1
        torch.testing.assert_close(pixels, alone["pixel_values"][0])


@pytest.mark.parametrize("chunk", [None, 64 * 2000])
def test_loss_and_gradients_are_transformers(collator, monkeypatch, chunk):
    """Also where logits are computed in chunks."""
    many = [Sample("a", IMAGES[0], "ocr", "word " * 40), *SAMPLES]
    batch = collator(many)
    model = load_apart("tiny", device="cpu", dtype="float32").model
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    theirs = model(**inputs_of(batch), labels=batch["labels"], use_cache=False).loss
    (wanted,) = torch.autograd.grad(theirs, weight)
    if chunk:
        monkeypatch.setattr(losses_module, "_CHUNK", chunk)
    mean_length = float((batch["labels"] != -100).sum(1).float().mean())
    config = TrainConfig(loc_sigma=0.0)
    add_objective(model, make_objective(config, collator, mean_length=mean_length))
    ours = model(**inputs_of(batch), labels=batch["labels"])["loss"]
    (found,) = torch.autograd.grad(ours, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    remove_objective(model)
    assert hasattr(model(**inputs_of(batch)), "logits")


def test_the_logits_are_capped_where_the_model_caps_them(save_paligemma, tmp_path):
    save_paligemma(tmp_path, "gemma2")
    engine = load_apart(tmp_path, device="cpu", dtype="float32")
    batch = Collator(engine.processor, max_length=1024)(SAMPLES[:1])
    theirs = engine.model(**inputs_of(batch), labels=batch["labels"]).loss
    objective = Objective(first_loc=engine.vocabulary.first_loc)
    add_objective(engine.model, objective)
    ours = engine.model(**inputs_of(batch), labels=batch["labels"])["loss"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_no_answer_sees_what_follows_and_every_prompt_sees_itself(collator):
    model, batch = load("tiny").model, collator(SAMPLES[:1])

    def logits(changed=None):
        ids = batch["input_ids"].clone()
        if changed is not None:
            ids[0, changed] = (ids[0, changed] + 7) % 200 + 300
        with torch.inference_mode():
            return model(**{**inputs_of(batch), "input_ids": ids}, use_cache=False).logits[0]

    start = int(batch["token_type_ids"][0].nonzero()[0])
    last, before = batch["input_ids"].shape[1] - 2, logits()
    assert float((logits(last) - before)[start:last].abs().max()) <= 1e-5
    assert float((logits(start - 2) - before)[: start - 2].abs().max()) > 1e-6


def test_the_mean_is_over_tokens_and_then_over_samples():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, SIZE)
    labels = torch.tensor([[3, 4, -100, -100, -100], [5, 6, 7, 8, 9], [-100] * 5])
    each = [
        functional.cross_entropy(logits[row][labels[row] >= 0], labels[row][labels[row] >= 0])
        for row in (0, 1)
    ]
    assert float(loss_of(logits, labels)) == pytest.approx(float(sum(each) / 2), rel=1e-6)
    flat = (logits.flatten(0, 1), labels.flatten())
    goal = functional.cross_entropy(*flat, ignore_index=-100)
    found = loss_of(logits, labels, mean_length=3.5)
    assert float(found) == pytest.approx(float(goal), rel=1e-6)


def test_an_empty_answer_weighs_as_one_token_of_a_crowds():
    labels = torch.tensor([[2, -100, -100, -100], [3, 4, 5, 2]])

    def pulls(mean_length):
        logits = torch.zeros(2, 4, SIZE, requires_grad=True)
        loss_of(logits, labels, mean_length=mean_length).backward()
        return logits.grad[labels != -100].norm(dim=-1).tolist()

    assert pulls(2.5) == pytest.approx([pulls(2.5)[0]] * 5)
    assert pulls(0.0)[0] == pytest.approx(4 * pulls(0.0)[1])


def test_neighbouring_bins_share_a_coordinates_target():
    for place in (0, 500, 1023):
        labels = torch.tensor([[FIRST + place]])
        logits = torch.zeros(1, 1, SIZE, requires_grad=True)
        loss_of(logits, labels, sigma=4.0).backward()
        pull = -logits.grad[0, 0, FIRST : FIRST + 1024]
        bell = np.exp(-0.5 * ((np.arange(1024) - place) / 4.0) ** 2)
        np.testing.assert_allclose(pull + 1 / SIZE, bell / bell.sum(), atol=1e-6)


def test_soft_bins_are_a_bell_of_their_own_for_each_bin():
    bins = torch.tensor([[300, 512, 700], [400, 100, 1023]])
    spread = soft_bins(bins, sigma=3.0).double()
    assert spread.shape == (2, 3, 1024)
    torch.testing.assert_close(spread.sum(-1), torch.ones(2, 3).double())
    assert torch.equal(spread.argmax(-1), bins)
    places = torch.arange(1024).double()
    mean = (spread * places).sum(-1)
    variance = (spread * (places - mean[..., None]) ** 2).sum(-1)
    inner = bins < 1000  # the last one's bell is cut off at the border
    torch.testing.assert_close(mean[inner], bins[inner].double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance[inner].sqrt(), torch.full((5,), 3.0).double())


def test_noise_teaches_its_class_alone(collator):
    box = "<loc0001><loc0002><loc0003><loc0004>"
    tokenizer = collator.processor.tokenizer
    for true in ("", f"{box} helmet"):
        suffix = " ; ".join([*([true] if true else []), f"{box} {NOISE}", f"{box} {NOISE}"])
        batch = collator([Sample("a", IMAGES[0], "detect all classes", suffix, len(true))])
        labels = batch["labels"][batch["labels"] >= 0]
        noise = tokenizer(f"<loc0000> {NOISE}", add_special_tokens=False)["input_ids"][1:]
        assert tokenizer.decode(labels).startswith(true)
        assert labels.tolist()[-2 * len(noise) :] == noise * 2
        first = collator.vocabulary.first_loc
        assert int(((labels >= first) & (labels < first + 1024)).sum()) == (4 if true else 0)


def test_what_is_too_long_or_has_no_end_is_refused():
    processor = load("tiny").processor
    with pytest.raises(DataError, match=r"c: prompt and answer have \d+ tokens, .* takes 110"):
        Collator(processor, max_length=110)(SAMPLES)
    stuck = Collator(copy.deepcopy(processor), max_length=1024)
    stuck.processor.tokenizer.eos_token = "<bos>"  # a processor that ends answers otherwise
    with pytest.raises(DataError, match="does not end in <eos>"):
        stuck(SAMPLES)
    assert processor.tokenizer.padding_side == "left"  # the engine's is left alone


def test_a_head_is_called_on_learnt_positions_alone():
    seen = []
    head = SimpleNamespace(call=lambda states: seen.append(len(states)) or states)
    labels = torch.full((2, 9), -100)
    labels[0, 4:6] = 3
    Objective(first_loc=FIRST)(torch.randn(2, 9, SIZE), head.call, labels)
    assert seen == [2]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_the_benchmark_of_a_step_runs_and_both_sides_have_one_loss(capsys):
    """It compares with plain transformers and peft; an earlier one had rotted unnoticed."""
    bench = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "bench_lora.py"))
    bench["main"](["--model", str(ROOT / "pgvision" / "runtime" / "tiny"), "--rounds", "1"])
    *sides, last = capsys.readouterr().out.splitlines()
    assert last.startswith("ratio: ") and float(last.split()[1]) > 0
    first = [float(line.partition("loss ")[2].split()[0]) for line in sides]
    assert first[0] == pytest.approx(first[1], rel=0.01)
