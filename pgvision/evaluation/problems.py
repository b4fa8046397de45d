"""Collect every problem of a file before refusing it, so that one run shows them all."""

from pgvision.errors import EvaluationError

SHOWN = 5


class Problems:
    """Problems of one input, in the order found.

    Args:
        source: What is being checked: a path, or ``"results"``.

    Example:
        >>> problems = Problems("results.json")
        >>> problems.add("[3].score", "is NaN, expected a finite number")
        >>> len(problems)
        1
        >>> problems.refuse("write null scores or drop the records")
        Traceback (most recent call last):
        ...
        pgvision.errors.EvaluationError: results.json has 1 problem:
          [3].score: is NaN, expected a finite number
        Fix: write null scores or drop the records.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, where: str, what: str) -> None:
        """Note one problem: ``where`` in the input, and ``what`` was expected and came."""
        self._found.append((where, what))

    def refuse(self, fix: str) -> None:
        """Raise if anything was noted.

        Args:
            fix: What the user can do about it.

        Raises:
            EvaluationError: With the first problems, how many there are, and the fix.
        """
        if not self._found:
            return
        count = len(self._found)
        lines = [f"{self.source} has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {where}: {what}" for where, what in self._found[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  ... and {count - SHOWN} more")
        lines.append(f"Fix: {fix}.")
        raise EvaluationError("\n".join(lines))
