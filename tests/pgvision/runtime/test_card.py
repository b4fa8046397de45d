"""What a ``pgvision.json`` may contain beside kind and codec, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from pgvision.errors import CheckpointError, UnknownNameError
from pgvision.runtime import find_checkpoint, weights_digest
from pgvision.runtime.checkpoints import card_of_served
from pgvision.tasks.trained_on import known_classes

CARD = {
    "classes": ["helmet", "head", "vest"],
    "synonyms": {"helmet": ["hard hat", "hardhat"]},
    "thresholds": {"helmet": 0.39, "head": 1},
    "least_presence": {"helmet": 0.9},
    "trained_on": {"helmet": "photographs", "vest": "drawings"},
    "masks_on": {"helmet": "drawings"},
    "locations": "median",
    "text_domain": "drawings",
    "false_alarms": {"portraits": 0.05},
}
BY_CLASS = ("synonyms", "thresholds", "least_presence", "trained_on", "masks_on")


def written(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text("{}")
    (folder / "pgvision.json").write_text(json.dumps({**CARD, **changes}))
    return folder


def test_the_card_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    card = find_checkpoint(written(tmp_path))
    assert card.synonyms == {"helmet": ("hard hat", "hardhat")}
    assert card.thresholds == {"helmet": 0.39, "head": 1.0}
    assert card.least_presence == {"helmet": 0.9}
    assert card.trained_on == {"helmet": "photographs", "vest": "drawings"}
    assert card.masks_on == {"helmet": "drawings"}
    assert card.locations == "median"
    assert card.text_domain == "drawings"
    assert card.false_alarms == {"portraits": 0.05}
    assert hash(card) == hash(find_checkpoint(tmp_path))  # cards are keys of caches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synonyms": {"hat": ["cap"]}}, "synonyms names 'hat', which is not in 'classes'"),
        (
            {"synonyms": {"helmet": "hard hat"}},
            "synonyms: expected an object, each value a list, each text, got .*'hard hat'",
        ),
        ({"synonyms": ["hard hat"]}, "synonyms: expected an object"),
        ({"classes": "helmet"}, "classes: expected a list, each text, got 'helmet'"),
        ({"questions": [7]}, "questions: expected a list, each text"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number of at least 1, got 0"),
        ({"thresholds": {"helmet": 39}}, r"thresholds: .* a number in \[0, 1\], got .*39"),
        ({"thresholds": {"helmet": True}}, "thresholds: .*True"),
        ({"thresholds": {"helmet": "0.4"}}, "thresholds: .*'0.4'"),
        ({"thresholds": {"dog": 0.4}}, "thresholds names 'dog'"),
        ({"least_presence": {"helmet": 1.5}}, r"least_presence: .* in \[0, 1\], got .*1.5"),
        ({"least_presence": {"dog": 0.4}}, "least_presence names 'dog'"),
        ({"trained_on": {"helmet": "films"}}, "trained_on: .*'photographs' or 'drawings'"),
        ({"masks_on": {"helmet": "films"}}, "masks_on: .*'photographs' or 'drawings'"),
        ({"locations": "mean"}, "locations: expected 'mode' or 'median', got 'mean'"),
        ({"text_domain": "films"}, "text_domain: expected 'photographs' or 'drawings', got"),
        ({"false_alarms": {"portraits": -1}}, "false_alarms: .*-1"),
        ({"kind": "large"}, "kind: expected one of pt, mix"),
        ({"about": 7}, "about: expected text, got 7"),
    ],
)
def test_a_broken_card_is_refused_by_its_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(written(tmp_path, **changes))


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_bundled_cards_name_their_text_domain_and_synonyms(name: str) -> None:
    card = find_checkpoint(name)
    assert card.text_domain == "drawings"
    assert "hard hat" in card.synonyms["helmet"]
    assert set(card.trained_on) == set(card.classes or ())


@pytest.mark.parametrize("base", ["tiny", str(find_checkpoint("tiny").location)])
def test_an_adapter_has_the_prompts_and_the_codec_of_its_base(tmp_path: Path, base: str) -> None:
    """It was taken for a checkpoint with Google's codec, so its masks were nonsense."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    card = find_checkpoint(tmp_path)
    assert (card.kind, card.codec, card.classes) == ("tiny", "tiny", None)
    (tmp_path / "pgvision.json").write_text('{"kind": "mix"}')
    assert (find_checkpoint(tmp_path).kind, find_checkpoint(tmp_path).codec) == ("mix", "tiny")


def test_an_adapter_whose_base_is_gone_is_refused(tmp_path: Path) -> None:
    content = {"base_model_name_or_path": "/gone/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="base of this adapter is gone: .*/gone/base"):
        find_checkpoint(tmp_path)


def test_the_digest_is_of_the_checkpoints_own_files(tmp_path: Path) -> None:
    """Results in the folder of the model had made a job that resumes believe in other weights."""
    folder = Path(shutil.copytree(find_checkpoint("tiny").location, tmp_path / "model"))
    before = weights_digest(find_checkpoint(folder), None)
    (folder / "results").mkdir()
    (folder / "results" / "results.jsonl").write_text("{}")
    (folder / "a.jpg").write_bytes(b"")
    assert weights_digest(find_checkpoint(folder), None) == before
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert weights_digest(find_checkpoint(folder), None) != before


def test_a_folder_called_as_a_bundled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``train("data", out="small")`` returned as its folder was read as the bundled model."""
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    written(Path("small"), about="my own")
    assert find_checkpoint(Path("small")).about == "my own"
    assert find_checkpoint("./small").about == "my own"
    assert find_checkpoint("small").about != "my own"
    assert find_checkpoint(Path("tiny")).location == find_checkpoint("tiny").location


@pytest.mark.parametrize(
    ("served", "codec"),
    [("small", "tiny"), ("/lib/pgvision/runtime/small", "tiny"), ("/data/runs/small", "google")],
)
def test_a_served_folder_called_as_a_bundled_model(served: str, codec: str) -> None:
    assert card_of_served(served, "http://localhost:8000").codec == codec


def test_a_home_of_nobody_is_no_crash() -> None:
    with pytest.raises(CheckpointError, match="~no-such-user/model"):
        find_checkpoint("~no-such-user/model/v1")


def test_a_card_without_classes_refuses_every_name(tmp_path: Path) -> None:
    """As training on texts alone writes it."""
    card = find_checkpoint(written(tmp_path, classes=[], **dict.fromkeys(BY_CLASS, {})))
    with pytest.raises(UnknownNameError, match="'helmet'; it was trained on none"):
        known_classes(["helmet"], card)


def test_a_card_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    """It had ended in a RecursionError (found by fuzzing)."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pgvision.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["9" * 5000, "a\0b"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_name_that_no_file_system_takes_is_an_error_of_ours(
    name: str, kind: type[str] | type[Path]
) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        find_checkpoint(kind(name))
