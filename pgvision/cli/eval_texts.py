"""Predict and score answers and captions: what `pgvision eval` does for texts."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pgvision.cli.console import Meter, say
from pgvision.datasets import Example
from pgvision.errors import DataError, PgvisionError
from pgvision.evaluation import evaluate_answers, evaluate_captions
from pgvision.files import write_text

_ANSWER = re.compile(r"answer (\S+) (.+)", re.DOTALL)
_CAPTION = re.compile(r"(?:caption|describe|cap) (\S+)")

AskModel = Callable[[Path, str, str], str]


@dataclass(frozen=True)
class TextCase:
    """One thing to ask, with the answers that are accepted.

    Attributes:
        image: The picture.
        language: Code of the language.
        question: What is asked; empty for a caption.
        references: Accepted answers.
    """

    image: Path
    language: str
    question: str
    references: tuple[str, ...]


def text_cases(examples: Iterable[Example], task: str) -> list[TextCase]:
    """Gather examples of one task; lines with the same picture and prompt are one case.

    Args:
        examples: Of any task.
        task: ``"ask"`` or ``"caption"``.

    Returns:
        Cases in the order of the file.

    Raises:
        DataError: If there is none.
    """
    pattern = _ANSWER if task == "ask" else _CAPTION
    gathered: dict[tuple[Path, str, str], list[str]] = {}
    for example in examples:
        match = pattern.fullmatch(example.prefix.strip())
        if match:
            question = match[2].strip() if task == "ask" else ""
            gathered.setdefault((example.image, match[1], question), []).append(example.suffix)
    if not gathered:
        wanted = "answer <language> <question>" if task == "ask" else "caption <language>"
        raise DataError(f"--task {task}: no example has a prefix {wanted!r}")
    return [TextCase(*key, tuple(texts)) for key, texts in gathered.items()]


def evaluate_texts(
    cases: list[TextCase], ask: AskModel, folder: Path, *, task: str
) -> tuple[dict[str, float], int]:
    """Ask everything, score it, and write ``answers.jsonl`` and ``report.json``.

    Args:
        cases: What to ask.
        ask: Takes picture, language and question, gives the text.
        folder: Where the files go.
        task: ``"ask"`` or ``"caption"``.

    Returns:
        The figures by name, and the number of pictures that could not be read.

    Raises:
        DataError: If no picture could be read.
    """
    answers: list[str] = []
    answered: list[TextCase] = []
    with Meter("questions" if task == "ask" else "pictures", len(cases)) as meter:
        for case in cases:
            try:
                answers.append(ask(case.image, case.language, case.question))
                answered.append(case)
            except PgvisionError as error:
                say(f"failed: {error}", style="red")
            meter.advance()
    if not answered:
        raise DataError(f"none of {len(cases)} pictures could be read")
    references = [case.references for case in answered]
    if task == "ask":
        metrics = ("exact", "anls", "count", *(("vqa",) if _ten_each(references) else ()))
        figures = dict(evaluate_answers(answers, references, metrics).metrics)
    else:
        report = evaluate_captions(answers, references)
        figures = {"cider": report.cider, "bleu4": report.bleu4}
    _write(folder, answered, answers, figures)
    return figures, len(cases) - len(answered)


def _ten_each(references: list[tuple[str, ...]]) -> bool:
    return all(len(each) == 10 for each in references)


def _write(
    folder: Path, cases: list[TextCase], answers: list[str], figures: dict[str, float]
) -> None:
    lines = [
        json.dumps(
            {
                "image": str(case.image),
                "question": case.question,
                "answer": answer,
                "references": list(case.references),
            },
            ensure_ascii=False,
        )
        for case, answer in zip(cases, answers, strict=True)
    ]
    write_text(folder / "answers.jsonl", "\n".join(lines) + "\n")
    report = {"num_answers": len(answers), "figures": figures}
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
