"""Whose work a checkpoint rests on: nothing that base or data say of it is lost on the way."""

import csv
import json
from pathlib import Path

import pytest

from pgvision.datasets import read_dataset, read_examples
from pgvision.runtime import find_checkpoint
from pgvision.training.finetuning.credits import (
    base_credits,
    credits_told,
    data_credits,
    write_picture_credits,
)
from pgvision.training.finetuning.data import Parts
from pgvision.training.finetuning.exporting import write_model_card
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings

UNKNOWN = "unknown: nothing here says whose work it is; say where it comes from"
SETTINGS = FinetuneSettings(steps=1)


def checkpoint(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in {"config.json": "{}", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def coco(folder: Path, licences: list[object], **more: object) -> Path:
    """Write a file with a picture for each licence id; None: a picture that names none."""
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": 20, "height": 10}
        | ({} if one is None else {"license": one, "flickr_url": f"http://flickr/{number}"})
        for number, one in enumerate(licences)
    ]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]}
    folder.mkdir(exist_ok=True)
    content = {
        "images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}], **more
    }  # fmt: skip
    (folder / "cats.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "cats.json"


def parts(file: Path, valid: Path | None = None) -> Parts:
    data = read_dataset(file)
    held = data if valid is None else read_dataset(valid)
    return Parts(DataPlaces(data=file, valid=valid), data, held, SETTINGS)


CARD = """---
license: cc-by-4.0
---

# Cats

```sh
# Licence of a comment in a shell: no heading
```

## Figures

AP 0.5, by the makers.

## Where it comes from

- Eyes of A. Body (MIT).

### Photographs

- Of B. Body.

## Recipe

1,000 steps.
"""


def test_a_bases_words_are_handed_on_however_often_it_is_tuned(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", **{"README.md": CARD, "NOTICE": "Copyright C. Body"})
    for generation in ("child", "grandchild"):
        told = base_credits(find_checkpoint(base))
        for words in (
            "license: cc-by-4.0", "Eyes of A. Body (MIT)", "Photographs", "Of B. Body",
            "Copyright C. Body",
        ):  # fmt: skip
            assert words in told
        assert "AP 0.5" not in told and "1,000 steps" not in told
        base = checkpoint(tmp_path / generation)
        said = credits_told(find_checkpoint(tmp_path / "base"), [])
        if generation == "grandchild":
            said = credits_told(find_checkpoint(tmp_path / "child"), [])
        write_model_card(base, SETTINGS, told={"title": "a test", "credits": said})


def test_a_long_licence_is_named_and_a_short_one_told_whole(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "a", LICENSE="Apache License\nVersion 2.0\n" + "terms " * 2000)
    told = base_credits(find_checkpoint(base))
    assert "Apache License\nVersion 2.0" in told and "(the whole is in LICENSE)" in told
    assert len(told) < 500
    short = "MIT License\n" + "permission is granted\n" * 50 + "THE END"
    base = checkpoint(tmp_path / "b", LICENSE=short)
    assert short in base_credits(find_checkpoint(base))


def test_what_says_nothing_is_said_to_say_nothing(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", **{"README.md": "# A model\n\nIt is good.\n"})
    assert UNKNOWN in base_credits(find_checkpoint(base))
    file = coco(tmp_path / "data", [None])
    assert data_credits([read_dataset(file)], file) == UNKNOWN


def test_an_adapters_base_and_the_hub_are_credited(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", **{"README.md": CARD})
    config = json.dumps({"base_model_name_or_path": str(base)})
    adapter = checkpoint(tmp_path / "adapter", **{"adapter_config.json": config})
    told = base_credits(find_checkpoint(adapter))
    assert UNKNOWN in told and "Eyes of A. Body" in told.partition("An adapter of")[2]
    google = base_credits(find_checkpoint("google/paligemma2-3b-pt-448"))
    assert "https://huggingface.co/google/paligemma2-3b-pt-448" in google
    assert "https://ai.google.dev/gemma/terms" in google
    assert "gemma" not in base_credits(find_checkpoint("someone/cats-pt"))


def test_cocos_info_licences_and_each_pictures_own_are_told(tmp_path: Path) -> None:
    licences = [
        {"id": 4, "name": "CC BY 2.0", "url": "http://cc/by"},
        {"id": 5, "name": "CC BY-SA 2.0", "url": "http://cc/sa"},
        {"id": 6, "name": "of no picture here"},
    ]
    info = {"description": "Cats of\nthe town", "year": 2017, "contributor": ""}
    file = coco(tmp_path / "data", [4, 4, 5, 7, None], info=info, licenses=licences)
    told = data_credits([read_dataset(file)], file)
    assert told.splitlines() == [
        "- description: Cats of the town",
        "- year: 2017",
        "- licence 4, CC BY 2.0 http://cc/by: 2 pictures",
        "- licence 5, CC BY-SA 2.0 http://cc/sa: 1 pictures",
        "- licence 7, not described in the file: 1 pictures",
        "- no licence named: 1 pictures",
    ]
    out = tmp_path / "out"
    out.mkdir()
    write_picture_credits(out, [parts(file)])
    with (out / "credits.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[0] == ["data", "picture", "licence", "address"]
    assert rows[1:5] == [
        ["cats.json", f"{number}.jpg", licence, f"http://flickr/{number}"]
        for number, licence in enumerate("4457")
    ]


def test_licences_of_a_file_are_told_where_no_picture_names_its_own(tmp_path: Path) -> None:
    file = coco(tmp_path / "data", [None, None], licenses=[{"id": 6, "name": "CC0"}])
    assert data_credits([read_dataset(file)], file) == "- licence 6, CC0"


def test_no_list_of_pictures_where_none_names_a_licence(tmp_path: Path) -> None:
    write_picture_credits(tmp_path, [parts(coco(tmp_path / "data", [None, None]))])
    assert not (tmp_path / "credits.csv").exists()


@pytest.mark.parametrize("info", ["of cats", ["of cats"], None, {"licence": {"a": 1}}])
@pytest.mark.parametrize("licences", ["MIT", [3], [{"id": [1], "url": None}], None])
def test_odd_fields_of_a_file_end_no_run(tmp_path: Path, info: object, licences: object) -> None:
    file = coco(tmp_path / "data", [[1], {"a": 2}, "x"], info=info, licenses=licences)
    assert "licence x, not described in the file: 1 pictures" in data_credits(
        [read_dataset(file)], file
    )


def test_files_beside_the_data_are_read_whatever_the_format(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [cat]\nroboflow:\n  license: CC BY 4.0\n")
    (tmp_path / "README.dataset.txt").write_text("# cats\n\nProvided by D. Body\nLicense: CC0\n")
    (tmp_path / "SOURCE.txt").write_text("Taken from the town's archive.")
    (tmp_path / "licence_plates.txt").write_text("AB-123")
    (tmp_path / "a.jpg").touch()
    line = json.dumps({"image": "a.jpg", "prefix": "caption en", "suffix": "a cat"})
    (tmp_path / "cats.jsonl").write_text(line + "\n")
    told = data_credits([read_examples(tmp_path / "cats.jsonl")], tmp_path / "cats.jsonl")
    for words in ("license: CC BY 4.0", "License: CC0", "Taken from the town's archive."):
        assert words in told
    assert "AB-123" not in told and "names" not in told
    assert told == data_credits([read_examples(tmp_path / "cats.jsonl")], tmp_path)


def test_each_data_set_is_credited_once_and_the_one_to_validate_on_too(tmp_path: Path) -> None:
    one = coco(tmp_path / "one", [None], info={"description": "Cats"})
    other = coco(tmp_path / "other", [None], info={"description": "Other cats"})
    told = credits_told(find_checkpoint("tiny"), [parts(one, other), parts(one, other)])
    assert [line for line in told.splitlines() if line.startswith("#")] == [
        "### Base: tiny",
        "### Data: cats.json",
        "### Data: cats.json, to validate on",
    ]
    assert told.count("Other cats") == 1 and "license: apache-2.0" in told
