"""CIDEr-D and BLEU-4 of captions, without Java."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pgvision.evaluation.text import require_texts

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
