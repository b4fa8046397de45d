"""Referring segmentation by hand, and big_vision's arithmetic step by step."""

import numpy as np
import pytest

from pgvision.errors import EvaluationError
from pgvision.evaluation import ReferringAnswer, big_vision_referring, evaluate_referring


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


def answer(loc, logits, mask=None, box=(0.0, 0.0, 0.5, 0.5)):
    mask = block(0, 0, 50, 50, (100, 100)) if mask is None else mask
    return ReferringAnswer(mask=mask, box_yxyx=box, loc_yxyx=loc, mask_logits=logits)


INSIDE = np.ones((64, 64), np.float32)


def test_big_vision_cuts_pixels_and_divides_by_1023():
    # 511 / 1023 * 100 = 49.95, cut to 49: 49 x 49 of 50 x 50 pixels; its box is 511 / 1023 wide
    report = big_vision_referring([answer((0, 0, 511, 511), INSIDE)])
    assert report.miou == 49 * 49 / 2500
    assert report.boxacc == {0.5: 1.0, 0.75: 1.0}
    assert (report.invalid, report.total) == (0, 1)


def test_big_vision_nothing_true_and_nothing_found_is_zero():
    # big_vision itself divides by zero here
    nothing = answer((0, 0, 511, 511), -INSIDE, mask=np.zeros((100, 100), bool))
    assert big_vision_referring([nothing]).miou == 0.0


def test_big_vision_half_a_mask_and_box_thresholds():
    left = np.where(np.arange(64) < 32, 1, -1).astype(np.float32)[None].repeat(64, axis=0)
    report = big_vision_referring([answer((0, 0, 1023, 511), left, box=(0, 0, 0.6, 0.5))])
    # box: rows 0-99, columns 0-48 (49 wide); the bilinear filter crosses zero at 24.5
    rows = np.asarray(report.miou * 1)
    expected_widths = (24, 25)
    shared = [width * 50 / (2500 + width * 100 - width * 50) for width in expected_widths]
    assert rows in np.array(shared)
    assert report.boxacc == {0.5: 1.0, 0.75: 0.0}  # IoU 0.6 in the unit square


@pytest.mark.parametrize(
    ("loc", "logits"),
    [
        (None, None),
        ((0, 0, 511, 511), None),
        ((511, 0, 511, 511), INSIDE),
        ((0, 600, 511, 511), INSIDE),
        ((0, 0, 1024, 511), INSIDE),
        ((0, 0, 5, 5), INSIDE),  # valid tokens, but no whole pixel
    ],
)
def test_big_vision_invalid_answers_count_zero(loc, logits):
    report = big_vision_referring([answer(loc, logits), answer((0, 0, 511, 511), INSIDE)])
    assert report.invalid == 1
    assert report.miou == 49 * 49 / 2500 / 2
    with pytest.raises(EvaluationError, match="at least one"):
        big_vision_referring([])
