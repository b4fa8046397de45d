"""Text metrics: answers (exact, ANLS, count, VQA), reading (CER, WER), captions (CIDEr-D, BLEU-4).

The VQA challenge's normalisation is that of its code, quirks included.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from rapidfuzz.distance import Levenshtein

from pgvision.errors import EvaluationError, OptionError

Metric = Literal["vqa", "exact", "anls", "count"]
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty".split()
)
# The official table ends at ten.
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS[:11])} | {"none": "0"}
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
_COUNTS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
Ngram = tuple[str, ...]
_ORDERS = 4
_SIGMA = 6.0
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))(?!\w)")
# Words that the Penn Treebank splits in two.
_SPLIT = re.compile(
    r"\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|(more)('n))\b|('t)(is|was)\b"
)
_TOKEN = re.compile(
    r"n't(?!\w)|'(?:s|m|d|ll|re|ve|n|t)(?!\w)|\w+(?:[-.,/&]\w+)*|[$%#@&+*=<>^~|]", re.UNICODE
)


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


_METRICS: Mapping[Metric, Callable[[str, Sequence[str]], float]] = {
    "vqa": vqa_accuracy,
    "exact": exact_match,
    "anls": anls,
    "count": count_match,
}


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """Means of text metrics.

    Attributes:
        metrics: Mean of each metric asked for, in [0, 1].
        num_answers: Answers.
    """

    metrics: dict[str, float]
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
        metrics: Any of ``"vqa"``, ``"exact"``, ``"anls"``, ``"count"``.

    Returns:
        The means.

    Raises:
        EvaluationError: If there are no answers, the lengths differ, a reference list is empty,
            or something is not text.
        OptionError: If a metric is unknown.

    Example:
        >>> evaluate_answers(["2", "red"], [["two"], ["red"]], ["exact", "count"]).metrics
        {'exact': 0.5, 'count': 1.0}
    """
    # 1. Check the inputs.
    require_texts(answers, references)
    unknown = [metrics] if isinstance(metrics, str) else [m for m in metrics if m not in _METRICS]
    if unknown or not metrics:
        raise OptionError(
            f"metrics: expected a list of any of {', '.join(get_args(Metric))}, got "
            f"{(unknown or [metrics])[0]!r}. Fix: captions are scored by evaluate_captions."
        )
    # 2. Score each answer by each metric.
    pairs = list(zip(answers, references, strict=True))
    return TextReport(
        metrics={
            name: float(np.mean([_METRICS[name](*pair) for pair in pairs])) for name in metrics
        },
        num_answers=len(answers),
    )


@dataclass(frozen=True, kw_only=True)
class ReadingReport:
    """Metrics of read text (OCR), over all texts together.

    Attributes:
        cer: Character error rate: edits over characters of the references. It may exceed 1.
        wer: Word error rate: edits over words of the references.
        exact: Share of texts that equal their reference.
        num_texts: Texts.
    """

    cer: float
    wer: float
    exact: float
    num_texts: int


def evaluate_reading(texts: Sequence[str], references: Sequence[str]) -> ReadingReport:
    """Score read texts by character and word error rate.

    Args:
        texts: ``n`` texts. Runs of blanks and line breaks count as one blank.
        references: ``n`` true texts.

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
    require_texts(texts, references if isinstance(references, str) else [[r] for r in references])
    # 1. Runs of blanks count as one.
    pairs = [
        (text.split(), reference.split()) for text, reference in zip(texts, references, strict=True)
    ]
    lines = [(" ".join(given), " ".join(wanted)) for given, wanted in pairs]
    characters = sum(len(wanted) for _, wanted in lines)
    if not characters:
        raise EvaluationError(
            "references: all are empty, so that no error rate is defined. Fix: leave them out."
        )
    # 2. Rates over all references together, as papers have them.
    words = sum(len(wanted) for _, wanted in pairs)
    return ReadingReport(
        cer=sum(Levenshtein.distance(*line) for line in lines) / characters,
        wer=sum(Levenshtein.distance(*pair) for pair in pairs) / words,
        exact=sum(given == wanted for given, wanted in lines) / len(lines),
        num_texts=len(lines),
    )


def require_texts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Check that there is a list of references for each text.

    Raises:
        EvaluationError: If there are none, lengths differ, or something is not text.
    """
    # 1. As many lists as texts; one text would count as a list of letters.
    is_text = isinstance(answers, str) or isinstance(references, str)
    if is_text or not len(answers) or len(answers) != len(references):
        raise EvaluationError(
            f"answers: expected as many texts as reference lists, at least one, got {len(answers)} "
            f"and {len(references)}. Fix: pair every answer with its references."
        )
    # 2. Nothing but text in them.
    for index, (answer, accepted) in enumerate(zip(answers, references, strict=True)):
        bad = [text for text in (answer, *accepted) if not isinstance(text, str)]
        if isinstance(accepted, str) or not len(accepted) or bad:
            raise EvaluationError(
                f"references[{index}]: expected a text and a list of at least one text, got "
                f"{answer!r:.40} and {accepted!r:.60}. Fix: wrap a single reference in a list."
            )


@dataclass(frozen=True, kw_only=True)
class CaptionReport:
    """Metrics of captions.

    Attributes:
        cider: CIDEr-D over the corpus, 0 to 10 (papers often print it times 100).
        bleu4: Corpus BLEU-4, 0 to 1.
        per_caption: CIDEr-D of each caption.
        num_captions: Captions.
    """

    cider: float
    bleu4: float
    per_caption: tuple[float, ...]
    num_captions: int


