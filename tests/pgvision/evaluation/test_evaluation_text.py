"""Text metrics against published examples, hand counts and slow second implementations."""

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.errors import EvaluationError, OptionError
from pgvision.evaluation import (
    evaluate_answers,
    evaluate_captions,
    evaluate_reading,
    vqa_accuracy,
)
from pgvision.evaluation.text import (
    anls,
    caption_words,
    cider_d,
    corpus_bleu,
    count_match,
    exact_match,
    normalize_vqa,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("the red-ish ball", "red ish ball"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("wouldve", "would've"),
        ("oughtnt", "oughtn't"),
        ("youd've", "you'd've"),
        ("you'dve", "you'd've"),
        ("1,000", "1000"),
        ("10.5", "10.5"),
        ("u.s.", "us"),
        ("yes, it is", "yes it is"),
        ("a/b", "b"),  # the slash becomes a space, and "a" is an article
        ("An Apple", "apple"),
    ],
)
def test_vqa_normalisation(text, expected):
    assert normalize_vqa(text) == expected


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_vqa_accuracy_is_the_published_table(agreeing, expected):
    # https://visualqa.org/evaluation.html
    people = ["yes"] * agreeing + ["no"] * (10 - agreeing)
    assert vqa_accuracy("Yes", people) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=10, max_size=10), st.sampled_from("abcd"))
def test_vqa_accuracy_is_the_mean_over_leaving_one_out(people, answer):
    people, answer = [f"x{p}" for p in people], f"x{answer}"
    each = []
    for out in range(10):
        others = people[:out] + people[out + 1 :]
        each.append(min(1, sum(other == answer for other in others) / 3))
    assert vqa_accuracy(answer, people) == pytest.approx(sum(each) / 10)


def test_vqa_answers_are_left_alone_when_all_people_agree():
    assert vqa_accuracy("the cat", ["the cat"] * 10) == 1
    assert vqa_accuracy("cat", ["the cat"] * 10) == 0
    assert vqa_accuracy("cat", ["the cat"] * 9 + ["dog"]) == 1
    with pytest.raises(EvaluationError, match="at least 4"):
        vqa_accuracy("cat", ["cat"])


def test_simple_metrics():
    assert exact_match("Stop ", ["stop"]) == 1
    assert anls("Helmet  on", ["helmet on"]) == 1
    assert anls("abcd", ["abxy"]) == 0  # half of it is wrong: at the threshold, so 0
    assert anls("abc", ["abx"]) == pytest.approx(2 / 3)
    assert anls("", [""]) == 1
    assert count_match("Twelve", ["12"]) == 1
    assert count_match("13", ["12"]) == 0


@settings(max_examples=60, deadline=None)
@given(st.text("ab ", max_size=6), st.text("ab ", min_size=1, max_size=6).filter(str.strip))
def test_error_rates_are_the_recursive_definition(given_text, reference):
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return distance(a[1:], b[1:])
        return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))

    text, wanted = (" ".join(each.split()) for each in (given_text, reference))
    report = evaluate_reading([given_text], [reference])
    assert report.cer == pytest.approx(distance(text, wanted) / len(wanted))
    words = distance(text.split(), wanted.split())
    assert report.wer == pytest.approx(words / len(wanted.split()))


def test_error_rates_are_over_all_texts_together():
    report = evaluate_reading(["abcd", "x"], ["abcd", "yyyyyy"])
    assert (report.cer, report.wer, report.exact) == (6 / 10, 1 / 2, 1 / 2)
    assert evaluate_reading(["STOP"], ["stop"]).cer == 1
    assert evaluate_reading(["a b c"], ["a"]).wer == 2  # it may exceed 1
    for texts, references in (([], []), (["a"], [""]), (["a"], ["a", "b"]), ([1], ["a"])):
        with pytest.raises(EvaluationError, match="Fix:"):
            evaluate_reading(texts, references)


def test_long_texts_take_no_time():
    one, other = "lorem ipsum dolor sit amet " * 80, "lorem ipsum dolor sat amet " * 80
    start = time.process_time()
    assert anls(one, [other]) == pytest.approx(1 - 80 / (27 * 80 - 1))
    assert time.process_time() - start < 0.2


def test_evaluate_answers_means_and_refusals():
    report = evaluate_answers(["2", "5 %"], [["two"], ["5%"]], ["count", "anls"])
    assert report.metrics["count"] == 0.5
    assert report.metrics["anls"] == pytest.approx(1 / 3)
    assert report.num_answers == 2
    for answers, references in (
        ([], []),
        (["a"], []),
        (["a"], ["a"]),
        (["a"], [[]]),
        ([1], [["a"]]),
    ):
        with pytest.raises(EvaluationError, match="Fix:"):
            evaluate_answers(answers, references)
    with pytest.raises(OptionError, match="'bleu'"):
        evaluate_answers(["a"], [["a"]], ["bleu"])


