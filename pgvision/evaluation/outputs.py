"""Counts over a generative model's outputs: rejected fragments, duplicates, cut outputs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

KINDS = ("rejects", "truncation", "duplicates", "unmatched", "whole_image")


@dataclass(frozen=True, kw_only=True)
class OutputCounts:
    """Counts over outputs; ``with_*`` count outputs, ``num_*`` count objects or fragments.

    Attributes:
        num_outputs: Outputs, one for each image.
        num_objects: Objects parsed from them.
        num_rejects: Fragments that could not be parsed.
        num_duplicates: Objects equal to an earlier one of the same output: label and box.
        num_unmatched: Objects with a label that is none of the requested classes.
        num_whole_image: Objects with a box that covers the whole image.
        with_rejects: Outputs with at least one rejected fragment.
        with_truncation: Outputs that reached the length limit.
        with_duplicates: Outputs with at least one duplicate.
        with_unmatched: Outputs with at least one unmatched label.
        with_whole_image: Outputs with at least one box over the whole image.
    """

    num_outputs: int
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
        """Return the share of outputs: ``name`` is a ``with_*`` count without its ``with_``.

        Returns:
            A share in [0, 1], or None when there are no outputs.

        Raises:
            AttributeError: If there is no such count.

        Example:
            >>> count_outputs([]).share("rejects") is None
            True
        """
        count: int = getattr(self, f"with_{name}")
        return count / self.num_outputs if self.num_outputs else None

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares, JSON-safe."""
        return {**asdict(self), "shares": {kind: self.share(kind) for kind in KINDS}}


def count_outputs(results: Iterable[Any]) -> OutputCounts:
    """Count what is irregular in the outputs that results come from.

    Args:
        results: Detection or segmentation results: objects with ``rejects``, ``truncated``,
            ``texts``, ``class_ids``, ``xyxy``, ``loc_yxyx`` and ``whole_image``.

    Returns:
        The counts. A fragment that the parser left out as a duplicate counts as a duplicate and
        not as a reject.

    Example:
        >>> count_outputs([]).num_objects
        0
    """
    rows = np.array([_count(result) for result in results], np.int64).reshape(-1, 6)
    columns = dict(zip(("objects", *KINDS), rows.T, strict=True))
    return OutputCounts(
        num_outputs=len(rows),
        **{f"num_{name}": int(columns[name].sum()) for name in columns if name != "truncation"},
        **{f"with_{kind}": int((columns[kind] > 0).sum()) for kind in KINDS},
    )


def _count(result: Any) -> tuple[int, int, int, int, int, int]:
    # Bins are exact; boxes of equal bins may differ after clipping.
    places = result.xyxy if result.loc_yxyx is None else result.loc_yxyx
    keys = [
        (text, *row) for text, row in zip(result.texts, np.asarray(places).tolist(), strict=True)
    ]
    left_out = sum("duplicate" in reject.reason for reject in result.rejects)
    return (
        len(keys),
        len(result.rejects) - left_out,
        int(bool(result.truncated)),
        len(keys) - len(set(keys)) + left_out,
        int((np.asarray(result.class_ids) < 0).sum()),
        int(np.asarray(result.whole_image).sum()),
    )
