"""Collect every problem of a file before refusing it, so that one run shows them all."""

from collections.abc import Iterator

from pgvision.errors import DataError, EvaluationError

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

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Go through the places in the input with what is wrong there."""
        return iter(self._found)

    def add(self, where: str, what: str) -> None:
        """Note one problem: ``where`` in the input, and ``what`` was expected and came."""
        self._found.append((where, what))

    def refuse(
        self, fix: str, error: type[DataError] | type[EvaluationError] = EvaluationError
    ) -> None:
        """Raise if anything was noted.

        Args:
            fix: What the user can do about it.
            error: What is raised.

        Raises:
            EvaluationError: With the first problems, how many there are, and the fix.
            DataError: The same, where ``error`` says so.
        """
        if not self._found:
            return
        count = len(self._found)
        lines = [f"{self.source} has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {where}: {what}" for where, what in self._found[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  ... and {count - SHOWN} more")
        lines.append(f"Fix: {fix}.")
        raise error("\n".join(lines))