# The example of NLTK's documentation (nltk.translate.bleu_score), after Papineni et al. 2002,
# with the values printed there.
CANDIDATES = [
    "It is a guide to action which ensures that the military always obeys the commands of "
    "the party",
    "he read the book because he was interested in world history",
]
REFERENCES = [
    [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the "
        "command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ],
    ["he was interested in world history because he read the book"],
]


def test_bleu_is_the_published_value():
    words = [text.split() for text in CANDIDATES]
    known = [[text.split() for text in texts] for texts in REFERENCES]
    assert corpus_bleu(words[:1], known[:1]) == pytest.approx(0.5045666840058485, abs=1e-12)
    assert corpus_bleu(words, known) == pytest.approx(0.5920778868801042, abs=1e-12)


def test_bleu_brevity_and_no_match():
    assert corpus_bleu([list("abcd")], [[list("abcdefgh")]]) == pytest.approx(math.exp(-1))
    assert corpus_bleu([list("abc")], [[list("abc")]]) == 0  # no 4-gram
    assert corpus_bleu([[]], [[["a"]]]) == 0
    # of two equally close references the shorter counts: no penalty
    both = [list("abcd"), list("abcdef")]
    assert corpus_bleu([list("abcde")], [both]) == pytest.approx(1.0)
    # what is said twice counts once where the reference has it once: 4, 3, 2 and 1 n-grams
    twice = 4 / 8 * 3 / 7 * 2 / 6 * 1 / 5
    assert corpus_bleu([list("abcdabcd")], [[list("abcd")]]) == pytest.approx(twice**0.25)
    # the closest reference counts, not the shortest: 8 words beside 10, not beside 4
    far = [list("abcd"), list("abcdefghij")]
    assert corpus_bleu([list("abcdefgh")], [far]) == pytest.approx(math.exp(1 - 10 / 8))


def slow_cider_d(candidates, references):
    """CIDEr-D from the paper: vectors over all n-grams that occur, one formula after another."""
    scores = []
    for words, texts in zip(candidates, references, strict=True):
        by_order = []
        for n in range(1, 5):
            grams = lambda text, n=n: [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]  # noqa: E731
            space = sorted({g for image in references for t in image for g in grams(t)}
                           | set(grams(words)))  # fmt: skip
            seen = np.array([sum(any(g in grams(t) for t in image) for image in references)
                             for g in space])  # fmt: skip
            idf = np.log(len(references) / np.maximum(1, seen))
            vector = lambda text: np.array([Counter(grams(text))[g] for g in space]) * idf  # noqa: B023, E731
            total = 0.0
            for text in texts:
                c, s = vector(words), vector(text)
                norm = np.linalg.norm(c) * np.linalg.norm(s)
                gap = max(0, len(words) - 1) - max(0, len(text) - 1)
                if norm:
                    total += math.exp(-(gap**2) / 72) * np.minimum(c, s) @ s / norm
            by_order.append(10 * total / len(texts))
        scores.append(sum(by_order) / 4)
    return scores


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cider_is_the_papers_formula(data):
    caption = st.lists(st.sampled_from("abcde"), min_size=0, max_size=8)
    count = data.draw(st.integers(1, 4))
    candidates = [data.draw(caption) for _ in range(count)]
    references = [data.draw(st.lists(caption, min_size=1, max_size=3)) for _ in range(count)]
    assert cider_d(candidates, references) == pytest.approx(
        slow_cider_d(candidates, references), abs=1e-9
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("he cannot", "he can not"),
        ("gonna wanna gotta", "gon na wan na got ta"),
        ("gimme, lemme", "gim me lem me"),
        ("'tis and 'twas", "'t is and 't was"),
        ("more'n two", "more 'n two"),
        ("salt & pepper + oil", "salt & pepper + oil"),
        ("a 3*4 grid = 12", "a 3 * 4 grid = 12"),
        ("madonna, cannoth", "madonna cannoth"),
    ],
)
def test_words_are_split_as_the_penn_treebank_does(text, words):
    # https://catalog.ldc.upenn.edu/docs/LDC99T42/tokenizer.sed: cannot, gonna, 'tis and others.
    assert caption_words(text) == words.split()


def test_captions_as_people_write_them():
    assert caption_words("A worker's hard-hat (yellow) -- isn\u2019t it?") == [
        "a", "worker", "'s", "hard-hat", "yellow", "is", "n't", "it"
    ]  # fmt: skip
    report = evaluate_captions(
        ["A man rides a horse.", "two dogs"], [["a man rides a horse"], ["a cat sleeps here"]]
    )
    assert report.num_captions == 2
    assert report.per_caption == pytest.approx((10.0, 0.0))
    assert report.cider == pytest.approx(5.0)
    with pytest.raises(EvaluationError, match="wrap a single reference"):
        evaluate_captions(["a"], ["a"])


def test_reading_is_scored_against_a_list_of_texts():
    with pytest.raises(EvaluationError, match="pair every answer"):
        evaluate_reading(["a", "b"], "ab")


@pytest.mark.parametrize(("metrics", "got"), [("exact", "'exact'"), ([], r"\[\]"), (["x"], "'x'")])
def test_metrics_are_a_list_of_known_ones(metrics, got):
    with pytest.raises(OptionError, match=f"expected a list of any of .*, got {got}"):
        evaluate_answers(["2"], [["two"]], metrics)
