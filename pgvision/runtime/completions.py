"""From a chat completion to a generation: texts of tokens become places and codes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.errors import CheckpointError
from pgvision.runtime.protocol import Generation
from pgvision.runtime.token_grammar import find_spans
from pgvision.tokens import NUM_BINS, NUM_CODES, Symbol

_TOKEN: Final = re.compile(r"<(?:loc(?P<bin>\d{4})|seg(?P<code>\d{3}))>")
_EOS: Final = frozenset({"<eos>", "</s>", "<end_of_turn>"})


def read_completion(reply: Any) -> Generation:
    """Make a generation of a chat completion's text and, where they fit it, its tokens.

    Args:
        reply: The parsed JSON.

    Raises:
        CheckpointError: If it is no chat completion.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"]
        finished = choice.get("finish_reason") != "length"
        listed = (choice.get("logprobs") or {}).get("content") or []
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"expected a chat completion, got {str(reply)[:200]}") from error
    if not isinstance(text or "", str):
        raise CheckpointError(f"expected a text as content, got {str(text)[:200]}")
    return _generation(text or "", listed, finished)


def _generation(text: str, listed: Sequence[Any], finished: bool) -> Generation:
    try:
        pieces = tuple("" if one["token"] in _EOS else str(one["token"]) for one in listed)
        tables = [_table(one) for one in listed]
        logprobs = np.array([float(one["logprob"]) for one in listed], np.float32)
    except (KeyError, TypeError, ValueError, AttributeError):
        pieces = ()
    if not pieces or "".join(pieces) != text:
        whole = (text,) if text else ()
        return Generation(
            text=text,
            token_ids=np.full(len(whole), -1, np.int64),
            pieces=whole,
            finished=finished,
        )
    places = [(_TOKEN.fullmatch(piece), table) for piece, table in zip(pieces, tables, strict=True)]
    return Generation(
        text=text,
        token_ids=np.full(len(pieces), -1, np.int64),
        pieces=pieces,
        finished=finished,
        logprobs=logprobs,
        eos_logprobs=np.array([_end_logprob(table) for table in tables], np.float32),
        loc_probs=_rows(places, "bin", NUM_BINS),
        seg_probs=_rows(places, "code", NUM_CODES),
        spans=find_spans([_symbol(piece) for piece in pieces], [_value(piece) for piece in pieces]),
    )


def _table(one: Mapping[str, Any]) -> dict[str, float]:
    """Return log-probabilities by token, the written one among them."""
    table = {
        str(other["token"]): float(other["logprob"]) for other in one.get("top_logprobs") or ()
    }
    return table | {str(one["token"]): float(one["logprob"])}


def _end_logprob(table: Mapping[str, float]) -> float:
    """Bound the probability that the answer ended here from above, where it is not listed."""
    known = [value for token, value in table.items() if token in _EOS]
    if known:
        return max(known)
    rest = max(1.0 - float(np.exp(list(table.values())).sum()), 1e-9)
    return min(float(np.log(rest)), min(table.values())) if len(table) > 1 else float(np.log(rest))


def _rows(
    places: Sequence[tuple[re.Match[str] | None, Mapping[str, float]]], what: str, size: int
) -> FloatArray:
    """Return one row for each location (or code) written; what is not listed stays 0."""
    rows = []
    for place, table in places:
        if place is None or place[what] is None:
            continue
        row = np.zeros(size, np.float32)
        for token, value in table.items():
            other = _TOKEN.fullmatch(token)
            if other is not None and other[what] is not None and int(other[what]) < size:
                row[int(other[what])] = np.exp(value)
        rows.append(row)
    return np.array(rows, np.float32).reshape(-1, size)


def _symbol(piece: str) -> Symbol:
    place = _TOKEN.fullmatch(piece)
    if place is not None:
        return Symbol.LOC if place["bin"] else Symbol.SEG
    if not piece:
        return Symbol.END
    return Symbol.SEPARATOR if piece.strip() == ";" else Symbol.TEXT


def _value(piece: str) -> int:
    place = _TOKEN.fullmatch(piece)
    return 0 if place is None else int(place["bin"] or place["code"])
