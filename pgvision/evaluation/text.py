"""Text metrics: answers (exact, ANLS, relaxed, count, VQA) and reading (CER, WER)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from rapidfuzz.distance import Levenshtein

from pgvision.errors import EvaluationError, OptionError
from pgvision.evaluation.vqa import NUMBER_WORDS, vqa_accuracy

Metric = Literal["vqa", "exact", "anls", "relaxed", "count"]
_COUNTS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the answer equals a reference, case and outer spaces aside; else 0.0.

    Example:
        >>> exact_match(" Red", ["red", "blue"])
        1.0
    """
    return float(_folded(answer) in {_folded(reference) for reference in references})


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one answer (DocVQA).

    Returns:
        The best over references of 1 - distance / longer length, and 0 where that is 0.5 or less.
        Case and runs of spaces do not count.

    Source:
        Biten et al. 2019 (arXiv 1907.00490), equation 1; the fold of case and spaces is that of
        the DocVQA challenge.

    Example:
        >>> anls("helmets", ["helmet"])
        0.8571428571428572
    """
    given = _folded(answer)
    alike = (Levenshtein.normalized_similarity(given, _folded(text)) for text in references)
    best = max(alike, default=0.0)
    return best if best > 0.5 else 0.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def relaxed_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if a number is within 5 per cent of a reference, or words are equal (ChartQA).

    A reference of 0 must be met exactly; ``12%`` is 0.12.

    Source:
        Masry et al. 2022 (arXiv 2203.10244), section 5.1; google-research/big_vision,
        evaluators/proj/paligemma/transfers/chartqa.py.

    Example:
        >>> relaxed_match("104", ["100"]), relaxed_match("106", ["100"])
        (1.0, 0.0)
    """
    return float(any(_relaxed(answer.strip(), reference.strip()) for reference in references))


def _relaxed(answer: str, reference: str) -> bool:
    given, wanted = _to_number(answer), _to_number(reference)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= 0.05
    return answer == reference


def _to_number(text: str) -> float | None:
    try:
        number = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def count_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the count is the same, in digits or words up to twenty (TallyQA).

    Source:
        google-research/big_vision, evaluators/proj/paligemma/transfers/tallyqa.py.

    Example:
        >>> count_match("Three", ["3"])
        1.0
    """
    return float(_count(answer) in {_count(reference) for reference in references})


def _count(text: str) -> str:
    folded = _folded(text)
    return _COUNTS.get(folded, folded)


_METRICS: Mapping[Metric, Callable[[str, Sequence[str]], float]] = {
    "vqa": vqa_accuracy,
    "exact": exact_match,
    "anls": anls,
    "relaxed": relaxed_match,
    "count": count_match,
}


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """Means of text metrics.

    Attributes:
        metrics: Mean of each metric asked for, in [0, 1].
        per_answer: The values of each metric, in the order given.
        num_answers: Answers.
    """

    metrics: dict[str, float]
    per_answer: dict[str, tuple[float, ...]]
    num_answers: int


def evaluate_answers(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[Metric] = ("exact",),
) -> TextReport:
    """Score answers to questions.

    Args:
        answers: ``n`` answers.
        references: ``n`` lists of accepted answers; ten each for ``"vqa"``.
        metrics: Any of ``"vqa"``, ``"exact"``, ``"anls"``, ``"relaxed"``, ``"count"``.

    Returns:
        The means, and each answer's values.

    Raises:
        EvaluationError: If there are no answers, the lengths differ, a reference list is empty,
            or something is not text.
        OptionError: If a metric is unknown.

    Example:
        >>> evaluate_answers(["2", "red"], [["two"], ["red"]], ["exact", "count"]).metrics
        {'exact': 0.5, 'count': 1.0}
    """
    require_texts(answers, references)
    for metric in metrics:
        if metric not in _METRICS:
            raise OptionError(
                f"metrics: expected any of {', '.join(get_args(Metric))}, got {metric!r}. "
                "Fix: captions are scored by evaluate_captions."
            )
    values = {
        metric: tuple(
            _METRICS[metric](answer, accepted)
            for answer, accepted in zip(answers, references, strict=True)
        )
        for metric in metrics
    }
    return TextReport(
        metrics={metric: float(np.mean(each)) for metric, each in values.items()},
        per_answer={str(metric): each for metric, each in values.items()},
        num_answers=len(answers),
    )


@dataclass(frozen=True, kw_only=True)
class ReadingReport:
    """Metrics of read text (OCR), over all texts together.

    Attributes:
        cer: Character error rate: edits over characters of the references. It may exceed 1.
        wer: Word error rate: edits over words of the references.
        exact: Share of texts that equal their reference.
        per_text: ``(characters edited, words edited)`` of each text.
        num_texts: Texts.
    """

    cer: float
    wer: float
    exact: float
    per_text: tuple[tuple[int, int], ...]
    num_texts: int


def evaluate_reading(
    texts: Sequence[str], references: Sequence[str], *, fold: bool = False
) -> ReadingReport:
    """Score read texts by character and word error rate.

    Args:
        texts: ``n`` texts. Runs of blanks and line breaks count as one blank.
        references: ``n`` true texts.
        fold: Whether case is ignored.

    Raises:
        EvaluationError: If there are none, the lengths differ, something is not text, or all
            references are empty.

    Source:
        Morris et al. 2004, From WER and RIL to MER and WIL (Interspeech), equation 1.

    Example:
        >>> report = evaluate_reading(["STOP here"], ["STOP there"])
        >>> report.cer, report.wer
        (0.1, 0.5)
    """
    require_texts(texts, [[reference] for reference in references])
    edits, characters, words = [], 0, 0
    for text, reference in zip(texts, references, strict=True):
        given, wanted = (" ".join((t.lower() if fold else t).split()) for t in (text, reference))
        distance = Levenshtein.distance(given, wanted)
        edits.append((distance, Levenshtein.distance(given.split(), wanted.split())))
        characters += len(wanted)
        words += len(wanted.split())
    if not characters:
        raise EvaluationError(
            "references: all are empty, so that no error rate is defined. Fix: leave them out."
        )
    return ReadingReport(
        cer=sum(each for each, _ in edits) / characters,
        wer=sum(each for _, each in edits) / words,
        exact=sum(each == 0 for each, _ in edits) / len(edits),
        per_text=tuple(edits),
        num_texts=len(edits),
    )


def require_texts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Check that there is a list of references for each text.

    Raises:
        EvaluationError: If there are none, lengths differ, or something is not text.
    """
    if isinstance(answers, str) or not len(answers) or len(answers) != len(references):
        raise EvaluationError(
            f"answers: expected as many texts as reference lists, at least one, got {len(answers)} "
            f"and {len(references)}. Fix: pair every answer with its references."
        )
    for index, (answer, accepted) in enumerate(zip(answers, references, strict=True)):
        bad = [text for text in (answer, *accepted) if not isinstance(text, str)]
        if isinstance(accepted, str) or not len(accepted) or bad:
            raise EvaluationError(
                f"references[{index}]: expected a text and a list of at least one text, got "
                f"{answer!r:.40} and {accepted!r:.60}. Fix: wrap a single reference in a list."
            )
