"""A corpus of answers, valid and broken, with what each should give, written by hand.

One JSON object a line; add a line for each bug. The expected values come from the definition of
the format (big_vision) and from public complaints, not from the parser.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pgvision.tokens import parse_suffix

CORPUS = Path(__file__).with_name("answers.jsonl")
ANSWERS = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer["why"] for answer in ANSWERS])
def test_answer_is_read_as_written_in_the_corpus(answer: dict[str, Any]) -> None:
    parsed = parse_suffix(answer["text"], image_hw=(480, 640))
    objects = [
        {
            "loc_yxyx": list(one.loc_yxyx),
            "label": one.label,
            "codes": list(one.codes) if one.codes else None,
        }
        for one in parsed.objects
    ]
    assert objects == answer["objects"]
    assert [[reject.text, reject.reason] for reject in parsed.rejects] == answer["rejects"]
    assert parsed.truncated == answer["truncated"]
