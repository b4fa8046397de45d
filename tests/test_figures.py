"""The README's figures are those that the benchmarks wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = json.loads((ROOT / "tests/benchmarks/results/small.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def percent(*names: str) -> str:
    return ", ".join(f"{100 * SMALL[name]['share']:.0f}%" for name in names)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ("AP50", f"{SMALL['helmet, new sets']['AP50']:.2f}"),
        ("hats and caps", percent("false alarms, hats")),
        (
            "portraits, face masks, street and sports",
            percent("false alarms, portraits", "false alarms, masked", "false alarms, people"),
        ),
        ("rooms and cars, objects", percent("false alarms, things", "false alarms, objects")),
        ("hats called helmet", percent("head called helmet", "hat called helmet")),
        (
            "of all sizes)",
            f"{SMALL['persons, person']['AP50']:.2f}; {SMALL['persons, people']['AP50']:.2f}",
        ),
    ],
)
def test_readme_row(row, result):
    assert f"{row} | {result} |" in README


def test_readme_counts_the_objects():
    assert f"{SMALL['helmet, new sets']['objects']} objects of five other sources" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
