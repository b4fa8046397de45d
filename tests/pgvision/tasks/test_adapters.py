"""Tasks on a scripted engine: geometry, scores, order, merging, failures."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import CARD, Scripted

from pgvision.errors import ImageError, OptionError, PromptError, SourceError
from pgvision.images import Frame
from pgvision.runtime import Request
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

IMAGE = np.zeros((480, 640, 3), np.uint8)
HELMET = "<loc0256><loc0128><loc0512><loc0384> helmet"
HEAD = "<loc0100><loc0100><loc0200><loc0200> head"


def detector(text: str = HELMET, classes: object = "helmet", **options: object) -> Detector:
    return Detector(classes, generator=Scripted(lambda request: text), **options)


def test_boxes_scores_and_names() -> None:
    result = detector(f"{HELMET} ; <loc0000><loc0000><loc1023><loc1023> hats")(IMAGE)
    np.testing.assert_allclose(result.xyxy[0], [80, 120, 240, 240])
    assert result.labels == ("helmet", "hats")
    assert result.class_ids.tolist() == [0, -1]
    assert result.image_hw == (480, 640)
    # First token: the answer might have ended there once.
    np.testing.assert_allclose(result.scores[0], 0.9 * 0.9 * 0.9, rtol=0.02)
    # Before the second object it might have ended at each of the separator's tokens, too.
    assert result.scores[1] < result.scores[0]
    assert result.whole_image.tolist() == [False, True]
    assert (result.timings["answer"], result.passes) == (0.5, 3)


@pytest.mark.parametrize(("kind", "task"), [(Detector, "detect"), (Segmenter, "segment")])
def test_the_form_of_an_answer_is_that_of_its_task(kind: type, task: str) -> None:
    asks = kind(["helmet", "head"], model="tiny").plan(Frame(IMAGE, "array"))
    assert {ask.form.task for ask in asks} == {task}
    assert all(ask.prefix.startswith(f"{task} ") for ask in asks)


def test_edges_have_a_standard_deviation_in_pixels() -> None:
    result = detector()(IMAGE)
    probs = np.full(1024, 0.1 / 1023)
    expected = []
    for bin_, side in ((128, 640), (256, 480), (384, 640), (512, 480)):
        weights = probs.copy()
        weights[bin_] = 0.9
        mean = np.average(np.arange(1024), weights=weights)
        variance = np.average((np.arange(1024) - mean) ** 2, weights=weights)
        expected.append(np.sqrt(variance) * side / 1024)
    np.testing.assert_allclose(result.edge_std[0], expected, rtol=1e-3)


def test_conf_keeps_only_the_better() -> None:
    text = f"{HELMET} ; {HELMET.replace('0128', '0120')}"
    assert len(detector(text)(IMAGE)) == 2
    assert len(detector(text, conf=0.7)(IMAGE)) == 1
    assert len(detector(text, conf=1.0)(IMAGE)) == 0


def test_nms_and_max_objects_are_off_until_asked_for() -> None:
    text = f"{HELMET} ; {HELMET}"
    assert len(detector(text)(IMAGE)) == 2
    assert len(detector(text, nms=0.5)(IMAGE)) == 1
    assert len(detector(text, max_objects=1)(IMAGE)) == 1


def test_several_classes_are_asked_one_by_one_and_merged() -> None:
    answers = {"detect helmet": f"{HELMET} ; {HELMET}", "detect head": HEAD}
    engine = Scripted(lambda request: answers[request.prefix])
    result = Detector(["helmet", "head"], generator=engine, kind="pt")(IMAGE)
    assert engine.batches == [["detect helmet", "detect head"]]
    assert result.labels == ("helmet", "head")  # the repeated helmet is gone: answers were merged
    assert result.class_ids.tolist() == [0, 1]
    assert result.classes == ("helmet", "head")
    one = Scripted(lambda request: HELMET)
    Detector(["helmet", "head"], generator=one, kind="mix")(IMAGE)
    assert one.batches == [["detect helmet ; head"]]


def test_rejects_are_kept_with_their_place() -> None:
    answers = {"detect helmet": f"I see {HELMET}", "detect head": "nothing here"}
    engine = Scripted(lambda request: answers[request.prefix])
    result = Detector(["helmet", "head"], generator=engine, kind="pt")(IMAGE)
    assert len(result.rejects) == 2
    for reject in result.rejects:
        assert result.raw_text[reject.start : reject.end] == reject.text


def test_an_answer_that_was_cut_off_says_so() -> None:
    engine = Scripted(lambda request: HELMET + " ; <loc0001>", done=False)
    result = Detector("helmet", generator=engine)(IMAGE)
    assert result.truncated
    assert len(result) == 1
    assert not detector()(IMAGE).truncated


def test_tiles_are_shifted_back_and_merged() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    image[300:340, 320:360] = 255

    def answer(request: Request) -> str:
        rows, columns = np.nonzero(request.picture.bgr[..., 0])
        if len(rows) == 0:
            return ""
        height, width = request.picture.bgr.shape[:2]
        edges = (
            rows.min() / height,
            columns.min() / width,
            (rows.max() + 1) / height,
            (columns.max() + 1) / width,
        )
        bins = [min(1023, round(edge * 1024)) for edge in edges]
        return "".join(f"<loc{bin_:04d}>" for bin_ in bins) + " helmet"

    engine = Scripted(answer)
    result = Detector("helmet", generator=engine, tile=200)(image)
    assert sum(len(batch) for batch in engine.batches) > 4
    assert len(result) == 1
    np.testing.assert_allclose(result.xyxy[0], [320, 300, 360, 340], atol=0.5)


def test_results_come_in_order_one_per_image(tmp_path: Path) -> None:
    paths = []
    for index in range(11):
        paths.append(tmp_path / f"{index:02d}.png")
        cv2.imwrite(str(paths[-1]), np.full((20, 30 + index, 3), 7, np.uint8))
    results = detector(batch_size=4).predict(paths)
    assert [result.image_hw[1] for result in results] == list(range(30, 41))
    assert [Path(result.source).name for result in results] == [path.name for path in paths]


def test_stream_is_lazy() -> None:
    taken = []

    def frames():
        for index in range(100):
            taken.append(index)
            yield IMAGE

    stream = detector(batch_size=1).stream(frames())
    next(stream)
    assert len(taken) < 20
    stream.close()


def test_one_bad_image_does_not_lose_the_others(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    cv2.imwrite(str(good), IMAGE)
    bad.write_bytes(b"not an image")
    one = detector()
    with pytest.raises(ImageError, match="bad.jpg"):
        one.predict([good, bad, good])
    assert [r.ok for r in one.predict([good, bad, good], on_error="skip")] == [True, True]
    recorded = one.predict([good, bad, good], on_error="record")
    assert [r.ok for r in recorded] == [True, False, True]
    assert "bad.jpg" in str(recorded[1].error)


def test_call_takes_one_image_only() -> None:
    with pytest.raises(SourceError, match="predict"):
        detector()([IMAGE, IMAGE])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"conf": 2}, OptionError),
        ({"nms": -0.1}, OptionError),
        ({"max_objects": 0}, OptionError),
        ({"score": "best"}, OptionError),
        ({"tile": 0}, OptionError),
        ({"batch_size": 0}, OptionError),
        ({"classes": ""}, PromptError),
        ({"classes": "a ; b"}, PromptError),
        ({"classes": "<loc0001>"}, PromptError),
        ({"classes": "<image>"}, PromptError),
        ({"classes": "a\nb"}, PromptError),
        ({"classes": []}, PromptError),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        detector(**options)


def test_300_classes_are_300_prompts() -> None:
    engine = Scripted(lambda request: "")
    names = [f"thing {index}" for index in range(300)]
    result = Detector(names, generator=engine, kind="tiny")(IMAGE)
    assert len(result) == 0
    assert sum(len(batch) for batch in engine.batches) == 300


def test_captions_answers_and_readings_say_what_they_ask() -> None:
    engine = Scripted(lambda request: f" {request.prefix}")
    assert Captioner(generator=engine)(IMAGE).text == "caption en"
    asked = Answerer(generator=engine)(IMAGE, "how many?")
    assert asked.text == "answer en how many?"
    # Six tokens and the end, each with probability 0.9.
    assert asked.score == pytest.approx(0.9**5)
    assert Reader(generator=engine)(IMAGE).text == "ocr"


def test_a_task_prints_as_what_it_was_made_of() -> None:
    engine, name = Scripted(lambda request: ""), CARD.name
    detector = Detector(["cat", "dog"], generator=engine, conf=0.3, tile=None)
    assert repr(detector) == f"Detector(['cat', 'dog'], model={name!r}, conf=0.3)"
    assert repr(Segmenter("cat", generator=engine)) == f"Segmenter(['cat'], model={name!r})"
    assert repr(Captioner("de", generator=engine)) == f"Captioner('de', model={name!r})"
    assert repr(Reader(generator=engine)) == f"Reader(model={name!r})"
    assert repr(Answerer(generator=engine)) == f"Answerer('en', model={name!r})"
