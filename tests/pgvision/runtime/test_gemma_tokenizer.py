"""Our prompts, grammar and reading on the pieces of Gemma's own tokenizer, from recorded facts."""

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

sys.path.insert(0, str(Path(__file__).parent))
from gemma import BOX, LABELS, MASK, PROMPTS, facts, gemma

from pgvision import Detector, Segmenter
from pgvision.runtime import Engine, engine_of, find_checkpoint
from pgvision.runtime.checkpoint_files import wrap_tokenizer
from pgvision.runtime.grammar import TokenCursor, TokenGrammar
from pgvision.runtime.protocol import Tokenizer, Vocabulary
from pgvision.tokens import (
    LANGUAGES,
    AnswerForm,
    answer_prefix,
    caption_prefix,
    detect_prefix,
    free_prefix,
    object_text,
    ocr_prefix,
    parse_suffix,
    segment_prefix,
)

TABLE = Vocabulary(first_loc=256000, first_seg=257024, bos=2, eos=1, pad=0, image=257152)
BINS = (256, 128, 512, 384)
CODES = (0, 127, 5, 64) * 4


@cache
def engine() -> Engine:
    """A PaliGemma a few numbers wide, random, that reads and writes Gemma's pieces."""
    torch.manual_seed(5)
    vision = SiglipVisionConfig(
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False},
    )
    text = GemmaConfig(
        **{"vocab_size": 257216, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1},
    )
    config = PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=257152, projection_dim=16
    )
    images = SiglipImageProcessorPil(
        size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=gemma())
    model = PaliGemmaForConditionalGeneration(config).eval()
    card = find_checkpoint("google/paligemma-3b-mix-224")
    return engine_of(model, processor, replace(card, codec="tiny"))


@cache
def table() -> Tokenizer:
    return wrap_tokenizer(gemma(), "gemma")


def test_the_rebuilt_tokenizer_writes_the_recorded_ids() -> None:
    assert len(facts()) == len(PROMPTS) + len(LABELS) + 3 >= 65
    for text, ids in facts().items():
        assert gemma()(text, add_special_tokens=False)["input_ids"] == ids, text


def test_the_ids_of_places_codes_and_pictures_are_paligemmas() -> None:
    assert table().vocabulary == TABLE
    assert gemma().convert_tokens_to_ids(["<loc1023>", "<seg127>", "\n"]) == [257023, 257151, 108]


@pytest.mark.parametrize(
    ("prefix", "ids"),
    [
        (detect_prefix("helmet", kind="mix"), [39208, 30574, 108]),
        (detect_prefix(["helmet", "head"], kind="mix"), [39208, 30574, 2161, 2206, 108]),
        (segment_prefix("safety helmet", kind="pt"), [32318, 6514, 30574, 108]),
        (segment_prefix("the man on the left", kind="refcoco-seg"), None),
        (ocr_prefix("mix"), [120185, 108]),
        (caption_prefix("en", "describe", kind="mix"), [15019, 659, 108]),
        (caption_prefix("en", "cap", kind="pt"), None),
        (free_prefix("the man on the left"), None),
        (
            answer_prefix("Where is the cow standing?", kind="mix"),
            [13072, 659, 7890, 603, 573, 13910, 9980, 235336, 108],
        ),
        (answer_prefix("Wie viele Helme?", language="de", kind="mix"), None),
        # Two spaces are one piece, a tab is a piece of its own.
        (
            answer_prefix("is it on?", choices=["yes", "no"], kind="ft"),
            [
                13072,
                659,
                139,
                502,
                665,
                611,
                235336,
                6475,
                774,
                235292,
                7778,
                235248,
                226,
                793,
                108,
            ],
        ),
        *((caption_prefix(code, kind="pt"), None) for code in LANGUAGES),
    ],
)
def test_prompts_reach_the_model_as_recorded(prefix: str, ids: list[int] | None) -> None:
    found = engine().input_ids(prefix)
    assert found[:4] == [257152] * 4
    assert found[4:] == facts()[f"<bos>{prefix}\n"]
    assert ids is None or found[5:] == ids


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_walked_as_gemma_writes_it_and_read_back(label: str) -> None:
    """In its place, behind a box and before ``▁;`` and ``▁``; several pieces, bytes among them."""
    ids = facts()[f"{BOX} {label} ; {BOX} {label}"]
    grammar = TokenGrammar.compile(table(), AnswerForm("detect", (label, "worker")))
    assert grammar.separator == (2161, 235248)
    cursor = TokenCursor(grammar)
    second = max(at for at, one in enumerate(ids) if TABLE.is_loc(one))
    for at, token in enumerate(ids):
        assert token in cursor.allowed() or at == second  # the same box is not written twice
        cursor.advance(token + 1 if at == second else token)
    cursor.advance(TABLE.eos)
    pieces = engine()._pieces(ids)
    assert "".join(pieces) == f"{BOX} {label} ; {BOX} {label}"
    read = parse_suffix("".join(pieces), image_hw=(1024, 1024), classes=["worker", label])
    assert [one.label for one in read.objects] == [label] * 2
    assert [one.class_id for one in read.objects] == [1, 1]
    for span in cursor.spans:
        assert "".join(pieces[span.mask_stop : span.label_stop]) == f" {label}"
    assert grammar.walk(ids)[0][:6] == cursor.spans[0][:6]


