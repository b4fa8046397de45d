"""Tokens of the longest answers of a data set, counted before the first step."""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from pgvision.datasets import Dataset, Example
from pgvision.errors import DataError
from pgvision.runtime import Engine
from pgvision.tokens import SEPARATOR, classes_per_prompt, object_text
from pgvision.training.finetuning.collator import Collator
from pgvision.training.finetuning.data import Mixture, Parts

_LOG = logging.getLogger(__name__)
_SHOWN: Final = 5


def answers_too_long(data: Mixture, engine: Engine, collator: Collator) -> dict[str, int]:
    """List the examples whose answer is longer than the checkpoint writes when it is asked.

    They are learnt whole all the same, and said once in the log.

    Args:
        data: Of the run. Closed sets are left out: their answers all have one length.
        engine: Of the run.
        collator: Of the run.

    Returns:
        Tokens of the longest answer by picture, ``<eos>`` included.

    Raises:
        DataError: If the model has no places for an answer; nothing is ever cut.
    """
    budget = engine.card.longest_answer(engine.resolution)
    found: dict[str, int] = {}
    for part in data.parts:
        for name, count in _lengths(part, engine.card.kind, collator):
            if count > max(budget, found.get(name, 0)):
                found[name] = count
    places = collator.max_length - engine.num_image_tokens
    if beyond := {name: count for name, count in found.items() if count > places}:
        raise DataError(
            f"{_told(beyond)}: the model has places for {places} behind the picture; cut pictures "
            "into tiles, or split classes of many objects"
        )
    if found:
        _LOG.warning(
            "answers of more than the %d tokens that the model writes by default: %s; they are "
            "learnt whole: when asking pass max_new_tokens=%d, or tile=",
            budget, _told(found), max(found.values()),
        )  # fmt: skip
    return found


def _told(found: dict[str, int]) -> str:
    worst = sorted(found.items(), key=lambda one: -one[1])
    more = f" and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
    return ", ".join(f"{name} ({count} tokens)" for name, count in worst[:_SHOWN]) + more


def _lengths(part: Parts, kind: str, collator: Collator) -> Iterator[tuple[str, int]]:
    if isinstance(part.train, Dataset):
        if not part.settings.closed_set:
            yield from _of_objects(part, part.train, kind, collator)
        return
    yield from zip(
        (str(one.image) for one in part.train), _of_texts(part.train, collator), strict=True
    )


def _of_texts(examples: Sequence[Example], collator: Collator) -> Iterator[int]:
    known: dict[str, int] = {}
    for one in examples:
        if one.suffix not in known:
            known[one.suffix] = collator.num_tokens(one.suffix) + 1
        yield known[one.suffix]


def _of_objects(
    part: Parts, dataset: Dataset, kind: str, collator: Collator
) -> Iterator[tuple[str, int]]:
    """Yield what the longest prompt about each picture would be answered with."""
    codes = range(16) if part.settings.task == "segment" else ()
    each = {
        name: collator.num_tokens(object_text([0, 0, 1, 1], name, codes) + SEPARATOR)
        for name in dataset.classes
    }
    most = classes_per_prompt(kind)
    for record in dataset.images:
        names = [dataset.names[one.category_id] for one in record.objects if not one.iscrowd]
        sums = sorted((names.count(name) * each[name] for name in set(names)), reverse=True)
        yield str(record.path), sum(sums[:most])  # the last separator stands for <eos>
