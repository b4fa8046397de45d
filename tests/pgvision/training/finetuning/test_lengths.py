"""Answers that are longer than a checkpoint writes are listed before anything is learnt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgvision.datasets import Example
from pgvision.errors import DataError
from pgvision.runtime import Engine, engine_of, load
from pgvision.training.finetuning.collator import Collator
from pgvision.training.finetuning.data import Mixture, read_mixture
from pgvision.training.finetuning.lengths import answers_too_long
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load("tiny")


def with_budget(engine: Engine, budget: int) -> Engine:
    return engine_of(engine.model, engine.processor, replace(engine.card, max_new_tokens=budget))


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_no_sample_is_longer_than_was_counted(scenes: Path, engine: Engine, task: str) -> None:
    """Counted without a look at the pictures; the collator's own batches are the other way."""
    settings = FinetuneSettings(steps=1, task=task, augment=False, negatives=0.0)
    data = read_mixture([DataPlaces(data=scenes)], settings)
    collator = Collator(engine.processor, max_length=4096)
    counted = answers_too_long(data, with_budget(engine, 1), collator)
    source = data.samples(engine.card, 1, 0).sources[0]
    for index in range(len(source)):
        drawn = [source.draw(index, np.random.default_rng(chance)) for chance in range(30)]
        longest = max(drawn, key=lambda one: len(one.suffix))
        assert int((collator([longest])["labels"] >= 0).sum()) == counted[longest.name]


def test_the_longest_are_named_and_what_has_no_place_is_refused(
    scenes: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FinetuneSettings(steps=1, task="caption")
    file = scenes / "train" / "examples.jsonl"
    data = read_mixture([DataPlaces(data=file)], settings)
    (part,) = data.parts
    long = Example(Path("long.jpg"), "caption en", "red helmet " * 200)
    data = Mixture((replace(part, train=(*part.train, long)),))
    collator = Collator(engine.processor, max_length=1024)
    assert answers_too_long(data, with_budget(engine, 390), collator) == {
        "long.jpg": collator.num_tokens(long.suffix) + 1
    }
    assert "more than the 390 tokens" in caplog.text and "long.jpg (40" in caplog.text
    with pytest.raises(DataError, match=r"long.jpg \(40\d tokens\): the model has places for 200 "):
        answers_too_long(data, with_budget(engine, 100), Collator(engine.processor, max_length=300))
