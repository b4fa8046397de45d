"""`pgvision train` on the command line: what its words mean."""

from pathlib import Path

import pytest

from pgvision.cli.train import TrainOptions, _places
from pgvision.errors import OptionError


def places(*data, **more):
    return _places(TrainOptions(data=list(data), out=Path("out"), **more))


def test_a_data_set_may_say_its_task_and_its_weight():
    one, two = places("detect=a/b", "c=d.jsonl", weights="2,0.5")
    assert (one.data, one.task, one.weight) == (Path("a/b"), "detect", 2.0)
    assert (two.data, two.task, two.weight) == (Path("c=d.jsonl"), None, 0.5)


def test_folders_and_parts_are_those_of_the_one_data_set():
    words = {
        "images": Path("pictures"), "split": "all", "valid": Path("v.json"),
        "valid_images": Path("others"),
    }  # fmt: skip
    (one,) = places("a.json", **words)
    assert {name: getattr(one, name) for name in words} == words


@pytest.mark.parametrize(
    ("data", "more", "told"),
    [
        (("a", "b"), {"weights": "2"}, "1 for 2 data sets"),
        (("a", "b"), {"weights": "2;1"}, "expected numbers such as 2,1"),
        (("a", "b"), {"weights": "2,0"}, "expected more than 0"),
        (("a", "b"), {"valid": Path("c")}, "for one DATASET"),
        (("a", "b"), {"valid_images": Path("c")}, "for one DATASET"),
        (("a",), {"valid_images": Path("c")}, "name valid"),
        (("mix=a",), {}, "expected one of detect"),
    ],
)
def test_words_that_contradict_themselves_are_refused(data, more, told):
    with pytest.raises(OptionError, match=told):
        places(*data, **more)


def test_each_data_set_is_named_with_its_task(run, tmp_path):
    ran = run(
        "train", "segment=a", "b.jsonl", "--task", "mix", "--steps", 1, "--out", tmp_path / "o"
    )
    assert ran.code == 1  # there is no a
    assert "a: segment, drawn 1 times" in ran.err and "b.jsonl: ask, drawn 1 times" in ran.err