def evaluate_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> CaptionReport:
    """Score one caption per image against its references.

    Words are split by :func:`caption_words` instead of coco-caption's Java tokenizer: the rules are
    those of the Penn Treebank; texts with unusual punctuation may differ in the last digits.

    Args:
        captions: ``n`` captions.
        references: ``n`` lists of reference captions.

    Returns:
        The metrics. CIDEr weighs words by how rare they are in these references, so that it needs
        the whole split at once; with a single image it is 0.

    Raises:
        EvaluationError: If there are none, lengths differ, or something is not text.

    Example:
        >>> report = evaluate_captions(
        ...     ["a red cat on a mat", "two dogs run in the park"],
        ...     [["a red cat on a mat"], ["two dogs run in the park"]])
        >>> round(report.cider, 6), round(report.bleu4, 6)
        (10.0, 1.0)
    """
    require_texts(captions, references)
    # Document frequencies need all references before the first score.
    words = [caption_words(caption) for caption in captions]
    known = [[caption_words(text) for text in texts] for texts in references]
    each = cider_d(words, known)
    return CaptionReport(
        cider=math.fsum(each) / len(each),
        bleu4=corpus_bleu(words, known),
        per_caption=tuple(each),
        num_captions=len(each),
    )


def caption_words(text: str) -> list[str]:
    """Split a caption into lower-case words as the Penn Treebank does, without punctuation.

    Example:
        >>> caption_words("The man's T-shirt isn't red, he cannot see it.")
        ['the', 'man', "'s", 't-shirt', 'is', "n't", 'red', 'he', 'can', 'not', 'see', 'it']
    """
    apart = _CONTRACTION.sub(r" \1", text.lower().replace("\u2019", "'"))
    apart = _SPLIT.sub(lambda match: " ".join(filter(None, match.groups())), apart)
    return _TOKEN.findall(apart)


def _ngrams(words: Sequence[str], order: int) -> Counter[Ngram]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def corpus_bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """Corpus BLEU-4: clipped n-gram precisions 1 to 4, geometric mean, brevity penalty.

    Args:
        candidates: ``n`` lists of words.
        references: ``n`` lists of reference lists of words.

    Returns:
        BLEU in [0, 1]; 0 where an order has no match. The reference length is the closest to each
        candidate's, the shorter of two equally close.

    Source:
        Papineni et al. 2002 (ACL P02-1040), as in coco-caption's bleu_scorer.

    Example:
        >>> corpus_bleu([["the", "cat", "sat", "down"]], [[["the", "cat", "sat", "down"]]])
        1.0
    """
    matched, offered = [0] * _ORDERS, [0] * _ORDERS
    length = wanted = 0
    for words, known in zip(candidates, references, strict=True):
        length += len(words)
        # Brevity penalty: the length of the closest reference.
        wanted += min((abs(len(text) - len(words)), len(text)) for text in known)[1]
        for order in range(1, _ORDERS + 1):
            # Clip the counts by the maximum of any one reference.
            most: Counter[Ngram] = Counter()
            for text in known:
                most |= _ngrams(text, order)
            mine = _ngrams(words, order)
            matched[order - 1] += (mine & most).total()
            offered[order - 1] += mine.total()
    if not all(matched):
        return 0.0
    mean = sum(math.log(m / o) for m, o in zip(matched, offered, strict=True)) / _ORDERS
    return math.exp(mean + min(0.0, 1 - wanted / length))


def cider_d(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[float]:
    """CIDEr-D of each candidate: tf-idf cosine of n-grams 1 to 4, clipped, with a length penalty.

    Args:
        candidates: ``n`` lists of words.
        references: ``n`` lists of reference lists of words; document frequencies are theirs.

    Returns:
        ``n`` values, 0 to 10.

    Source:
        Vedantam et al. 2015 (arXiv 1411.5726), section 8, with the constants and counts of
        coco-caption's cider_scorer (sigma 6, length in bigrams, raw counts as term frequency).

    Example:
        >>> cider_d([["a", "cat"]], [[["a", "cat"]]])
        [0.0]
    """
    # 1. In how many images' references each n-gram occurs.
    frequency: Counter[Ngram] = Counter()
    for known in references:
        frequency.update({
            gram for text in known for order in range(1, 5) for gram in _ngrams(text, order)
        })  # fmt: skip
    # 2. Compare each candidate with each of its references.
    log_images = math.log(len(references))
    scores = []
    for words, known in zip(candidates, references, strict=True):
        mine, total = _weigh(words, frequency, log_images), 0.0
        for text in known:
            # coco-caption counts bigrams for the length.
            apart = max(0, len(words) - 1) - max(0, len(text) - 1)
            penalty = math.exp(-(apart**2) / (2 * _SIGMA**2))
            total += penalty * _similarity(mine, _weigh(text, frequency, log_images))
        scores.append(10 * total / len(known))
    return scores


def _weigh(
    words: Sequence[str], frequency: Counter[Ngram], log_images: float
) -> list[dict[Ngram, float]]:
    """Return the TF-IDF weights of n-grams, for each order."""
    orders = (_ngrams(words, order).items() for order in range(1, _ORDERS + 1))
    return [
        {gram: count * (log_images - math.log(max(1, frequency[gram]))) for gram, count in grams}
        for grams in orders
    ]


def _similarity(mine: list[dict[Ngram, float]], theirs: list[dict[Ngram, float]]) -> float:
    """Return the mean over orders of the clipped cosine."""
    total = 0.0
    for own, other in zip(mine, theirs, strict=True):
        squares = (sum(weight * weight for weight in side.values()) for side in (own, other))
        norms = math.prod(map(math.sqrt, squares))
        common = own.keys() & other.keys()
        if norms:
            total += math.fsum(min(own[gram], other[gram]) * other[gram] for gram in common) / norms
    return total / _ORDERS
