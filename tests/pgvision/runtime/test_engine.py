"""The engine against transformers' own processor and ``generate``."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from pgvision.runtime import Engine, Generation, Picture, Request, check_leaks, load
from pgvision.runtime.grammar import TokenCursor, TokenGrammar
from pgvision.tokens import AnswerForm, loc_text
from recipes.scenes import render_scene


@pytest.fixture
def engine(any_engine: Engine) -> Engine:
    return any_engine


PREFIXES = ["detect helmet", "caption en", "answer en what color is the helmet?", "ocr"]
LIMIT = 24
DETECT = AnswerForm(task="detect", labels=("helmet", "head"))
SEGMENT = AnswerForm(task="segment", labels=("helmet",))
CLOSED = AnswerForm(
    task="detect", labels=("helmet", "head"), max_objects=3, bans=("<eos>",), decoy="truck"
)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return [np.kron(one, np.ones((20, 30, 1), np.uint8)) for one in small]


def ask(image: np.ndarray, prefix: str, **options: object) -> Request:
    return Request(picture=Picture(image), prefix=prefix, **{"max_new_tokens": LIMIT, **options})


def answers(engine: Engine, *requests: Request, batch_size: int | None = None) -> list[Generation]:
    found = dict(engine.generate(iter(requests), batch_size=batch_size))
    return [found[number] for number in range(len(requests))]


class Held(LogitsProcessor):
    """Lets ``generate`` choose only what the grammar allows, token by token.

    It may end before a place only if the end is more probable than all places together.
    """

    def __init__(self, engine: Engine, form: AnswerForm, prompt_length: int) -> None:
        self.cursor = TokenCursor(TokenGrammar.compile(engine.tokenizer, form))
        self.seen, self.eos = prompt_length, engine.vocabulary.eos
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for token in input_ids[0, self.seen :].tolist():
            self.cursor.advance(token)
        self.seen = input_ids.shape[1]
        allowed = self.cursor.allowed()
        kept = torch.full_like(scores, -torch.inf)
        forced = self.cursor.forced_run()
        ids = list(forced[:1]) or [*range(*allowed.span), *allowed.ids]
        ids = [one for one in ids if one not in allowed.banned]
        kept[:, ids] = scores[:, ids]
        self.scores.append(kept.clone())
        if any(allowed.span) and not forced and kept.softmax(-1)[0, self.eos] <= 0.5:
            kept[:, self.eos] = -torch.inf
        return kept


@pytest.fixture(autouse=True)
def no_final_cap(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers caps PaliGemma 2's last logits; big_vision does not, and neither do we."""
    monkeypatch.setattr(
        engine.model.config.text_config, "final_logit_softcapping", None, raising=False
    )


def reference(
    engine: Engine, request: Request, form: AnswerForm | None = None
) -> tuple[list[int], torch.Tensor]:
    """Tokens that transformers writes for one picture and prompt, and its chances for each."""
    picture = Image.fromarray(np.ascontiguousarray(request.picture.bgr[..., ::-1]))
    text = [f"<image>{request.prefix}"]
    inputs = engine.processor(images=[picture], text=text, return_tensors="pt")
    inputs.pop("labels", None)
    length = inputs["input_ids"].shape[1]
    held = LogitsProcessorList([Held(engine, form, length)] if form else [])
    with torch.inference_mode():
        out = engine.model.generate(
            **inputs,
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            logits_processor=held,
        )
    tokens = out.sequences[0, length:].tolist()
    scores = held[0].scores if held else out.scores
    chances = torch.stack(list(scores), 1)[0].float().log_softmax(-1)
    return tokens, chances


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prompt_ids_are_the_processors(engine: Engine, prefix: str) -> None:
    inputs = engine.processor(
        images=[Image.new("RGB", (30, 20))], text=[f"<image>{prefix}"], return_tensors="pt"
    )
    assert engine.input_ids(prefix) == inputs["input_ids"][0].tolist()


