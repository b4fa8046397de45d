"""Losses over boxes and masks, against DETR's code, numpy, and where their gradients lead."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.loss.loss_for_object_detection import generalized_box_iou

from pgvision.errors import ShapeError
from pgvision.training.localisation import MaskLoss, box_loss, expected_bins, generalised_iou
from vqvae import MaskCodec

LOC, SEG, SIZE = 50, 1200, 1400  # first ids and size of a made-up vocabulary
OTHER = torch.tensor([3, 4, 5])


def logits_of(targets: Tensor, sharpness: float = 200.0) -> Tensor:
    return sharpness * functional.one_hot(targets.clamp(min=0), SIZE).float()


def boxes_of(rng: np.random.Generator, count: int) -> Tensor:
    corners = np.sort(rng.integers(0, 1024, (count, 2, 2)), axis=1)
    return torch.from_numpy(corners.reshape(count, 4))


def test_generalised_iou_is_detrs() -> None:
    rng = np.random.default_rng(0)
    boxes, others = boxes_of(rng, 200).float(), boxes_of(rng, 200).float()
    expected = generalized_box_iou(boxes, others).diagonal()
    torch.testing.assert_close(generalised_iou(boxes, others), expected)
    assert (expected < 0).any() and (expected > 0.3).any()


def test_generalised_iou_pulls_a_box_without_area_to_the_other() -> None:
    crossed = torch.tensor([[600.0, 500.0, 400.0, 520.0]], requires_grad=True)
    true = torch.tensor([[100.0, 100.0, 200.0, 200.0]])
    value = generalised_iou(crossed, true)
    assert -1 <= value.item() <= 0
    (slope,) = torch.autograd.grad(value.sum(), crossed)
    assert slope[0, 2] < 0 and slope[0, 3] < 0  # the far edges should come nearer
    point = torch.full((1, 4), 7.0, requires_grad=True)
    generalised_iou(point, point.detach()).sum().backward()
    assert point.grad is not None and point.grad.isfinite().all()


def test_expected_bins_are_the_mean() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (5, 1024))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = expected_bins(torch.from_numpy(logits))
    np.testing.assert_allclose(found.numpy(), chances @ np.arange(1024), rtol=1e-12)


def test_a_box_costs_its_distance_and_its_giou() -> None:
    rng = np.random.default_rng(2)
    true, found = boxes_of(rng, 20), boxes_of(rng, 20)
    told, said = (
        torch.cat([torch.cat([row + LOC, OTHER[:1]]) for row in rows]) for rows in (true, found)
    )
    overlap = generalized_box_iou(found.float(), true.float()).diagonal()
    distance = (found - true).abs().sum(1) / 1024
    loss = box_loss(logits_of(said), told, first_loc=LOC)
    torch.testing.assert_close(loss, 5 * distance + 2 * (1 - overlap))
    alone = box_loss(logits_of(said), told, first_loc=LOC, l1=1.0, giou=0.0)
    torch.testing.assert_close(alone, distance)
    assert box_loss(logits_of(told), told, first_loc=LOC).abs().max() < 1e-6


def test_only_whole_boxes_count_row_by_row() -> None:
    ends_with_two = torch.tensor([LOC, LOC + 9, LOC + 5, LOC + 30, 3, LOC + 1, LOC + 2])
    begins_with_two = torch.tensor([LOC + 3, LOC + 4, 3, 3, -100, -100, -100])
    too_many = torch.tensor([*(LOC + edge for edge in (1, 2, 3, 4, 5)), -100, -100])
    targets = torch.stack([ends_with_two, begins_with_two, too_many])
    assert len(box_loss(logits_of(targets), targets, first_loc=LOC)) == 1
    targets[0, 0] = -100  # its loss is masked
    assert box_loss(logits_of(targets), targets, first_loc=LOC).shape == (0,)


def test_what_is_no_bin_has_no_say() -> None:
    targets = torch.tensor([LOC + 10, LOC + 20, LOC + 110, LOC + 220, 3])
    logits = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(0))
    before = box_loss(logits, targets, first_loc=LOC)
    logits[:, :LOC] += 50.0
    logits[:, LOC + 1024 :] += 50.0
    torch.testing.assert_close(box_loss(logits, targets, first_loc=LOC), before)


def test_descent_finds_the_box_from_a_crossed_one() -> None:
    targets = torch.tensor([100, 200, 300, 600]) + LOC
    start = torch.tensor([700, 900, 600, 100]) + LOC
    logits = logits_of(start, sharpness=8.0).requires_grad_()
    descent = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        descent.zero_grad()
        box_loss(logits, targets, first_loc=LOC).sum().backward()
        descent.step()
    found = expected_bins(logits[:, LOC : LOC + 1024].detach())
    assert (found - (targets - LOC)).abs().max() < 12


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
