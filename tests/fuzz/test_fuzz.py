"""A short run of each fuzzing target; `tests/fuzz/fuzz.py` runs them long."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fuzz


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("answers", 3000),
        ("pictures", 300),
        ("files", 200),
        ("codec", 10),
        ("journals", 300),
        ("videos", 60),
        ("lists", 200),
        ("cards", 300),
        ("service", 100),
    ],  # fmt: skip
)
def test_nothing_but_errors_of_ours(target, count, capsys):
    crashes = fuzz.run(target, count)
    assert crashes == 0, capsys.readouterr().err


def test_the_search_finds_what_it_looks_for(monkeypatch, capsys):
    monkeypatch.setitem(fuzz.TARGETS, "answers", lambda folder, dice: 1 / 0)
    assert fuzz.run("answers", 2) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
