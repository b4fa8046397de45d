"""Our passes against transformers' own PaliGemma, token by token, in both families."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pgvision.errors import CheckpointError
from pgvision.runtime import Engine, check_language, load, torch_backend
from pgvision.runtime.protocol import KeyValueCache
from pgvision.runtime.torch_backend import LanguageModel, OutputHead

LENGTHS = [112, 105, 109]  # prompts: 100 image tokens and words; Gemma 2's window here is 64
SUFFIX = 90  # so that answers slide past the window as well


@pytest.fixture(scope="module")
def language(engine: Engine) -> LanguageModel:
    return LanguageModel(engine.model)


@pytest.fixture(scope="module")
def rows(engine: Engine) -> list[Tensor]:
    """Prompt and answer of each row, as ids."""
    generator = torch.Generator().manual_seed(1)
    images = torch.full((100,), engine.vocabulary.image)
    return [
        torch.cat([images, torch.randint(10, 1200, (n - 100 + SUFFIX,), generator=generator)])
        for n in LENGTHS
    ]


@pytest.fixture(scope="module")
def features(engine: Engine) -> Tensor:
    return torch.randn(3, 100, 48, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(engine: Engine, rows: list[Tensor], features: Tensor) -> list[Tensor]:
    """Hidden states of one whole pass through transformers, each row alone."""
    return [
        whole_pass(engine.model, row, length, one)
        for row, length, one in zip(rows, LENGTHS, features, strict=True)
    ]


def whole_pass(model: torch.nn.Module, ids: Tensor, prefix: int, features: Tensor) -> Tensor:
    types = (torch.arange(len(ids)) >= prefix).long()[None]
    with torch.inference_mode():
        return model.model(
            input_ids=ids[None],
            attention_mask=torch.ones_like(types),
            token_type_ids=types,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features[None])},
            use_cache=False,
        ).last_hidden_state[0]


def read_prompts(
    language: LanguageModel, rows: list[Tensor], features: Tensor, draft: int = 0
) -> tuple[KeyValueCache, list[Tensor]]:
    cache = language.allocate(len(rows), 220)
    feeds = [row[: n + draft].tolist() for row, n in zip(rows, LENGTHS, strict=False)]
    with torch.inference_mode():
        hidden = language.run(
            language.embed(feeds, list(features[: len(feeds)])),
            cache,
            starts=[0] * len(feeds),
            prompts=LENGTHS[: len(feeds)],
            wanted=[list(range(len(feed))) for feed in feeds],
        )
    return cache, list(hidden.split([len(feed) for feed in feeds]))


def step(
    language: LanguageModel, cache: KeyValueCache, rows: list[Tensor], starts: list[int], t: int
) -> list[Tensor]:
    feeds = [row[start : start + t].tolist() for row, start in zip(rows, starts, strict=True)]
    with torch.inference_mode():
        hidden = language.run(
            language.embed(feeds, None),
            cache,
            starts=starts,
            prompts=None,
            wanted=[list(range(len(feed))) for feed in feeds],
        )
    return list(hidden.split([len(feed) for feed in feeds]))


def test_a_padded_batch_of_prompts_with_drafts_equals_transformers(
    language: LanguageModel, rows: list[Tensor], features: Tensor, expected: list[Tensor]
) -> None:
    _, found = read_prompts(language, rows, features, draft=5)
    for one, right, length in zip(found, expected, LENGTHS, strict=True):
        torch.testing.assert_close(one[: length + 5], right[: length + 5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_steps_of_any_size_equal_transformers(
    language: LanguageModel,
    rows: list[Tensor],
    features: Tensor,
    expected: list[Tensor],
    size: int,
) -> None:
    cache, _ = read_prompts(language, rows, features)
    for done in range(0, SUFFIX - size + 1, size):
        starts = [length + done for length in LENGTHS]
        found = step(language, cache, rows, starts, size)
        for one, right, start in zip(found, expected, starts, strict=True):
            torch.testing.assert_close(one, right[start : start + size], atol=2e-5, rtol=1e-5)


def test_rows_go_on_at_their_own_pace_and_take_tokens_back(
    language: LanguageModel, rows: list[Tensor], features: Tensor, expected: list[Tensor]
) -> None:
    cache, _ = read_prompts(language, rows, features)
    wrong = [row.flip(0) for row in rows]
    done = [0, 0, 0]
    for turn in range(12):
        starts = [length + count for length, count in zip(LENGTHS, done, strict=True)]
        step(language, cache, wrong, [min(s, 150) for s in starts], 4)  # a draft that was refused
        found = step(language, cache, rows, starts, 4)
        for row, (one, right) in enumerate(zip(found, expected, strict=True)):
            kept = 1 + (turn + row) % 4  # the rest is padding, as if the row had less to say
            start = starts[row]
            torch.testing.assert_close(
                one[:kept], right[start : start + kept], atol=2e-5, rtol=1e-5
            )
            done[row] += kept


def test_a_row_that_is_moved_goes_on(
    language: LanguageModel, rows: list[Tensor], features: Tensor, expected: list[Tensor]
) -> None:
    cache, _ = read_prompts(language, rows, features)
    cache.move(2, 0, LENGTHS[2])
    found = step(language, cache, [rows[2]], [LENGTHS[2]], 6)
    torch.testing.assert_close(
        found[0], expected[2][LENGTHS[2] : LENGTHS[2] + 6], atol=1e-5, rtol=1e-5
    )


def test_long_prompts_are_read_in_parts(
    language: LanguageModel,
    rows: list[Tensor],
    features: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, whole = read_prompts(language, rows, features)
    monkeypatch.setattr(torch_backend, "_SCORES_AT_ONCE", 3 * 2 * 112 * 7)
    _, parts = read_prompts(language, rows, features)
    torch.testing.assert_close(torch.cat(parts), torch.cat(whole), atol=1e-5, rtol=1e-5)


def test_too_few_slots_are_refused(language: LanguageModel) -> None:
    with pytest.raises(ValueError, match="12 slots"):
        cache = language.allocate(1, 11)
        language.run(torch.zeros(1, 2, 48), cache, starts=[10], prompts=None, wanted=[[0]])


def test_another_family_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.model.config.text_config, "model_type", "llama")
    with pytest.raises(CheckpointError, match=r"llama.*gemma2"):
        LanguageModel(engine.model)


def test_bfloat16_stays_close(engine: Engine, rows: list[Tensor], features: Tensor) -> None:
    small = load(engine.card.location, dtype="bfloat16", device="cpu").model
    cache, found = read_prompts(LanguageModel(small), rows, features)
    right = whole_pass(small, rows[0][: LENGTHS[0]], LENGTHS[0], features[0])
    assert found[0].dtype == torch.bfloat16
    assert float((found[0].float() - right.float()).norm() / right.float().norm()) < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_check_passes_and_sees_planted_faults(
    engine: Engine, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(engine.card.location, dtype=dtype, device="cpu").model
    assert check_language(model).ok

    def fault(target: object, name: str, value: object) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            return not check_language(model).ok

    mask, read = torch_backend.attention_mask, torch_backend._read_layer

    def moved(by: int) -> Any:
        """A mask as if tokens stood elsewhere."""
        return lambda starts, *a, **k: mask([start + by for start in starts], *a, **k)

    assert fault(torch_backend, "attention_mask", moved(1))
    assert fault(torch_backend, "attention_mask", moved(-1))
    assert fault(torch_backend, "attention_mask", lambda s, t, n, p, **k: mask(s, t, n, None, **k))
    # Only differences of positions matter, so the steps alone are shifted.
    plan = LanguageModel._plan

    def late(self: LanguageModel, starts: Any, t: int, prompts: Any, *rest: Any) -> Any:
        made = plan(self, starts, t, prompts, *rest)
        if prompts is not None:
            return made
        other = plan(self, [start + 1 for start in starts], t, prompts, *rest)
        return dataclasses.replace(made, cos=other.cos, sin=other.sin)

    assert fault(LanguageModel, "_plan", late)
    part = torch_backend._read_attention
    scaled = lambda layer: dataclasses.replace(part(layer), scale=0.5)  # noqa: E731
    assert fault(torch_backend, "_read_attention", scaled)
    if engine.model.config.text_config.model_type == "gemma2":
        bare = lambda layer: dataclasses.replace(read(layer), after_mlp=None)  # noqa: E731
        assert fault(torch_backend, "_read_layer", bare)


def test_a_missing_soft_cap_is_seen(
    engine: Engine,
    rows: list[Tensor],
    features: Tensor,
    expected: list[Tensor],
    language: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine.model.config.text_config.model_type == "gemma":
        pytest.skip("Gemma 1 has none")
    uncapped = [(layer, dataclasses.replace(part, cap=0.0)) for layer, part in language._layers]
    monkeypatch.setattr(language, "_layers", uncapped)
    _, found = read_prompts(language, rows, features)
    assert float((found[0][:112] - expected[0][:112]).abs().max()) > 1e-4


@pytest.mark.parametrize("wrapping", ["lora", "hooks"])
# peft asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_layers_that_are_wrapped_keep_their_meaning(
    engine: Engine, rows: list[Tensor], features: Tensor, wrapping: str
) -> None:
    """An adapter that is not merged; layers that accelerate has put on several devices."""
    model = copy.deepcopy(engine.model)
    torch.manual_seed(4)
    targets = ["q_proj", "v_proj", "down_proj"]
    if wrapping == "lora":
        settings = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        model = get_peft_model(model, settings).eval().get_base_model()
    else:
        for name, module in model.model.language_model.named_modules():
            if name.endswith(tuple(targets)):
                # What the hook does to its input stands for moving it to the layer's device.
                add_hook_to_module(module, _Halving())
    right = whole_pass(model, rows[0], LENGTHS[0], features[0])
    plain = whole_pass(engine.model, rows[0], LENGTHS[0], features[0])
    assert not torch.allclose(right, plain, atol=1e-2)
    _, found = read_prompts(LanguageModel(model), rows, features)
    torch.testing.assert_close(found[0][: LENGTHS[0]], right[: LENGTHS[0]], atol=1e-4, rtol=1e-4)


class _Halving(ModelHook):
    def pre_forward(self, module: torch.nn.Module, *args: Tensor, **kwargs: Any) -> Any:
        return tuple(each / 2 for each in args), kwargs


# --- the output layer ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, slice(300, 1324), torch.tensor([1, 7, 1300])])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_products(
    engine: Engine, dtype: str, rows: slice | Tensor | None
) -> None:
    model = load(engine.card.location, dtype=dtype, device="cpu").model
    hidden = torch.randn(3, 48, generator=torch.Generator().manual_seed(3)).to(model.dtype)
    head = OutputHead(model)
    exact = hidden.double() @ model.lm_head.weight.detach().double().T
    exact = exact if rows is None else exact[:, rows]
    for _ in range(2):  # the second time from what was kept
        found = head.logits(hidden, rows)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_bfloat16_ties_are_broken_as_the_true_values_say(engine: Engine) -> None:
    """Two bins whose logits differ by less than bfloat16 can say: the higher one must win."""
    model = load("tiny", dtype="bfloat16", device="cpu").model
    first = load("tiny").vocabulary.first_loc
    weight = model.lm_head.weight.detach()[first : first + 1024].double()
    hidden = weight[500:504].to(torch.bfloat16) * 4
    hidden = torch.cat([hidden, torch.randn(200, hidden.shape[1]).to(torch.bfloat16)])
    exact = (hidden.double() @ weight.T).argmax(-1)
    with torch.inference_mode():
        plain = model.lm_head(hidden)[:, first : first + 1024].argmax(-1)
    ours = OutputHead(model).logits(hidden, slice(first, first + 1024)).argmax(-1)
    assert int((plain != exact).sum()) > 0, "the fault that our head mends"
    assert torch.equal(ours, exact)


def test_layers_that_are_more_than_a_product_answer_for_themselves(engine: Engine) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return 2 * super().forward(hidden)

    model = load(engine.card.location, dtype="float32", device="cpu").model
    plain, head = model.lm_head, Doubled(48, model.lm_head.out_features, bias=False)
    head.weight = plain.weight
    hidden = torch.randn(2, 48)
    try:
        model.lm_head = head
        found = OutputHead(model).logits(hidden, slice(5, 9))
    finally:
        model.lm_head = plain
    torch.testing.assert_close(found, 2 * OutputHead(model).logits(hidden, slice(5, 9)))