def test_tokens_equal_generate_alone(engine: Engine) -> None:
    for image, prefix in zip(pictures(4), PREFIXES, strict=True):
        request = ask(image, prefix)
        (answer,) = answers(engine, request)
        assert answer.token_ids.tolist() == reference(engine, request)[0]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_tokens_equal_generate_in_mixed_batches(engine: Engine, batch_size: int) -> None:
    """Texts and objects of different lengths; rows leave and others take their places."""
    requests = [
        ask(image, prefix, form=form, max_new_tokens=limit)
        for image, limit in zip(pictures(3), (5, LIMIT, 17), strict=True)
        for prefix, form in zip(PREFIXES, (DETECT, None, None, SEGMENT), strict=True)
    ]
    expected = [reference(engine, request, request.form)[0] for request in requests]
    found = answers(engine, *requests, batch_size=batch_size)
    # A label that the limit cuts is completed where no choice is left.
    written = [
        answer.token_ids[: len(tokens)].tolist()
        for answer, tokens in zip(found, expected, strict=True)
    ]
    assert written == expected
    assert len({tuple(tokens) for tokens in expected}) > 3, "the models must not say one thing"


@pytest.mark.parametrize("form", [None, DETECT, SEGMENT])
def test_chances_equal_generates(engine: Engine, form: AnswerForm | None) -> None:
    request = ask(pictures(1)[0], PREFIXES[0], form=form)
    tokens, chances = reference(engine, request, form)
    (answer,) = answers(engine, request)
    own = chances[torch.arange(len(tokens)), tokens].numpy()
    np.testing.assert_allclose(answer.logprobs, own, atol=1e-4)
    ends = chances[:, engine.vocabulary.eos].numpy()
    np.testing.assert_allclose(np.exp(answer.eos_logprobs), np.exp(ends), atol=1e-4)
    first = engine.vocabulary.first_loc
    is_loc = [first <= token < first + 1024 for token in tokens]
    bins = chances[is_loc, first : first + 1024].exp().numpy()
    np.testing.assert_allclose(answer.loc_probs, bins, atol=1e-4)
    assert answer.normalised == ("vocabulary" if form is None else "allowed")


