"""Text tasks refuse photographs where the checkpoint was trained on drawings only."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import CARD, Scripted

from pgvision import samples
from pgvision.runtime import Request
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter
from pgvision.tasks.trained_on import domain_features, is_photograph, photograph_score
from recipes.scenes import render_scene

PHOTOGRAPH = samples.load("cyclist")
DRAWING = samples.load("site-01")
DRAWN = replace(CARD, text_domain="drawings", questions=("how many?",))
SHARED = Path(__file__).parents[4] / "shared" / "data"


def engine(**changes: object) -> Scripted:
    return Scripted(lambda request: request.prefix, card=replace(DRAWN, **changes))


def test_large_images_are_seen_as_the_means_of_their_blocks() -> None:
    """Every fourth pixel alone would show noise that the eye does not see."""
    small = np.random.default_rng(1).integers(60, 190, (96, 128, 3)).astype(np.float64)
    noise = np.random.default_rng(2).uniform(-60, 60, (96 * 4, 128 * 4, 3))
    blocks = noise.reshape(96, 4, 128, 4, 3)
    noise = (blocks - blocks.mean(axis=(1, 3), keepdims=True)).reshape(noise.shape)
    large = small.repeat(4, axis=0).repeat(4, axis=1) + noise
    features = [domain_features(np.round(one).astype(np.uint8)) for one in (large, small)]
    np.testing.assert_allclose(*features, atol=0.05)


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("width", [320, 448, 900])
def test_a_photograph_stays_one_in_other_sizes_and_qualities(quality: int, width: int) -> None:
    for image, expected in ((PHOTOGRAPH, True), (DRAWING, False)):
        scale = width / image.shape[1]
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        assert is_photograph(cv2.imdecode(data, cv2.IMREAD_COLOR)) == expected


def test_samples_are_told_apart() -> None:
    """All but the rocket, whose sky is as flat as a drawn one."""
    names = (*samples.RENDERED, *samples.PHOTOGRAPHS)
    found = {name for name in names if is_photograph(samples.load(name))}
    assert found == set(samples.PHOTOGRAPHS) - {"rocket"}


def test_scenes_are_drawings() -> None:
    refused = sum(is_photograph(render_scene(21_000_000 + seed).image) for seed in range(30))
    assert refused <= 2  # 1.3% over many: tests/benchmarks/bench_text_domain.py


def test_photographs_are_photographs() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    files = sorted((SHARED / "portraits").rglob("*.jpg"))[:30]
    images = [cv2.imread(str(file)) for file in files]
    assert sum(is_photograph(image) for image in images) >= len(images) - 2


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 4000), (3, 3), (2000, 2)])
def test_odd_sizes_have_a_score(image_hw: tuple[int, int]) -> None:
    assert 0.0 <= photograph_score(np.full((*image_hw, 3), 120, np.uint8)) <= 1.0


TASKS = {
    "caption": lambda **o: Captioner(**o),
    "read": lambda **o: Reader(**o),
    "ask": lambda **o: Answerer(**o).task("how many?"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_photograph_is_refused_with_a_reason_and_without_a_score(name: str) -> None:
    model = engine()
    result = TASKS[name](generator=model)(PHOTOGRAPH)
    assert (result.text, result.score, result.raw_text) == ("", None, "")
    (reject,) = result.rejects
    assert (reject.text, reject.start, reject.end) == ("", 0, 0)
    assert "trained to caption, answer and read on drawings only" in reject.reason
    assert result.prefix
    assert model.requests == []  # the model is not asked at all
    assert TASKS[name](generator=model)(DRAWING).text == result.prefix
    assert TASKS[name](generator=model, unknown="ask")(PHOTOGRAPH).text == result.prefix
    anything = engine(text_domain=None)
    assert TASKS[name](generator=anything)(PHOTOGRAPH).text == result.prefix


def test_refused_frames_keep_their_place_in_a_stream() -> None:
    taken: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(40):
            taken.append(number)
            yield PHOTOGRAPH if number % 4 else DRAWING

    texts = []
    for number, result in enumerate(Captioner(generator=engine()).stream(frames())):
        assert len(taken) <= number + 16  # refused frames are not gathered up
        texts.append(bool(result.text))
    assert texts == [number % 4 == 0 for number in range(40)]


def test_nothing_to_read_has_no_certainty() -> None:
    result = Reader(generator=Scripted(lambda request: " "))(DRAWING)
    assert (result.text, result.score) == ("", None)


def test_bundled_models_refuse_photographs() -> None:
    for result in (Captioner(model="tiny")(PHOTOGRAPH), Reader(model="tiny")(PHOTOGRAPH)):
        assert result.score is None
        assert "tiny was trained" in result.rejects[0].reason


def test_classes_trained_on_drawings_are_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = replace(
        CARD,
        name="drawn",
        classes=("helmet", "vest"),
        trained_on={"helmet": "photographs", "vest": "drawings"},
    )
    both = Detector(["helmet", "vest"], generator=Scripted(lambda request: "", card=card))
    both(DRAWING)
    assert not caplog.records
    both.predict([PHOTOGRAPH, PHOTOGRAPH])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "drawn: trained on drawings only" in record.getMessage()
    assert record.getMessage().endswith("photograph: vest; expect misses and false alarms")


def test_masks_trained_on_drawings_are_refused_on_photographs() -> None:
    card = replace(
        CARD, name="drawn", classes=("helmet", "person"),
        masks_on={"helmet": "drawings", "person": "photographs"},
    )  # fmt: skip
    asked: list[str] = []

    def answer(request: Request) -> str:
        asked.append(request.prefix)
        return "<loc0100><loc0100><loc0500><loc0500>" + "<seg001>" * 16 + request.prefix[7:]

    def both_answers(request: Request) -> str:
        """One prompt for both classes; the boxes differ."""
        return " ; ".join(
            f"<loc{k:04d}><loc0100><loc0500><loc0500>{'<seg001>' * 16} {name}"
            for k, name in ((100, "helmet"), (400, "person"))
        )

    one_each = {"classes_per_prompt": 1}
    both = Segmenter(["helmet", "person"], generator=Scripted(answer, card=card), **one_each)
    assert both(DRAWING).labels == ("helmet", "person")
    result = both(PHOTOGRAPH)
    assert result.labels == ("person",)
    assert asked == ["segment helmet", "segment person", "segment person"]
    (reject,) = result.rejects
    assert reject.reason.startswith("helmet: drawn was trained on masks of it in drawings only")
    assert (reject.text, reject.start, reject.end) == ("", 0, 0)
    joint = Segmenter(["helmet", "person"], generator=Scripted(both_answers, card=card))
    assert joint(DRAWING).labels == ("helmet", "person")
    assert joint(PHOTOGRAPH).labels == ("person",)
    # Alone: nothing is asked, and the result has the reason. Boxes are not refused.
    alone = Segmenter("helmet", generator=Scripted(answer, card=card))(PHOTOGRAPH)
    assert (len(alone), len(alone.rejects), len(asked)) == (0, 1, 3)
    assert not Detector("helmet", generator=Scripted(answer, card=card))(PHOTOGRAPH).rejects
    insisting = Segmenter("helmet", unknown="ask", generator=Scripted(answer, card=card))
    assert insisting(PHOTOGRAPH).labels == ("helmet",)
