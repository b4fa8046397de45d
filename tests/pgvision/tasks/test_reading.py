"""From tokens to objects: spans of the engine, cut answers, presence, thresholds, calibration."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import CARD, Scripted, generation, spans

from pgvision.errors import OptionError
from pgvision.evaluation import Calibration
from pgvision.images import Frame
from pgvision.runtime import Generation
from pgvision.tasks import Detector, Segmenter
from pgvision.tasks.options import ObjectSettings
from pgvision.tasks.reading import read_answer
from pgvision.tasks.trained_on import known_classes
from recipes.scenes import render_scene

IMAGE = np.zeros((480, 640, 3), np.uint8)
HELMET = "<loc0256><loc0128><loc0512><loc0384> helmet"
HEAD = "<loc0100><loc0100><loc0200><loc0200> head"


def held(text: str, labels: tuple[int | None, ...], **changes: object) -> Generation:
    """Write an answer as an engine does that followed the grammar: spans are the whole answer."""
    answer = generation(text)
    cut = changes.pop("cut", False)
    found = [
        span._replace(label=label, is_complete=not (cut and at == len(labels) - 1))
        for at, (span, label) in enumerate(zip(spans(answer.pieces), labels, strict=True))
    ]
    return replace(answer, spans=tuple(found), normalised="allowed", **changes)


def detector(answer: Generation, classes: object = "helmet", **options: object) -> Detector:
    engine = Scripted(lambda request: "", write=lambda text, done: answer)
    return Detector(classes, generator=engine, **options)


@pytest.mark.parametrize("constrained", [True, False])
def test_objects_are_the_same_by_spans_and_by_text(constrained: bool) -> None:
    text = f"{HELMET} ; {HEAD}"
    answer = held(text, (1, 0)) if constrained else generation(text)
    result = detector(answer, ["head", "helmet"])(IMAGE)
    np.testing.assert_allclose(result.xyxy, [[80, 120, 240, 240], [62.5, 46.875, 125, 93.75]])
    assert result.labels == result.texts == ("helmet", "head")
    assert result.class_ids.tolist() == [1, 0]
    assert result.loc_yxyx.tolist() == [[256, 128, 512, 384], [100, 100, 200, 200]]
    np.testing.assert_allclose(result.scores[0], 0.9**3, rtol=0.02)


@pytest.mark.parametrize("conf", [0, 0.3])
def test_tokens_that_are_apart_leave_the_scores(conf: float) -> None:
    """The parser reads such a box; its score was unknown, and with it that of every object."""
    answer = generation(f"{HELMET.replace('><', '> <', 1)} ; {HEAD}")
    result = detector(answer, ["head", "helmet"], conf=conf)(IMAGE)
    assert result.labels == ("helmet", "head")
    np.testing.assert_allclose(result.scores[0], 0.9**3, rtol=0.02)


def test_the_second_object_has_its_own_probabilities() -> None:
    """Rows of the location table are counted over the whole answer."""
    answer = held(f"{HELMET} ; {HEAD}", (1, 0))
    table = answer.loc_probs.copy()
    table[4:] = 1 / 1024  # the model has no idea where the head is
    result = detector(replace(answer, loc_probs=table), ["head", "helmet"], nms=1.0)(IMAGE)
    assert result.scores[1] < 0.2 < 0.7 < result.scores[0]
    assert (result.edge_std[1] > 100).all()
    assert (result.edge_std[0] < 100).all()


@pytest.mark.parametrize("constrained", [True, False])
def test_each_mask_has_its_own_codes(constrained: bool) -> None:
    first, second = ("".join(f"<seg{start + k:03d}>" for k in range(16)) for start in (0, 100))
    box = "<loc0256><loc0128><loc0512><loc0384>"
    text = f"{box}{first} helmet ; {box}{second} head"
    answer = held(text, (1, 0)) if constrained else generation(text)
    task = Segmenter(["head", "helmet"], generator=Scripted(lambda request: ""))
    ask = task.plan(Frame(IMAGE, "array"))[0]
    names = known_classes(ask.classes, CARD)
    found, rejects = read_answer(ask, answer, names, (480, 640), ObjectSettings(), offset=7)
    assert not rejects
    for item, start in zip(found, (0, 100), strict=True):
        assert item.codes == tuple(range(start, start + 16))
        assert text[item.start - 7 : item.end - 7].startswith(box)


def test_edges_in_a_tile_vary_by_its_sides() -> None:
    answer, names = held(HELMET, (0,)), known_classes(["helmet"], CARD)
    ask = detector(answer).plan(Frame(IMAGE, "array"))[0]
    stds = []
    for window in (None, (300, 200, 460, 320)):
        tile = replace(ask, window=window)
        (found,), _ = read_answer(tile, answer, names, (480, 640), ObjectSettings(), offset=0)
        stds.append(found.edge_std)
    np.testing.assert_allclose(stds[1] / stds[0], np.tile([160 / 640, 120 / 480], 2), rtol=1e-5)


def test_the_best_objects_are_kept() -> None:
    answer = held(f"{HELMET} ; {HEAD}", (1, 0))
    table = answer.loc_probs.copy()
    for worse, kept in ((slice(4, 8), "helmet"), (slice(0, 4), "head")):
        changed = table.copy()
        changed[worse] = 1 / 1024
        answer = replace(answer, loc_probs=changed)
        assert detector(answer, ["head", "helmet"], max_objects=1)(IMAGE).labels == (kept,)


def test_presence_counts_the_tokens_between_two_objects() -> None:
    """The answer could have ended, with 0.1 each, at the separator's tokens and the next place."""
    answer = held(f"{HELMET} ; {HEAD}", (1, 0))
    first, second = answer.spans
    result = detector(answer, ["head", "helmet"], nms=1.0)(IMAGE)
    between = second.start + 1 - first.label_stop
    assert 1 < between < first.label_stop
    # The masses near the edges of the two boxes differ by less than one percent.
    np.testing.assert_allclose(result.scores[1] / result.scores[0], 0.9 ** (between - 1), rtol=0.02)


