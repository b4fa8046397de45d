"""Compiled passes against the plain ones, which `test_language.py` holds to transformers."""

from typing import Any

import numpy as np
import pytest

from pgvision import Detector
from pgvision.errors import OptionError
from pgvision.runtime import Engine, Picture, Request, load
from pgvision.runtime.opening import open_generator
from pgvision.tokens import AnswerForm
from recipes.scenes import render_scene


def requests() -> list[Request]:
    """Answers of different lengths, more than fit into a batch, so that rows leave and enter."""
    pictures = [Picture(render_scene(41_000_000 + i).image) for i in range(2)]
    form = AnswerForm("detect", labels=("helmet",), max_objects=3, past_end=2)
    held = [Request(picture=one, prefix="detect helmet", form=form) for one in pictures]
    free = [
        Request(picture=one, prefix="caption en", max_new_tokens=limit)
        for one, limit in zip(pictures, (5, 17), strict=True)
    ]
    drafted = [Request(picture=pictures[0], prefix="detect helmet", form=form, draft=[7, 8, 9, 10])]
    return [*held, *free, *drafted]


@pytest.mark.slow
def test_a_compiled_decoder_writes_the_same(engine: Engine) -> None:
    compiled = load(engine.card.location, dtype="float32", device="cpu", compiled=True)
    assert compiled is not engine
    assert compiled.model is engine.model
    calls = 0
    fixed: Any = compiled.machine.language._fixed

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return fixed(*args)

    compiled.machine.language._fixed = counted
    try:
        found = dict(compiled.generate(requests(), batch_size=3))
    finally:
        compiled.machine.language._fixed = fixed
    expected = dict(engine.generate(requests(), batch_size=3))
    assert calls > 10
    for number, one in expected.items():
        assert found[number].token_ids.tolist() == one.token_ids.tolist()
        assert one.logprobs is not None
        np.testing.assert_allclose(found[number].logprobs, one.logprobs, atol=1e-4)


def test_an_engine_elsewhere_is_not_compiled() -> None:
    with pytest.raises(OptionError, match="compiled: the server"):
        open_generator("http://127.0.0.1:9", compiled=True)
    with pytest.raises(OptionError, match="compiled: the server"):
        Detector("helmet", model="http://127.0.0.1:9", compiled=True)
