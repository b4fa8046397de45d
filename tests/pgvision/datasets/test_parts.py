"""Parts are recognised by words, a test part is never learnt from, and doubt is an error."""

import pytest

from pgvision.datasets.reading import find_split, part_of, training_part, validation_part
from pgvision.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("_annotations.train", "train"),
        ("instances_train2017", "train"),
        ("data_train90", "train"),
        ("TrainSet", "train"),
        ("my-training-data", "train"),
        ("helmets_val", "valid"),
        ("Validation", "valid"),
        ("instances_minival2014", "valid"),
        ("b.test", "test"),
        ("test-dev2017", "test"),
        ("latest", None),
        ("constraint", None),
        ("trains", None),
        ("interval", None),
        ("a_train_and_val", None),
        ("instances", None),
    ],
)
def test_a_word_of_the_name_is_the_part(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("names", "train", "valid"),
    [
        (["test", "train", "valid"], "train", "valid"),
        (["a_test", "b_train"], "b_train", "a_test"),
        (["instances_train2017", "instances_val2017"], "instances_train2017", "instances_val2017"),
        (["helmets", "helmets_test"], "helmets", "helmets_test"),
        (["helmets"], "helmets", None),
        (["valid"], "valid", None),
    ],
)
def test_what_is_learnt_from_and_validated_on(names, train, valid):
    for order in (names, names[::-1]):
        assert training_part(order, source="x") == train
        assert validation_part(order, source="x", beside=train) == valid


@pytest.mark.parametrize(
    "names", [["test"], ["a", "b"], ["a_train", "b_train"], ["test", "valid"], ["a", "b", "test"]]
)
def test_what_cannot_be_decided_is_listed_and_never_the_first_by_alphabet(names):
    with pytest.raises(DataError, match=f"{', '.join(names)}.*split"):
        training_part(names, source="x")


def test_evaluation_takes_the_validation_part_or_the_only_one():
    assert validation_part(["train", "val", "test"], source="x") == "val"
    assert validation_part(["train", "test"], source="x") == "test"
    assert validation_part(["train"], source="x") == "train"
    with pytest.raises(DataError, match="a, b"):
        validation_part(["a", "b"], source="x")
    with pytest.raises(DataError, match="a_val, b_val"):
        validation_part(["a_val", "b_val"], source="x", beside="train")


def test_a_split_is_named_whole_or_by_its_words():
    names = ["instances_train2017", "instances_val2017", "keypoints_val2014"]
    assert find_split(names, "val2017", source="x") == "instances_val2017"
    assert find_split(names, "train", source="x") == "instances_train2017"
    assert find_split(["valid", "train"], "val", source="x") == "valid"
    with pytest.raises(OptionError, match="several that fit: instances_val2017, keypoints_val2014"):
        find_split(names, "val", source="x")
    for unknown in ("test", "al2017", ""):
        with pytest.raises(OptionError, match="x has instances_train2017"):
            find_split(names, unknown, source="x")
    assert training_part(["test", "train"], "test", source="x") == "test"
