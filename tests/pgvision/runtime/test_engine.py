"""The engine against transformers' own processor and ``generate``."""

import numpy as np
import pytest
import torch
from PIL import Image

from pgvision.runtime import Engine, GenerateOptions, Request, check_leaks

PREFIXES = ["detect helmet", "caption en", "answer en what color is the helmet?", "ocr"]
LIMIT = 24


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return [np.kron(one, np.ones((20, 30, 1), np.uint8)) for one in small]


def reference(engine: Engine, image: np.ndarray, prefix: str, **options: object) -> list[int]:
    """Tokens that transformers writes for one picture and prompt."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    inputs = engine.processor(images=[picture], text=[f"<image>{prefix}"], return_tensors="pt")
    inputs.pop("labels", None)
    with torch.inference_mode():
        out = engine.model.generate(
            **inputs, max_new_tokens=LIMIT, do_sample=False, return_dict_in_generate=True, **options
        )
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prompt_ids_are_the_processors(engine: Engine, prefix: str) -> None:
    inputs = engine.processor(
        images=[Image.new("RGB", (30, 20))], text=[f"<image>{prefix}"], return_tensors="pt"
    )
    assert engine.input_ids(prefix) == inputs["input_ids"][0].tolist()


def test_tokens_equal_generate_alone(engine: Engine) -> None:
    for image, prefix in zip(pictures(4), PREFIXES, strict=True):
        (answer,) = engine.generate([Request(image, prefix)], GenerateOptions(LIMIT))
        assert answer.token_ids.tolist() == reference(engine, image, prefix)


def test_tokens_equal_generate_in_a_mixed_batch(engine: Engine) -> None:
    images = pictures(3)
    requests = [Request(image, prefix) for image in images for prefix in PREFIXES]
    answers = engine.generate(requests, GenerateOptions(LIMIT))
    expected = [reference(engine, request.image, request.prefix) for request in requests]
    assert [answer.token_ids.tolist() for answer in answers] == expected
    assert len({tuple(tokens) for tokens in expected}) > 3, "the models must not say one thing"


def test_logprobs_equal_generates_scores(engine: Engine) -> None:
    (image,), prefix = pictures(1), PREFIXES[2]
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    inputs = engine.processor(images=[picture], text=[f"<image>{prefix}"], return_tensors="pt")
    inputs.pop("labels", None)
    with torch.inference_mode():
        out = engine.model.generate(
            **inputs,
            max_new_tokens=LIMIT,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    logprobs = torch.stack(out.logits, 1)[0].float().log_softmax(-1)
    new = out.sequences[0, inputs["input_ids"].shape[1] :]
    (answer,) = engine.generate([Request(image, prefix)], GenerateOptions(LIMIT))
    np.testing.assert_allclose(
        answer.logprobs, logprobs[torch.arange(len(new)), new].numpy(), atol=2e-4
    )
    np.testing.assert_allclose(
        answer.eos_logprobs, logprobs[:, engine.vocabulary.eos].numpy(), atol=2e-4
    )


def test_pieces_join_to_the_text_that_the_tokenizer_decodes(engine: Engine) -> None:
    answers = engine.generate([Request(i, p) for i in pictures(2) for p in PREFIXES])
    for answer in answers:
        words = [t for t in answer.token_ids.tolist() if t != engine.vocabulary.eos]
        assert "".join(answer.pieces) == answer.text
        assert answer.text == engine.processor.tokenizer.decode(words)
        assert len(answer.pieces) == len(answer.token_ids)


def test_one_picture_is_encoded_once(engine: Engine) -> None:
    calls = []
    handle = engine.model.model.vision_tower.register_forward_hook(
        lambda module, args, out: calls.append(args[0].shape[0])
    )
    image = pictures(9)[8]
    engine.generate([Request(image, prefix) for prefix in PREFIXES], GenerateOptions(2))
    engine.generate([Request(image.copy(), "caption en")], GenerateOptions(2))
    handle.remove()
    assert calls == [1]


def test_a_changed_picture_is_encoded_anew(engine: Engine) -> None:
    image = pictures(1)[0].copy()
    (before,) = engine.generate([Request(image, "caption en")], GenerateOptions(6))
    image[:] = 255 - image  # the same buffer, as a camera reuses it
    (after,) = engine.generate([Request(image, "caption en")], GenerateOptions(6))
    assert not np.array_equal(before.logprobs, after.logprobs)


def test_an_answer_that_is_cut_off_says_so(engine: Engine) -> None:
    (answer,) = engine.generate([Request(pictures(1)[0], "ocr")], GenerateOptions(1))
    assert answer.finished == (answer.token_ids[-1] == engine.vocabulary.eos)
    assert len(answer.token_ids) == 1


def test_best_answers_equal_generates_beams(engine: Engine) -> None:
    (image,), prefix = pictures(1), PREFIXES[2]
    options = GenerateOptions(4, num_alternatives=3)
    (answer,) = engine.generate([Request(image, prefix)], options)
    assert len(answer.alternatives) == 3
    chances = [logprob for _, logprob in answer.alternatives]
    assert chances == sorted(chances, reverse=True)


def test_no_suffix_token_sees_what_follows_it(engine: Engine) -> None:
    report = check_leaks(engine.model)
    assert report.suffix_leak == pytest.approx(0.0, abs=1e-5)
    assert report.prefix_sight > 1e-4
    assert report.ok


def test_the_leak_test_can_fail(engine: Engine) -> None:
    assert not check_leaks(engine.model, use_types=False).ok