def test_one_asked_label_is_forced_without_a_pass() -> None:
    grammar = TokenGrammar.compile(table(), AnswerForm("detect", ("safety helmet",)))
    cursor = TokenCursor(grammar)
    for bin_ in BINS:
        cursor.advance(256000 + bin_)
    assert cursor.forced_run() == (6514, 30574)
    both = TokenGrammar.compile(table(), AnswerForm("detect", ("safety", "safety helmet")))
    cursor = TokenCursor(both)
    for token in (*(256000 + bin_ for bin_ in BINS), 6514):
        cursor.advance(token)
    assert cursor.forced_run() == ()
    assert {*cursor.allowed().ids} == {30574, 2161, TABLE.eos}


@pytest.mark.parametrize("label", ["helmet", "safety helmet", None])
def test_masks_stand_between_box_and_label(label: str | None) -> None:
    text = f"{object_text(BINS, label, CODES)} ; {object_text(BINS, None, CODES)}"
    ids = facts()[text]
    form = AnswerForm("segment", (label or "helmet",), "required" if label else "none")
    cursor = TokenCursor(TokenGrammar.compile(table(), form))
    for token in ids[: ids.index(2161) + 2]:
        cursor.advance(token)
    ((start, box, mask, end, *_),) = cursor.spans
    assert (start, box, mask) == (0, 4, 20)
    assert [token - 257024 for token in ids[box:mask]] == list(CODES)
    assert end == ids.index(2161)
    assert f"{BOX}{MASK}" in text


@pytest.mark.parametrize("task", [Detector, Segmenter])
def test_answers_hold_what_was_asked_in_gemmas_pieces(task: type[Detector | Segmenter]) -> None:
    asked = ["safety helmet", "каска", "🦺", "𓀀"]
    result = task(asked, generator=engine())(np.zeros((56, 84, 3), np.uint8))
    assert result.prefix.partition(" ")[2] == "safety helmet ; каска ; 🦺 ; 𓀀"
    assert len(result) > 0
    whole = slice(None, -1 if result.truncated else None)  # the last may be cut off in its label
    assert set(result.labels[whole]) <= set(asked)
    assert result.labels[whole] == result.texts[whole]
    assert not [one for one in result.rejects if one.reason != "degenerate box"]
    words = re.sub(r"<(loc|seg)\d+>", "", result.raw_text).split(" ; ")[whole]
    assert {word.strip() for word in words} <= set(asked)
