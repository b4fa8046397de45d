"""Referring segmentation by hand."""

import numpy as np
import pytest

from pgvision.errors import EvaluationError
from pgvision.evaluation import evaluate_referring


def block(top, left, bottom, right, hw=(20, 30)):
    mask = np.zeros(hw, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_referring_by_hand():
    truth = block(0, 0, 10, 10)
    report = evaluate_referring(
        iter([
            (truth, truth),  # 100 of 100
            (truth, block(0, 0, 10, 7)),  # 70 of 100
            (block(0, 0, 2, 2), block(0, 0, 2, 8)),  # 4 of 16
            (truth, None),  # 0 of 100
        ])
    )  # fmt: skip
    assert report.miou == pytest.approx((1 + 0.7 + 0.25) / 4)
    assert report.ciou == pytest.approx(174 / 316)
    assert report.precision == {0.5: 0.5, 0.6: 0.5, 0.7: 0.5, 0.8: 0.25, 0.9: 0.25}
    assert (report.num_missing, report.num_pairs) == (1, 4)


def test_referring_edges():
    empty = block(0, 0, 0, 0)
    assert evaluate_referring([(empty, empty)]).miou == 1
    missing = evaluate_referring([(empty, None)])
    assert (missing.miou, missing.ciou, missing.num_missing) == (0, 0, 1)
    assert set(missing.precision.values()) == {0.0}
    with pytest.raises(EvaluationError, match="at least one pair"):
        evaluate_referring([])
    with pytest.raises(EvaluationError, match=r"pairs\[0\]"):
        evaluate_referring([(empty, empty[1:])])
    with pytest.raises(EvaluationError, match="uint8"):
        evaluate_referring([(empty, empty.astype(np.uint8))])
