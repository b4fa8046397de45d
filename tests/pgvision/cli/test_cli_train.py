"""`pgvision train` on the command line: what its words mean."""

from pathlib import Path

import pytest

from pgvision.cli.train import Places, data_sources
from pgvision.errors import OptionError


def sources(*data, has_config=False, **more):
    return data_sources(list(data), Places(**more), has_config=has_config)


def test_a_data_set_may_say_its_task():
    one, two = sources("detect=a/b", "c=d.jsonl")
    assert (one.data, one.task) == (Path("a/b"), "detect")
    assert (two.data, two.task) == (Path("c=d.jsonl"), None)


def test_folders_and_parts_are_those_of_the_one_data_set():
    words = {
        "images": Path("pictures"), "split": "all", "valid": Path("v.json"),
        "valid_images": Path("others"),
    }  # fmt: skip
    (one,) = sources("a.json", **words)
    assert {name: getattr(one, name) for name in words} == words


def test_the_data_sets_may_be_those_of_a_file():
    assert sources(has_config=True) is None


@pytest.mark.parametrize(
    ("data", "more", "told"),
    [
        (("a", "b"), {"valid": Path("c")}, "for one DATASET"),
        (("a", "b"), {"valid_images": Path("c")}, "for one DATASET"),
        (("a", "b"), {"images": Path("c")}, "for one DATASET"),
        (("a", "b"), {"split": "all"}, "for one DATASET"),
        (("a",), {"valid_images": Path("c")}, "give valid"),
        (("mix=a",), {}, "task: expected 'detect' or 'segment'"),
        ((), {}, "name a data set"),
        ((), {"has_config": True, "valid": Path("c")}, "for one DATASET"),
    ],
)
def test_words_that_contradict_themselves_are_refused(data, more, told):
    with pytest.raises(OptionError, match=told):
        sources(*data, **more)


@pytest.mark.parametrize("words", [["helmet"], ["=helmet"], ["helmet="]])
def test_a_rename_names_both(run, tmp_path, words):
    ran = run("train", "a", "--out", tmp_path / "o", "--steps", 1, "--rename", *words)
    assert ran.code == 2
    assert "--rename: expected CLASS=NAME" in ran.err


def test_a_data_set_that_is_not_there_is_named(run, tmp_path):
    out = tmp_path / "o"
    for task in ("segment=", ""):
        ran = run(
            "train", f"{task}{tmp_path / 'a'}", "b.jsonl", "--task", "mix",
            "--steps", 1, "--out", out,
        )  # fmt: skip
        assert ran.code == 1
        assert f"{tmp_path / 'a'}: no such file or folder" in ran.err
        assert not out.exists()
