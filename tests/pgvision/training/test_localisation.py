"""Losses over boxes and masks, against DETR's code, numpy, and where their gradients lead."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pgvision.errors import ShapeError
from pgvision.training.localisation import MaskLoss
from vqvae import MaskCodec

LOC, SEG, SIZE = 50, 1200, 1400  # first ids and size of a made-up vocabulary
OTHER = torch.tensor([3, 4, 5])


def logits_of(targets: Tensor, sharpness: float = 200.0) -> Tensor:
    return sharpness * functional.one_hot(targets.clamp(min=0), SIZE).float()


def boxes_of(rng: np.random.Generator, count: int) -> Tensor:
    corners = np.sort(rng.integers(0, 1024, (count, 2, 2)), axis=1)
    return torch.from_numpy(corners.reshape(count, 4))


@pytest.fixture(scope="module")
def codec() -> MaskCodec:
    return MaskCodec.load("tiny")


def discs() -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return np.stack(
        [np.hypot(rows - y, columns - x) < r for y, x, r in ((31, 31, 28), (40, 20, 15))]
    ).astype(np.float32)


def segment_row(codes: np.ndarray) -> Tensor:
    parts = [torch.cat([torch.tensor([LOC] * 4), torch.from_numpy(row) + SEG]) for row in codes]
    return torch.cat([torch.cat([part, OTHER]) for part in parts])


def test_a_mask_costs_its_pixels_and_its_dice(codec: MaskCodec) -> None:
    masks = discs()
    codes = codec.encode(masks)
    targets = segment_row(codes[::-1].copy())
    said = segment_row(codes)  # the other's shape
    loss = MaskLoss(codec)(
        logits_of(said), targets, torch.from_numpy(masks[::-1].copy()), first_seg=SEG
    )
    drawn = 1 / (1 + np.exp(-4.0 * codec.decode(codes).astype(np.float64)))
    for value, chances, true in zip(loss.tolist(), drawn, masks[::-1], strict=True):
        pixels = -np.mean(true * np.log(chances) + (1 - true) * np.log(1 - chances))
        dice = (2 * (chances * true).sum() + 1) / (chances.sum() + true.sum() + 1)
        assert value == pytest.approx(pixels + 1 - dice, rel=1e-4)
    right = MaskLoss(codec)(
        logits_of(targets), targets, torch.from_numpy(masks[::-1].copy()), first_seg=SEG
    )
    assert (right < 0.5 * loss).all()


def test_descent_through_the_decoder_draws_the_mask(codec: MaskCodec) -> None:
    masks = torch.from_numpy(discs())
    targets = segment_row(codec.encode(discs()))
    measure = MaskLoss(codec)
    logits = torch.zeros(len(targets), SIZE, requires_grad=True)
    descent = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        descent.zero_grad()
        measure(logits, targets, masks, first_seg=SEG).sum().backward()
        descent.step()
    at = (targets >= SEG).nonzero()[:, 0]
    chances = logits[at, SEG : SEG + 128].softmax(-1).detach().reshape(2, 16, 128).numpy()
    drawn, true = codec.decode_soft(chances) > 0, masks.numpy() > 0.5
    overlap = (drawn & true).sum((1, 2)) / (drawn | true).sum((1, 2))
    assert overlap.min() > 0.9
    assert logits.grad is not None
    assert not logits.grad[targets < SEG].any()  # and nothing else is moved
    assert not any(one.requires_grad for one in measure.parameters())


def test_masks_and_answers_must_agree(codec: MaskCodec) -> None:
    targets = segment_row(codec.encode(discs()))
    with pytest.raises(ShapeError, match="expected 2"):
        MaskLoss(codec)(logits_of(targets), targets, torch.zeros(1, 64, 64), first_seg=SEG)
    none = MaskLoss(codec)(logits_of(OTHER), OTHER, torch.zeros(0, 64, 64), first_seg=SEG)
    assert none.shape == (0,)
    copied = MaskLoss(codec).to(torch.float64)
    assert next(copied.parameters()).dtype == torch.float64
    assert next(codec.network.parameters()).dtype == torch.float32  # its owner's stays
