"""Splits by hash: an image's part follows from the image alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.datasets import Dataset, ImageRecord, split_by_hash
from pgvision.errors import DataError, OptionError


def dataset(names, folder=Path("none")):
    return Dataset(
        tuple(ImageRecord(n, name, folder / name, (8, 8)) for n, name in enumerate(names)), ()
    )


@pytest.fixture(scope="module", name="val_names")
def val_names_fixture(tmp_path_factory):
    """Names of the validation images among images whose content is their name."""
    folder = tmp_path_factory.mktemp("split")
    files = {}

    def record(number, name):
        if name not in files:
            files[name] = folder / str(len(files))
            files[name].write_text(name)
        return ImageRecord(number, name, files[name], (8, 8))

    def val_names(names, **options):
        images = tuple(record(number, name) for number, name in enumerate(names))
        parts = split_by_hash(Dataset(images, ()), **options)
        assert {i.file_name for part in parts.values() for i in part.images} == set(names)
        return {image.file_name for image in parts["val"].images}

    return val_names


BASE = [f"site/{number:04d}.jpg" for number in range(300)]


@settings(max_examples=30)
@given(st.lists(st.text("abcdef/", min_size=1, max_size=9), unique=True), st.randoms())
def test_more_images_move_no_other(val_names, more, chance):
    grown = BASE + [name for name in more if name not in BASE]
    chance.shuffle(grown)
    assert val_names(grown) & set(BASE) == val_names(BASE)


@settings(max_examples=30)
@given(st.floats(0.1, 0.5), st.floats(0.1, 0.5))
def test_a_larger_share_keeps_what_was_there(val_names, one, other):
    low, high = sorted((one, other))
    assert val_names(BASE, val=low) <= val_names(BASE, val=high)


def test_the_share_is_met(val_names):
    names = [f"{number}.jpg" for number in range(5000)]
    found = val_names(names, val=0.2)
    # Five standard deviations of a binomial: sqrt(5000 x 0.2 x 0.8) = 28.
    assert abs(len(found) - 1000) < 5 * 28.3


def test_copies_under_two_names_stay_together(tmp_path):
    names = []
    for number in range(60):
        for twin in "ab":
            name = f"{number}{twin}.jpg"
            (tmp_path / name).write_bytes(b"picture %d" % number)
            names.append(name)
    val = split_by_hash(dataset(names, tmp_path), val=0.4)["val"]
    kept = {image.file_name for image in val.images}
    assert {name[:-5] + "b.jpg" for name in kept} == {name for name in kept if "b" in name}


def test_bad_options_and_missing_files_are_refused(tmp_path):
    for val in (0, 1, -0.2, 20, float("nan")):
        with pytest.raises(OptionError, match="val="):
            split_by_hash(dataset(BASE), val=val)
    with pytest.raises(DataError, match=r"none.site.0000\.jpg: cannot be read"):
        split_by_hash(dataset(BASE))
    with pytest.raises(DataError, match="would hold none of the 1 images"):
        (tmp_path / "a.jpg").touch()
        split_by_hash(dataset(["a.jpg"], tmp_path))