def test_a_decoy_is_weighed_and_never_written(engine: Engine) -> None:
    """A closed set: the likelihood of a class is what ``generate`` gives it, decoy and all."""
    request = ask(pictures(1)[0], PREFIXES[0], form=CLOSED, max_new_tokens=64)
    (answer,) = answers(engine, request)
    spans = answer.spans
    assert len(spans) == 3 and answer.finished and "truck" not in answer.text
    said = answer.token_ids.tolist()
    logits: list[torch.Tensor] = []

    class Told(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            logits.append(scores[0].float().clone())
            scores[:] = -torch.inf
            scores[:, said[len(logits) - 1]] = 0.0
            return scores

    picture = Image.fromarray(np.ascontiguousarray(request.picture.bgr[..., ::-1]))
    inputs = engine.processor(
        images=[picture], text=[f"<image>{request.prefix}"], return_tensors="pt"
    )
    inputs.pop("labels", None)
    with torch.inference_mode():
        engine.model.generate(
            **inputs, max_new_tokens=64, do_sample=False, logits_processor=[Told()]
        )
    paths = [
        engine.processor.tokenizer(f"<loc0000> {one} ; ", add_special_tokens=False)["input_ids"][1:]
        for one in ("helmet", "head", "truck")
    ]
    for span in spans:
        chance, alike = 1.0, paths
        for at in range(span.mask_stop, span.label_stop):
            ids = list(dict.fromkeys(path[at - span.mask_stop] for path in alike))
            chance *= float(logits[at][ids].softmax(0)[ids.index(said[at])])
            alike = [path for path in alike if path[at - span.mask_stop] == said[at]]
        label = answer.logprobs[span.mask_stop : span.label_stop]
        assert np.exp(label.sum()) == pytest.approx(chance, abs=1e-5)
        assert chance < 0.9


def test_the_mass_outside_the_grammar_is_what_generate_gives_away(engine: Engine) -> None:
    request = ask(pictures(1)[0], PREFIXES[0], form=DETECT)
    (answer,) = answers(engine, request)
    free = reference(engine, request)[1][0].exp()
    first = engine.vocabulary.first_loc
    inside = free[first : first + 1023].sum() + free[engine.vocabulary.eos]
    assert answer.outside == pytest.approx(1.0 - float(inside), abs=1e-4)
    seen = float(free[first : first + 1023].sum())
    assert answer.presence == pytest.approx(seen, abs=1e-4)


def drafts() -> st.SearchStrategy[list[int]]:
    """Rubbish, cut answers, longer ones: made of ids of the small tables."""
    return st.lists(st.integers(0, 1200), max_size=40)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_draft_changes_an_answer(engine: Engine, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from([None, DETECT, SEGMENT]))
    image = pictures(3)[data.draw(st.integers(0, 2))]
    (plain,) = answers(engine, ask(image, PREFIXES[0], form=form))
    other = answers(engine, ask(pictures(3)[0], PREFIXES[0], form=form))[0].token_ids.tolist()
    size = len(engine.processor.tokenizer)
    draft = data.draw(
        st.one_of(
            st.lists(st.integers(0, size - 1), max_size=40),
            st.integers(0, LIMIT).map(lambda n: plain.token_ids.tolist()[:n]),
            st.integers(0, LIMIT).map(lambda n: other[n:]),
            st.just([*plain.token_ids.tolist(), *other]),
        )
    )
    (drafted,) = answers(engine, ask(image, PREFIXES[0], form=form, draft=draft))
    assert drafted.token_ids.tolist() == plain.token_ids.tolist()
    np.testing.assert_allclose(drafted.logprobs, plain.logprobs, atol=1e-4)


@pytest.mark.parametrize("form", [None, DETECT, SEGMENT])
def test_a_right_draft_costs_one_pass(engine: Engine, form: AnswerForm | None) -> None:
    image = pictures(1)[0]
    (plain,) = answers(engine, ask(image, PREFIXES[0], form=form))
    assert plain.passes > 3
    (drafted,) = answers(engine, ask(image, PREFIXES[0], form=form, draft=plain.token_ids))
    assert drafted.passes == 1
    (off,) = answers(
        engine, ask(image, PREFIXES[0], form=form, draft=plain.token_ids, drafts="off")
    )
    assert off.passes == plain.passes


def test_an_object_costs_four_passes(engine: Engine) -> None:
    form = AnswerForm(task="detect", labels=("helmet",), max_objects=3, bans=("<eos>",))
    (answer,) = answers(engine, ask(pictures(1)[0], "detect helmet", form=form, max_new_tokens=99))
    assert answer.finished
    assert len(answer.spans) == 3
    assert answer.passes <= 1 + 4 * 3


def test_requests_are_drawn_as_there_is_room(engine: Engine) -> None:
    drawn = []

    def endless() -> Iterator[Request]:
        for number in range(1000):
            drawn.append(number)
            yield ask(pictures(1)[0], "ocr", max_new_tokens=1 + number % 5)

    stream = engine.generate(endless(), batch_size=4)
    got = [next(stream)[0] for _ in range(9)]
    assert sorted(got) == got or len(set(got)) == 9
    assert len(drawn) <= 9 + 4
    stream.close()


def test_a_row_near_its_end_beside_one_with_a_long_guess(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding fills slots too; a cache that is laid out to the token must grow, not overflow."""
    monkeypatch.setattr("pgvision.runtime.engine.LOOKAHEAD", 0)
    monkeypatch.setattr("pgvision.runtime.engine._SLOTS_AT_ONCE", 1)
    slow, short, image = pictures(3)
    guessed = ask(image, PREFIXES[0], form=DETECT)
    (plain,) = answers(engine, guessed)
    # The guess is wrong at first and right behind that: it is fed in the pass after the prompt's,
    # when the first row, a token a pass, is near its end.
    late = [engine.vocabulary.first_loc + 500, *plain.token_ids.tolist()[1:]]
    found = answers(
        engine,
        ask(slow, "ocr"),
        ask(short, "ocr", max_new_tokens=LIMIT - 3),
        ask(image, PREFIXES[0], form=DETECT, draft=late),
        batch_size=2,
    )
    assert found[0].passes == LIMIT, "the first row must be the slow one"
    assert found[2].token_ids.tolist() == plain.token_ids.tolist()


def test_pieces_join_to_the_text_that_the_tokenizer_decodes(engine: Engine) -> None:
    for answer in answers(engine, *(ask(i, p) for i in pictures(2) for p in PREFIXES)):
        words = [t for t in answer.token_ids.tolist() if t != engine.vocabulary.eos]
        assert "".join(answer.pieces) == answer.text
        assert answer.text == engine.processor.tokenizer.decode(words)
        assert len(answer.pieces) == len(answer.token_ids)


def test_one_image_is_encoded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, encode = [], engine.backend.encode
    monkeypatch.setattr(
        engine.backend, "encode", lambda images: calls.append(len(images)) or encode(images)
    )
    image = pictures(9)[8]
    answers(engine, *(ask(image, prefix, max_new_tokens=2) for prefix in PREFIXES))
    answers(engine, ask(image.copy(), "caption en", max_new_tokens=2))
    assert calls == [1]


def test_a_changed_picture_is_encoded_anew(engine: Engine) -> None:
    image = pictures(1)[0].copy()
    (before,) = answers(engine, ask(image, "caption en", max_new_tokens=6))
    image[:] = 255 - image  # the same buffer, as a camera reuses it
    (after,) = answers(engine, ask(image, "caption en", max_new_tokens=6))
    assert not np.array_equal(before.logprobs, after.logprobs)


def test_an_answer_that_is_cut_off_costs_no_further_pass(engine: Engine) -> None:
    (answer,) = answers(engine, ask(pictures(1)[0], "ocr", max_new_tokens=1))
    assert answer.finished == (answer.token_ids[-1] == engine.vocabulary.eos)
    assert len(answer.token_ids) == 1
    assert answer.passes == 1


def test_no_suffix_token_sees_what_follows_it(engine: Engine) -> None:
    report = check_leaks(engine.model)
    assert report.suffix_leak == pytest.approx(0.0, abs=1e-5)
    assert report.prefix_sight > 1e-4
    assert report.ok


def test_the_leak_test_can_fail(engine: Engine) -> None:
    assert not check_leaks(engine.model, use_types=False).ok


def test_cut_answers_have_whole_labels_or_an_incomplete_last_object() -> None:
    """Whatever the limit: a label is one that was asked for, or its object is marked as cut."""
    labels = ("helmet", "helmet with a red stripe", "head")
    form = AnswerForm("detect", labels)
    image = render_scene(20_000_000).image
    requests = [
        ask(image, "detect helmet", form=form, max_new_tokens=limit) for limit in range(1, 16)
    ]
    for answer in answers(load("tiny"), *requests):
        for number, span in enumerate(answer.spans):
            is_last = number == len(answer.spans) - 1
            assert span.is_complete or (is_last and not answer.finished)
            assert "".join(answer.pieces[span.start : span.box_stop]) == loc_text(span.loc_yxyx)
            assert answer.loc_probs[span.loc_row].argmax() == span.loc_yxyx[0]
            if span.is_complete:
                written = "".join(answer.pieces[span.mask_stop : span.label_stop])
                assert written.strip() == labels[span.label]


def test_a_label_without_a_choice_is_completed_past_the_limit() -> None:
    form = AnswerForm("detect", ("helmet with a red stripe",))
    image = render_scene(20_000_000).image
    (answer,) = answers(load("tiny"), ask(image, "detect helmet", form=form, max_new_tokens=4))
    assert answer.text.endswith(" helmet with a red stripe")
    assert answer.spans[-1].is_complete
    assert not answer.finished
