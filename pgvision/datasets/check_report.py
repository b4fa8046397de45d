"""What `check_dataset` found: counts by rule, a table, JSON."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pgvision.datasets.records import Finding

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How examples fit a resolution's token budget.

    Attributes:
        resolution: Side of the square that the model sees.
        budget: Text tokens an example may have.
        num_over: Examples that are longer.
        median: Median length in tokens.
        p95: Length that 95% of the examples do not exceed.
        longest: Greatest length.
    """

    resolution: int
    budget: int
    num_over: int
    median: int
    p95: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of `check_dataset`.

    Attributes:
        findings: Everything that was found, split by split.
        num_images: Images looked at.
        num_objects: Annotations looked at.
        num_examples: Examples that they make.
        forecast: Lengths against budgets, by resolution.

    Example:
        >>> late = Finding("leakage", "error", "the same image is b.jpg in split 'val'", "a.jpg")
        >>> report = CheckReport(
        ...     findings=(late,), num_images=2, num_objects=0, num_examples=0, forecast=())
        >>> report.ok, report.counts
        (False, {('leakage', 'error'): 1})
    """

    findings: tuple[Finding, ...]
    num_images: int
    num_objects: int
    num_examples: int
    forecast: tuple[Forecast, ...]

    @property
    def ok(self) -> bool:
        """True if there is no error; warnings are allowed."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Number of findings of each (rule, level), errors first, the most frequent first."""
        numbers = Counter((finding.rule, finding.level) for finding in self.findings)
        ordered = sorted(numbers.items(), key=lambda pair: (pair[0][1], -pair[1], pair[0]))
        return dict(ordered)

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain values, for JSON."""
        return {
            "ok": self.ok,
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "num_examples": self.num_examples,
            "counts": [
                {"rule": rule, "level": level, "count": number}
                for (rule, level), number in self.counts.items()
            ],
            "forecast": [asdict(row) for row in self.forecast],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def tables(self, *, num_examples: int = 3) -> "list[Table]":
        """Return rich tables: findings by rule, with some examples each, and the forecast.

        Args:
            num_examples: Findings shown of each rule.
        """
        from rich.table import Table
        from rich.text import Text

        rules = Table(title=f"{self.num_images} images, {self.num_objects} objects")
        for heading in ("level", "rule", "count", "for example"):
            rules.add_column(heading, justify="right" if heading == "count" else "left")
        for (rule, level), number in self.counts.items():
            shown = [finding for finding in self.findings if finding.rule == rule][:num_examples]
            # Text, not markup: names from files may hold square brackets.
            lines = Text("\n".join(_line(finding) for finding in shown))
            rules.add_row(Text(level), Text(rule), str(number), lines)
        lengths = Table(title=f"tokens of {self.num_examples} examples")
        for heading in ("resolution", "budget", "over", "median", "95%", "longest"):
            lengths.add_column(heading, justify="right")
        for row in self.forecast:
            cells = (row.resolution, row.budget, row.num_over, row.median, row.p95, row.longest)
            lengths.add_row(*map(str, cells))
        return [rules, lengths]


def _line(finding: Finding) -> str:
    place = "/".join(part for part in (finding.split, finding.where) if part)
    return f"{place}: {finding.message}" if place else finding.message
