"""One step of the codec's training, past the steps without a codebook, against plain torch."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqvae import training
from vqvae.model import Quantizer
from vqvae.training import TrainingSettings, _Run

SETTINGS = TrainingSettings(steps=400, batch_size=8, bfloat16=False, seed=3)


@pytest.fixture
def run(tmp_path: Path) -> _Run:
    """A run whose codebook has just been started, at step 151."""
    masks = np.random.default_rng(0).random((12, 8, 8)) < 0.5
    run = _Run((np.kron(masks, np.ones((8, 8))) * 255).astype(np.uint8), None, tmp_path, SETTINGS)
    run.step = 150
    run._one_step()
    run.step = 151
    return run


def taken_step(run: _Run, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Do one step; return the batch of masks that it saw."""
    seen: list[Tensor] = []
    augment = training.augment
    monkeypatch.setattr(training, "augment", lambda *a: seen.append(augment(*a)) or seen[0])
    run._one_step()
    return seen[0]


def plain_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of ``sigmoid(4 logits)`` plus half of ``1 - soft IoU``, written out."""
    probs = 1 / (1 + torch.exp(-4 * logits))
    pixels = -(masks * probs.log() + (1 - masks) * (1 - probs).log()).mean()
    total = 0.0
    for mask, prob in zip(masks, probs, strict=True):
        total = total + 1 - torch.minimum(mask, prob).sum() / torch.maximum(mask, prob).sum()
    return pixels + 0.5 * total / len(masks)


def plain_gradients(model: torch.nn.Module, masks: Tensor) -> list[Tensor]:
    """Gradients by hand: the decoder's reach the encoder as if there were no codebook.

    The loss is taken at the chosen rows, and its gradient there, plus that of a quarter of the mean
    squared distance to them, is sent back through the encoder; then all is cut to norm 1.
    """
    table = model.state_dict()["_vq_vae._embedding"]
    vectors = model.vectors(masks)
    codes = torch.cdist(vectors.detach().double().flatten(0, 1), table.double()).argmin(1)
    rows = table[codes].view_as(vectors).requires_grad_()
    decoder = list(model.decoder.parameters())
    at_rows, *decoded = torch.autograd.grad(plain_loss(model.decode(rows), masks), [rows, *decoder])
    pulled = 0.25 * 2 * (vectors - rows).detach() / vectors.numel()
    encoded = torch.autograd.grad(vectors, list(model.encoder.parameters()), at_rows + pulled)
    gradients = [*encoded, *decoded]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    return [gradient * min(1.0, 1.0 / norm) for gradient in gradients]


def test_gradients_are_those_of_plain_torch(run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.deepcopy(run.model)
    masks = taken_step(run, monkeypatch)
    expected = plain_gradients(before, masks)
    learning = [*run.model.encoder.parameters(), *run.model.decoder.parameters()]
    for held, was, wanted in zip(
        learning,
        [*before.encoder.parameters(), *before.decoder.parameters()],
        expected,
        strict=True,
    ):
        torch.testing.assert_close(held.grad, wanted, rtol=1e-3, atol=1e-6)
        assert not torch.equal(held, was)


def test_the_codebook_follows_by_running_averages(
    run: _Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(run.model)
    masks = taken_step(run, monkeypatch)
    held = {name: value.double().numpy() for name, value in before._vq_vae.state_dict().items()}
    vectors = before.vectors(masks).detach().reshape(-1, 512)
    codes = before.quantizer.nearest(vectors).numpy()  # rows are near each other at first: no ties
    vectors = vectors.double().numpy()
    assert len(np.unique(codes)) > 3
    for code in range(128):
        mine = vectors[codes == code]
        count = 0.99 * held["_ema_cluster_size"][code] + 0.01 * len(mine)
        total = 0.99 * held["_ema_w"][code] + 0.01 * mine.sum(0)
        for name, wanted in (("cluster_size", count), ("w", total)):
            found = getattr(run.model.quantizer, f"_ema_{name}")[code].numpy()
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        found = run.model.quantizer._embedding[code].numpy()
        np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-5)


def test_the_first_steps_know_no_codebook(run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.step = 149
    before = copy.deepcopy(run.model)
    masks = taken_step(run, monkeypatch)
    vectors = before.vectors(masks)
    loss = plain_loss(before.decode(vectors), masks) + 0.25 * 0.01 * vectors.square().mean()
    learning = [*before.encoder.parameters(), *before.decoder.parameters()]
    expected = torch.autograd.grad(loss, learning)
    cut = min(1.0, 1 / math.sqrt(sum(float(one.square().sum()) for one in expected)))
    found = [*run.model.encoder.parameters(), *run.model.decoder.parameters()]
    for held, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(held.grad, cut * wanted, rtol=1e-3, atol=1e-6)


def test_gradients_are_cut_to_norm_1(run: _Run) -> None:
    with torch.no_grad():
        run.model.decoder[-1].weight.mul_(100)
    run._one_step()
    norm = torch.nn.utils.get_total_norm([one.grad for one in run.model.parameters()])
    assert float(norm) == pytest.approx(1.0, rel=1e-4)


def test_every_step_draws_masks_anew_by_their_weights(
    run: _Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mask k is k + 1 everywhere: no flip or warp changes that.
    run.masks = (torch.arange(12, dtype=torch.uint8) + 1)[:, None, None].expand(12, 64, 64)
    run.weights = torch.tensor([0.0, 1.0, 0.0, 5.0] + 8 * [0.0])
    drawn = []
    for step in range(151, 171):
        run.step = step
        with monkeypatch.context() as patch:
            drawn.append((taken_step(run, patch)[:, 0, 0] * 255).round().int().tolist())
    counts = np.bincount(np.array(drawn).ravel(), minlength=13)
    assert counts[[2, 4]].sum() == counts.sum() == 160
    assert counts[4] / counts.sum() == pytest.approx(5 / 6, abs=0.1)
    assert len({tuple(row) for row in drawn}) > 10


def test_masks_are_turned_and_bent_and_keep_their_boxes() -> None:
    corner = torch.zeros(64, 64)
    corner[2:30, 5:40] = 1
    corner[30:60, 5:12] = 1
    ways = [way for one in (corner, corner.T) for way in (one, one.flip(0), one.flip(1))]
    ways += [corner.flip(0, 1), corner.T.flip(0, 1)]
    turned = {tuple(one.flatten().tolist()) for one in ways}
    bent = training.augment(corner.repeat(128, 1, 1), torch.Generator().manual_seed(0))
    found = [tuple(one.flatten().tolist()) for one in bent]
    assert set(found[64:]) == turned and len(turned) == 8
    assert not turned & set(found[:64])
    ring = torch.ones(64, 64)
    ring[4:60, 4:60] = 0
    bent = training.augment(ring.repeat(64, 1, 1), torch.Generator().manual_seed(0))
    for edge in (bent[:, 0], bent[:, -1], bent[..., 0], bent[..., -1]):
        assert float(edge.min()) > 0.5
    assert float((bent[:32] - ring).abs().mean()) > 0.005


def test_the_codebook_is_started_at_step_150(run: _Run) -> None:
    rows = torch.full_like(run.model.quantizer._embedding, 1e3)  # nothing would ever choose these
    run.model.quantizer._embedding.copy_(rows)
    run.step = 150
    run._one_step()
    assert float(run.model.quantizer._embedding.abs().max()) < 100


@pytest.mark.parametrize(("step", "is_revived"), [(174, False), (175, True), (325, False)])
def test_dead_codes_come_back_every_25_steps_until_the_last_fifth(
    run: _Run, step: int, is_revived: bool
) -> None:
    quantizer = run.model.quantizer
    for held in (quantizer._embedding, quantizer._ema_w):
        held[[3, 77]] = 1e3
    quantizer._ema_cluster_size[[3, 77]] = 1e-3
    run.step = step
    run._one_step()
    assert (quantizer._embedding[[3, 77]].abs().max() < 100) == is_revived


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1 / 50), (24, 0.5), (100, (2 + 2**0.5) / 4), (200, 0.5), (300, 0.1464)]
)
def test_the_rate_warms_up_and_falls_as_a_cosine(run: _Run, step: int, share: float) -> None:
    run.step = step
    run._one_step()
    rate = run.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1.5e-3 * share, rel=0.01)


def test_dead_codes_are_revived() -> None:
    quantizer = Quantizer()
    vectors = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    quantizer._ema_cluster_size[:] = 2.0
    quantizer._ema_cluster_size[[3, 77]] = 0.0
    quantizer._ema_cluster_size[5] = 0.1  # as much as is asked for
    moved = quantizer.revive(vectors, torch.Generator().manual_seed(1), minimum=0.1)
    assert moved == 2
    for row in (3, 77):
        assert (vectors == quantizer._embedding[row]).all(1).any()
        # As if it had been chosen by its share of the 256: the next update keeps its place.
        assert quantizer._ema_cluster_size[row] == 2.0
        torch.testing.assert_close(quantizer._ema_w[row], 2.0 * quantizer._embedding[row])