def test_a_cut_object_is_a_reject_and_no_object() -> None:
    """An answer cut inside a name had given the label "Pl", which nobody asked for."""
    text = f"{HELMET} ; <loc0100><loc0100><loc0200><loc0200> Pl"
    answer = held(text, (0, None), cut=True, finished=False)
    result = detector(answer, ["helmet", "Platelets"])(IMAGE)
    assert result.labels == ("helmet",)
    assert result.truncated
    (reject,) = result.rejects
    assert reject.reason == "truncated"
    assert reject.text == "<loc0100><loc0100><loc0200><loc0200> Pl"
    assert result.raw_text[reject.start : reject.end] == reject.text


@pytest.mark.parametrize("limit", [3, 5, 9])
def test_a_real_answer_that_is_cut_names_only_what_was_asked(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = render_scene(20_000_000).image
    whole = Detector(["worker", "helmet"], model="tiny", conf=0)
    plan = whole.plan

    def short(frame: object) -> list[object]:
        return [replace(ask, max_new_tokens=limit) for ask in plan(frame)]

    monkeypatch.setattr(whole, "plan", short)
    result = whole(image)
    assert result.truncated
    assert set(result.labels) <= {"worker", "helmet"}
    assert (result.class_ids >= 0).all()
    assert all(reject.reason == "truncated" for reject in result.rejects)


def test_a_box_shared_by_all_tokens_without_a_label() -> None:
    """refcoco-seg writes no label; one phrase leaves nothing else to mean."""
    codes = "".join(f"<seg{code:03d}>" for code in range(16))
    answer = held(f"<loc0256><loc0128><loc0512><loc0384>{codes}", (None,))
    engine = Scripted(
        lambda request: "",
        write=lambda text, done: answer,
        card=replace(CARD, kind="refcoco-seg"),
    )
    result = Segmenter("the left cat", generator=engine)(IMAGE)
    assert result.labels == ("the left cat",)
    assert result.codes.tolist() == [list(range(16))]
    assert result.scores[0] > 0.5


@pytest.mark.parametrize("outside", [0.0, 0.5, 0.9997])
def test_scores_agree_with_presence(outside: float) -> None:
    """A prompt foreign to the checkpoint had presence 0.0003 beside an object of score 0.27."""
    answer = held(HELMET, (0,), outside=outside)
    result = detector(answer)(IMAGE)
    plain = detector(held(HELMET, (0,)))(IMAGE)
    assert result.scores[0] <= result.presence["helmet"] + 1e-6
    np.testing.assert_allclose(result.scores[0], plain.scores[0] * (1 - outside), rtol=1e-4)
    np.testing.assert_allclose(result.presence["helmet"], 0.9 * (1 - outside), rtol=1e-4)


THRESHOLDS = {"helmet": 0.74, "head": 0.6}


@pytest.mark.parametrize(
    ("conf", "kept"),
    [
        (None, ("head",)),
        ("auto", ("head",)),
        (0, ("helmet", "head")),
        (0.5, ("helmet", "head")),
        (0.95, ()),
    ],
)
def test_conf_by_default_is_the_cards_threshold_of_each_class(
    conf: object, kept: tuple[str, ...]
) -> None:
    # Each scores 0.9 (presence) x 0.9 (places) x 0.9 (name) = 0.729 or a little more.
    card = replace(CARD, classes=("helmet", "head", "cone"), thresholds=THRESHOLDS)
    answer = generation(f"{HELMET} ; {HEAD}", end=1e-6, sure=0.85)
    engine = Scripted(lambda request: "", write=lambda text, done: answer, card=card)
    ask = ["helmet", "head"]
    assert 0.6 < answer.loc_probs.max() * 0.85 < 0.74
    assert Detector(ask, generator=engine, conf=conf)(IMAGE).labels == kept
    by_call = Detector(ask, generator=engine, conf=0.999)
    if conf is not None:
        assert by_call(IMAGE, conf=conf).labels == kept
        assert by_call.predict([IMAGE], conf=conf)[0].labels == kept
        assert next(by_call.stream([IMAGE], conf=conf)).labels == kept
    assert by_call(IMAGE).labels == ()


@pytest.mark.parametrize("asked", ["helmet", "hard hat"])
@pytest.mark.parametrize(("least", "kept"), [(0.89, 1), (0.91, 0)])
def test_by_default_a_class_that_is_hardly_present_has_no_objects(
    asked: str, least: float, kept: int
) -> None:
    synonyms = {"helmet": ("hard hat",)}
    card = replace(CARD, classes=("helmet",), synonyms=synonyms, least_presence={"helmet": least})
    answer = held(HELMET, (0,))
    engine = Scripted(lambda request: "", write=lambda text, done: answer, card=card)
    ask = Detector(asked, generator=engine)
    assert ask(IMAGE).presence == {asked: pytest.approx(0.9)}
    assert len(ask(IMAGE)) == kept
    assert len(ask(IMAGE, conf=0)) == len(ask(IMAGE, conf=0.1)) == 1


def test_calibration_maps_score_and_threshold_alike(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    Calibration(method="isotonic", knots=((0.0, 0.0), (0.7, 0.1), (1.0, 0.2))).save(path)
    raw = Detector("helmet", generator=Scripted(lambda request: HELMET))(IMAGE).scores[0]
    for threshold, count in ((raw - 0.01, 1), (raw + 0.01, 0)):
        card = replace(CARD, classes=("helmet",), thresholds={"helmet": float(threshold)})
        engine = Scripted(lambda request: HELMET, card=card)
        result = Detector("helmet", generator=engine, calibrate=path)(IMAGE)
        assert len(result) == count
        assert (result.scores < 0.2).all()


def test_an_engine_without_probabilities_keeps_all_or_refuses_a_threshold() -> None:
    blind = replace(generation(HELMET), logprobs=None, loc_probs=None, eos_logprobs=None)
    for conf in (None, 0, "auto"):
        result = detector(blind, conf=conf)(IMAGE)
        assert len(result) == 1
        assert result.scores is None
    with pytest.raises(OptionError, match="conf: this engine returns no probabilities"):
        detector(blind, conf=0.1)(IMAGE)
