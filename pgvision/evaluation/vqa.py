"""The VQA challenge's normalisation of answers, quirks included, and its accuracy."""

import re
from collections.abc import Sequence

from pgvision.errors import EvaluationError

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty".split()
)
# The official table ends at ten.
_NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS[:11])} | {"none": "0"}
# The official table maps each of these with one apostrophe left out to the whole word, but has
# somebody'd the wrong way round.
_CONTRACTIONS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've
you'd've
""".split()
_REPLACED = (
    {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTIONS
        for place, letter in enumerate(word)
        if letter == "'"
    }
    | {"somebody'd": "somebodyd"}
    | _NUMBERS
)
_DIGIT_COMMA = re.compile(r"\d,\d")
# The lookbehind is misspelt in the official code (it tests for the characters "<="), so a full
# stop goes wherever no digit follows it; published figures depend on it.
_FULL_STOP = re.compile(r"(?!<=\d)(\.)(?!\d)")


def normalize_vqa(answer: str) -> str:
    """Normalise an answer as the VQA challenge does: punctuation, case, numbers, articles.

    Source:
        GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, processPunctuation and
        processDigitArticle.

    Example:
        >>> normalize_vqa("The two dogs, dont!")
        "2 dogs don't"
    """
    drop_all = _DIGIT_COMMA.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        at_edge = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if at_edge or drop_all else " ")
    words = _FULL_STOP.sub("", text).lower().split()
    return " ".join(_REPLACED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Accuracy of one answer: how many of the people agree, averaged over leaving each one out.

    Args:
        answer: The model's answer.
        references: The people's answers, ten in VQA; at least four.

    Returns:
        Mean over all leave-one-out sets of min(1, agreeing / 3). Answers are normalised only if
        the people disagree, as in the official evaluation.

    Raises:
        EvaluationError: With fewer than four references: three others must be able to agree.

    Source:
        GT-Vision-Lab/VQA, vqaEval.py, evaluate; https://visualqa.org/evaluation.html.

    Example:
        >>> vqa_accuracy("2", ["2"] * 3 + ["3"] * 7)
        0.9
    """
    if isinstance(references, str) or len(references) < 4:
        raise EvaluationError(
            f"references: expected 10 answers (at least 4) per question, got {references!r:.60}. "
            "Fix: use exact_match for questions with one answer."
        )
    # Official code: unanimous answers are compared without normalisation.
    given = _spaced(answer)
    people = [_spaced(reference) for reference in references]
    if len(set(people)) > 1:
        given = normalize_vqa(given)
        people = [normalize_vqa(reference) for reference in people]
    agreeing = people.count(given)
    # Average over leaving out each of the people: min(agreeing others / 3, 1).
    left_out_agreeing = agreeing * min(3, agreeing - 1) if agreeing else 0
    total = left_out_agreeing + (len(people) - agreeing) * min(3, agreeing)
    return total / (3 * len(people))


def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
