"""Result of each check of `pgvision doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pgvision.errors import PgvisionError

Status = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        status: ``"ok"``, ``"note"`` (works, but worth knowing) or ``"fail"``.
        found: What is there.
        fix: What to do about it; empty if nothing.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """Turn an error of ours into a failed check.

    Returns:
        What ``look`` returns, or the failure with the error's message, which names the fix.
    """
    try:
        return look()
    except PgvisionError as error:
        return Check(name, "fail", str(error))
