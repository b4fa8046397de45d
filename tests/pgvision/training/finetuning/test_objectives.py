"""Losses by a second way: transformers' own, plain formulas, and gradients by differences."""

import pytest
import torch
from torch.nn import functional

from pgvision.training.finetuning.objectives import TokenLoss
from pgvision.training.finetuning.settings import FinetuneSettings, Task

FIRST = 10
SIZE = FIRST + 1024 + 128


def test_the_token_loss_is_a_mean_over_tokens_and_then_over_examples() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, SIZE)
    labels = torch.tensor([[3, 4, -100, -100, -100], [5, 6, 7, 8, 9], [-100] * 5])
    each = [
        functional.cross_entropy(logits[row][labels[row] >= 0], labels[row][labels[row] >= 0])
        for row in (0, 1)
    ]
    found = TokenLoss(first_loc=FIRST)(logits, labels)
    assert float(found) == pytest.approx(float(sum(each) / 2), rel=1e-6)
    usual = (2 + 5) / 2  # the third row has nothing to learn
    plain = TokenLoss(first_loc=FIRST, usual=usual)(logits, labels)
    both = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(plain) == pytest.approx(float(both), rel=1e-6)
    smooth = TokenLoss(first_loc=FIRST, usual=usual, smoothing=0.3)(logits, labels)
    goal = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.3
    )
    assert float(smooth) == pytest.approx(float(goal), rel=1e-6)


def test_an_empty_answer_weighs_as_one_token_of_a_crowds() -> None:
    labels = torch.tensor([[2, -100, -100, -100], [3, 4, 5, 2]])

    def pulls(usual: float) -> list[float]:
        logits = torch.zeros(2, 4, SIZE, requires_grad=True)
        TokenLoss(first_loc=FIRST, usual=usual)(logits, labels).backward()
        assert logits.grad is not None
        return logits.grad[labels != -100].norm(dim=-1).tolist()

    alike = pulls(2.5)
    assert alike == pytest.approx([alike[0]] * 5)
    by_example = pulls(0.0)
    assert by_example[0] == pytest.approx(4 * by_example[1])


@pytest.mark.parametrize(
    ("task", "told", "counts"),
    [
        ("detect", None, True), ("segment", None, True), ("mix", None, True),
        ("caption", None, False), ("ask", None, False), ("read", None, False),
        ("detect", False, False), ("caption", True, True),
    ],
)  # fmt: skip
def test_tokens_count_alike_for_objects_or_where_it_is_said(
    task: Task, told: bool | None, counts: bool
) -> None:
    assert FinetuneSettings(steps=1, task=task, token_mean=told).counts_tokens == counts


def test_neighbouring_bins_share_a_coordinates_target() -> None:
    logits = torch.zeros(1, 1, SIZE)
    logits[0, 0, FIRST + 500] = 5.0
    loss = TokenLoss(first_loc=FIRST, loc_sigma=4.0)
    near, far = (float(loss(logits, torch.tensor([[FIRST + bin_]]))) for bin_ in (502, 600))
    sharp = TokenLoss(first_loc=FIRST)
    assert near < far - 0.3
    assert float(sharp(logits, torch.tensor([[FIRST + 502]]))) == pytest.approx(
        float(sharp(logits, torch.tensor([[FIRST + 600]])))
    )
    word = torch.tensor([[3]])
    assert float(loss(logits, word)) == pytest.approx(float(sharp(logits, word)))


def test_kinds_of_tokens_count_what_they_are_given() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 4, SIZE)
    labels = torch.tensor([[3, FIRST + 7, 4, 2], [FIRST + 900, 5, 2, -100]])
    counts = torch.full((SIZE,), 0.5)
    counts[FIRST : FIRST + 1024] = 3.0
    counts[2] = 0.0
    kinds = ((torch.arange(FIRST, FIRST + 1024), 3.0), (torch.tensor([2]), 0.0))
    plain = TokenLoss(first_loc=FIRST, usual=(4.0 + 3.5) / 2, others=0.5, weights=kinds)
    rows = [
        functional.cross_entropy(logits[k], labels[k], weight=counts, ignore_index=-100)
        for k in (0, 1)
    ]
    both = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), weight=counts, ignore_index=-100
    )
    assert float(plain(logits, labels)) == pytest.approx(float(both), rel=1e-6)
    by_row = TokenLoss(first_loc=FIRST, others=0.5, weights=kinds)
    assert float(by_row(logits, labels)) == pytest.approx(float(sum(rows) / 2), rel=1e-6)
    alone = torch.tensor([[2, -100, -100, -100]])  # an answer of which nothing counts
    together = by_row(torch.cat([logits, logits[:1]]), torch.cat([labels, alone]))
    assert float(together) == pytest.approx(float(sum(rows) / 2), rel=1e-6)
