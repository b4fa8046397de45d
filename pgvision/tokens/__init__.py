"""Prompts and answers of the model: text and geometry. Needs numpy only."""

from pgvision.tokens.bins import (
    CODES_PER_MASK,
    NUM_BINS,
    NUM_CODES,
    decode_boxes,
    encode_boxes,
    loc_text,
    object_text,
    require_image_hw,
    seg_text,
)
from pgvision.tokens.forms import AnswerForm
from pgvision.tokens.grammar import LOCS_PER_BOX, Cursor, Grammar, Symbol, check_suffix
from pgvision.tokens.labels import match_label
from pgvision.tokens.languages import LANGUAGES
from pgvision.tokens.parsing import ParsedObject, ParsedSuffix, Reject, parse_suffix
from pgvision.tokens.prefixes import (
    KINDS,
    SEPARATOR,
    Kind,
    answer_prefix,
    caption_prefix,
    classes_per_prompt,
    detect_prefix,
    free_prefix,
    ocr_prefix,
    prompts_of,
    question_prefix,
    region_caption_prefix,
    require_classes,
    require_phrase,
    segment_prefix,
)

__all__ = [
    "CODES_PER_MASK",
    "KINDS",
    "LANGUAGES",
    "LOCS_PER_BOX",
    "NUM_BINS",
    "NUM_CODES",
    "SEPARATOR",
    "AnswerForm",
    "Cursor",
    "Grammar",
    "Kind",
    "ParsedObject",
    "ParsedSuffix",
    "Reject",
    "Symbol",
    "answer_prefix",
    "caption_prefix",
    "check_suffix",
    "classes_per_prompt",
    "decode_boxes",
    "detect_prefix",
    "encode_boxes",
    "free_prefix",
    "loc_text",
    "match_label",
    "object_text",
    "ocr_prefix",
    "parse_suffix",
    "prompts_of",
    "question_prefix",
    "region_caption_prefix",
    "require_classes",
    "require_image_hw",
    "require_phrase",
    "seg_text",
    "segment_prefix",
]
