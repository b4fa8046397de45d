"""A run's curve, ``curve.jsonl``: losses and figures, a line each, while it runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pgvision.files import write_text

CURVE_NAME: Final = "curve.jsonl"


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return what a run has noted: losses and figures, each with its step."""
    path = folder / CURVE_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line of a killed run
            break
    return found


def write_curve(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a curve anew: a resumed run takes back what came after its state."""
    write_text(folder / CURVE_NAME, "".join(json.dumps(line) + "\n" for line in lines))


def append_to_curve(folder: Path, line: Mapping[str, Any]) -> None:
    """Note one thing more."""
    with (folder / CURVE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
