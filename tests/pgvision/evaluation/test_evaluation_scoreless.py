"""Without scores: refused, or scored without AP."""

import pytest

from pgvision.errors import EvaluationError
from pgvision.evaluation import evaluate_detections


def without_scores(results):
    return [{key: value for key, value in r.items() if key != "score"} for r in results]


def test_refused_with_an_explanation(small_set):
    truth, results = small_set
    with pytest.raises(EvaluationError, match=r"no record has a score.*scoreless="):
        evaluate_detections(truth, without_scores(results))
    with pytest.raises(EvaluationError, match="no record has a score"):
        evaluate_detections(truth, [{**record, "score": None} for record in results])


def test_metrics_without_order_are_those_with_scores(small_set):
    truth, results = small_set
    report = evaluate_detections(truth, without_scores(results), scoreless="f1")
    assert (report.ap, report.curves, report.best_f1, report.reliability) == (None,) * 4
    scored = evaluate_detections(truth, results)
    assert report.score_free == scored.score_free
    assert report.miou == scored.miou
    assert report.score_free[0].f1 == pytest.approx(4 / 7)  # 2 of 4 predictions, 2 of 3 boxes


def test_no_order_changes_what_a_crowd_excuses():
    # two predictions of one annotation; only the right one lies on the crowd, which excuses it
    one = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {**one, "id": 1, "bbox": [10, 10, 40, 40]},
            {**one, "id": 2, "bbox": [30, 0, 90, 90], "iscrowd": 1},
        ],
    }
    found = [{**one, "bbox": [x, 10, 40, 40]} for x in (5, 15)]
    for order in (found, found[::-1]):
        figures = evaluate_detections(truth, order, scoreless="f1").score_free[0]
        assert (figures.num_matched, figures.precision, figures.recall) == (1, 1.0, 1.0)


def test_constant_scores_are_noted(small_set):
    truth, results = small_set
    constant = [{**record, "score": 1.0} for record in results]
    assert "all 4 scores are 1" in evaluate_detections(truth, constant).notes[-1]
