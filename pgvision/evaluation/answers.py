"""What a generative model's answers look like, apart from how well its boxes fit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class AnswerCounts:
    """Counts over answers; ``with_*`` count answers, ``num_*`` count objects or fragments.

    Attributes:
        num_answers: Answers seen.
        num_objects: Objects read from them.
        num_rejects: Fragments that could not be read.
        num_duplicates: Objects equal to an earlier one of the same answer: label and box.
        num_unmatched: Objects whose label is none of the classes asked for.
        num_whole_image: Objects whose box covers the whole image.
        with_rejects: Answers with at least one rejected fragment.
        with_truncation: Answers that ran into the length limit.
        with_duplicates: Answers with at least one duplicate.
        with_unmatched: Answers with at least one unmatched label.
        with_whole_image: Answers with at least one box over the whole image.
    """

    num_answers: int
    num_objects: int
    num_rejects: int
    num_duplicates: int
    num_unmatched: int
    num_whole_image: int
    with_rejects: int
    with_truncation: int
    with_duplicates: int
    with_unmatched: int
    with_whole_image: int

    def share(self, name: str) -> float | None:
        """Share of answers: ``name`` is a ``with_*`` count without its ``with_``.

        Returns:
            A share in [0, 1], or None when there are no answers.

        Raises:
            AttributeError: If there is no such count.

        Example:
            >>> count_answers([]).share("rejects") is None
            True
        """
        count: int = getattr(self, f"with_{name}")
        return count / self.num_answers if self.num_answers else None

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares, JSON-safe."""
        names = ("rejects", "truncation", "duplicates", "unmatched", "whole_image")
        return {**asdict(self), "shares": {name: self.share(name) for name in names}}


def count_answers(results: Iterable[Any]) -> AnswerCounts:
    """Count what is odd in answers.

    Args:
        results: Detection or segmentation results: objects with ``rejects``, ``truncated``,
            ``texts``, ``class_ids``, ``xyxy``, ``loc_yxyx`` and ``whole_image``.

    Returns:
        The counts. A fragment that the parser set aside as a duplicate counts as a duplicate and
        not as a reject.

    Example:
        >>> count_answers([]).num_objects
        0
    """
    rows = np.array([_count(result) for result in results], np.int64).reshape(-1, 6)
    objects, rejects, duplicates, unmatched, whole, truncated = rows.T
    return AnswerCounts(
        num_answers=len(rows),
        num_objects=int(objects.sum()),
        num_rejects=int(rejects.sum()),
        num_duplicates=int(duplicates.sum()),
        num_unmatched=int(unmatched.sum()),
        num_whole_image=int(whole.sum()),
        with_rejects=int((rejects > 0).sum()),
        with_truncation=int(truncated.sum()),
        with_duplicates=int((duplicates > 0).sum()),
        with_unmatched=int((unmatched > 0).sum()),
        with_whole_image=int((whole > 0).sum()),
    )


def _count(result: Any) -> tuple[int, int, int, int, int, int]:
    places = result.xyxy if result.loc_yxyx is None else result.loc_yxyx
    keys = [
        (text, *row) for text, row in zip(result.texts, np.asarray(places).tolist(), strict=True)
    ]
    set_aside = sum("duplicate" in reject.reason for reject in result.rejects)
    return (
        len(keys),
        len(result.rejects) - set_aside,
        len(keys) - len(set(keys)) + set_aside,
        int((np.asarray(result.class_ids) < 0).sum()),
        int(np.asarray(result.whole_image).sum()),
        int(bool(result.truncated)),
    )
