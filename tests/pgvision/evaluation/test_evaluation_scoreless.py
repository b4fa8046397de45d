"""Without scores: refused, or bounds that the AP of every order respects."""

from itertools import permutations

import numpy as np
import pytest

from pgvision.errors import EvaluationError
from pgvision.evaluation import evaluate_detections


def without_scores(results):
    return [{key: value for key, value in r.items() if key != "score"} for r in results]


def test_refused_with_an_explanation(small_set):
    truth, results = small_set
    with pytest.raises(EvaluationError, match=r"not one record has a score.*interval"):
        evaluate_detections(truth, without_scores(results))
    with pytest.raises(EvaluationError, match="not one record"):
        evaluate_detections(truth, [{**record, "score": None} for record in results])


def test_small_set_by_hand(small_set):
    truth, results = small_set
    report = evaluate_detections(truth, without_scores(results), scoreless="interval")
    # helmet: 1 of 2 found among 3 predictions: 51 recall points at 1/3 or at 1; head: 1
    low, high = (51 / 101 / 3 + 1) / 2, (51 / 101 + 1) / 2
    assert report.stats is None
    assert report.curves is None
    assert report.ap_interval.ap == pytest.approx((low, high))
    assert report.ap_interval.per_class["head"] == pytest.approx((1, 1))
    assert report.score_free == evaluate_detections(truth, results).score_free
    assert report.to_dict()["ap_interval"]["ap50"] == pytest.approx([low, high])


def crowded_scene(seed):
    """A few objects of one class whose predictions compete, and now and then a crowd."""
    rng = np.random.default_rng(seed)
    second = [18, 12, 30, 30] if seed % 2 else [18, 80, 30, 30]
    boxes = [[10, 10, 30, 30], second, [90, 60, 40, 30]]
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}, {"id": 2, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 5 + row, "image_id": 1 + row // 2, "category_id": 1, "bbox": box, "area": 900,
             "iscrowd": int(seed % 3 == 0 and row == 2)}
            for row, box in enumerate(boxes)
        ],
    }  # fmt: skip
    found = []
    for _ in range(5):
        row = int(rng.integers(0, 3))
        box = [float(v + rng.normal(0, 2.5)) for v in boxes[row]]
        found.append({"image_id": 1 + row // 2, "category_id": 1, "bbox": box})
    return truth, found


@pytest.mark.parametrize("seed", range(12))
def test_no_order_leaves_the_interval(seed):
    truth, found = crowded_scene(seed)
    interval = evaluate_detections(truth, found, scoreless="interval").ap_interval
    reached = []
    for order in permutations(range(len(found))):  # all 120
        ranked = [
            {**record, "score": 1 / (1 + place)} for record, place in zip(found, order, strict=True)
        ]
        reached.append(
            evaluate_detections(truth, ranked, engine="hotcoco", details=False).stats[:3]
        )
    for (low, high), values in zip(
        (interval.ap, interval.ap50, interval.ap75), np.array(reached).T, strict=True
    ):
        assert low - 1e-12 <= values.min()
        assert values.max() <= high + 1e-12
    # at one IoU, if no prediction overlaps two annotations and none a crowd, both ends are reached
    if seed % 2 == 0 and seed % 3:
        assert interval.ap50[0] == pytest.approx(np.array(reached)[:, 1].min())
        assert interval.ap50[1] == pytest.approx(np.array(reached)[:, 1].max())


@pytest.mark.parametrize("seed", range(0, 12))
def test_random_orders_of_large_sets_stay_inside(random_set, seed):
    truth, results = random_set(seed)
    if not results:
        return
    bare = without_scores(results)
    interval = evaluate_detections(truth, bare, scoreless="interval", details=False).ap_interval
    rng = np.random.default_rng(seed)
    for _ in range(20):
        scores = rng.permutation(len(bare)) + 1.0
        ranked = [{**r, "score": float(s)} for r, s in zip(bare, scores, strict=True)]
        report = evaluate_detections(truth, ranked, engine="hotcoco", details=False)
        assert interval.ap[0] - 1e-12 <= report.stats[0] <= interval.ap[1] + 1e-12
        for figures in report.per_class:
            if figures.ap is not None:
                low, high = interval.per_class[figures.name]
                assert low - 1e-12 <= figures.ap <= high + 1e-12


def chain():
    """Seven predictions, each halfway between two of six annotations; a seventh is alone.

    Halves of a pixel decide which one a prediction likes better: 1 and 4 the left one, 2 and 5 the
    right one.
    """
    likes = (0.5, -0.5, 0.5, 0.5, -0.5, 0.5, -0.5)
    found = [[10 + 16 * place + like, 10, 30, 20] for place, like in enumerate(likes)]
    boxes = [[18 + 16 * place, 10, 30, 20] for place in range(6)] + [[10, 80, 30, 20]]
    one = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {**one, "id": row, "bbox": box, "area": 600} for row, box in enumerate(boxes, 1)
        ],
    }
    return truth, [{**one, "bbox": box} for box in found]


def test_a_long_chain_of_rivals_stays_inside():
    truth, found = chain()
    interval = evaluate_detections(truth, found, scoreless="interval").ap_interval

    def reached(*order):
        ranked = [{**found[row], "score": 1 / (1 + place)} for place, row in enumerate(order)]
        return evaluate_detections(truth, ranked, engine="pycocotools", details=False).stats[1]

    # from left to right six of seven annotations are found; 1, 2, 4 and 5 first leave only four
    most, fewest = reached(0, 1, 2, 3, 4, 5, 6), reached(1, 2, 4, 5, 0, 3, 6)
    assert (most, fewest) == (pytest.approx(86 / 101), pytest.approx(58 / 101))
    assert 0 < interval.ap50[0] <= fewest
    assert interval.ap50[1] == pytest.approx(most)


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
        figures = evaluate_detections(truth, order, scoreless="interval").score_free[0]
        assert (figures.num_matched, figures.precision, figures.recall) == (1, 1.0, 1.0)


def test_constant_scores_are_noted_and_get_the_interval_on_request(small_set):
    truth, results = small_set
    constant = [{**record, "score": 1.0} for record in results]
    report = evaluate_detections(truth, constant)
    assert report.ap_interval is None
    assert "all 4 scores are 1" in report.notes[-1]
    asked = evaluate_detections(truth, constant, scoreless="interval")
    bare = evaluate_detections(truth, without_scores(results), scoreless="interval")
    assert asked.ap_interval == bare.ap_interval
    assert asked.ap_interval.ap[0] <= asked.ap <= asked.ap_interval.ap[1] + 1e-12
    assert evaluate_detections(truth, results, scoreless="interval").ap_interval is None
