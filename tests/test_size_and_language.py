"""Size of the packages and plainness of their English: limits that only get stricter."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The goals are 15,000 code lines, 150 files and 6 comments; lower (or raise) these with every cut.
MAX_CODE_LINES = 21_627
MAX_FILES = 145
MIN_COMMENTS = 7.0  # per 100 code lines
MAX_QUAINT = 2.0  # per 1,000 words
# Turns of phrase that this project used in place of the field's terms.
QUAINT = re.compile(
    r"\b(says?|said|told|tells|who|whom|whose|nobody|somebody|hangs? on|stands?|stood|goes on"
    r"|went on|beside|of its own|door|behind|alike|mend|mended|mends|strangers?|lies|lay|dies"
    r"|lives? in|rooms?|homes?|let go|holds?|(?<![-\w])held(?![- ]out)|as it comes|odd|cheap|dear"
    r"|knows? no|knows? nothing|carried|carries)\b",
    re.IGNORECASE,
)
_LAYOUT = {
    tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.COMMENT,
}  # fmt: skip
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def measure(source: str) -> tuple[int, int, str]:
    """Return code lines, comment lines, and the words of docstrings and comments."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    code: set[int] = set()
    for token in tokens:
        if token.type not in _LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    prose = comments.copy()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            prose.append(re.sub(r"```.*?```|``[^`]*``|`[^`]*`|>>>.*", " ", text, flags=re.DOTALL))
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(code), len(comments), " ".join(prose)


@cache
def packages() -> list[tuple[int, int, str]]:
    files = [file for name in ("pgvision", "vqvae") for file in (ROOT / name).rglob("*.py")]
    return [measure(file.read_text(encoding="utf-8")) for file in files]


def guides() -> Iterator[str]:
    cards = [*(ROOT / "pgvision").rglob("README.md"), ROOT / "recipes/README.md"]
    for file in (
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
        *(ROOT / "docs").rglob("*.md"),
        *cards,
    ):
        text = file.read_text(encoding="utf-8")
        yield re.sub(r"```.*?```|`[^`]*`|\|", " ", text, flags=re.DOTALL)

    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "markdown":
                yield re.sub(r"`[^`]*`|\|", " ", "".join(cell["source"]))


def test_what_counts_as_a_line_of_code():
    source = (
        '"""Docs.\n\nMore.\n"""\n\n# A comment\nx = (1,  # one\n     2)\n\ndef f():\n    """D."""\n'
    )
    assert measure(source)[:2] == (3, 2)


def test_the_packages_are_small():
    assert sum(code for code, _, _ in packages()) <= MAX_CODE_LINES
    assert len(packages()) <= MAX_FILES


def test_comments_head_the_steps():
    code, comments = (sum(row[k] for row in packages()) for k in (0, 1))
    assert 100 * comments / code >= MIN_COMMENTS


@pytest.mark.parametrize("texts", [lambda: (row[2] for row in packages()), guides])
def test_words_are_those_of_the_field(texts):
    text = " ".join(texts())
    found = [match.group() for match in QUAINT.finditer(text)]
    assert 1000 * len(found) / len(text.split()) <= MAX_QUAINT, found
