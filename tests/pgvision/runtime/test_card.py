"""What a ``pgvision.json`` may contain beside kind and codec, and what is refused."""

import json
from pathlib import Path

import pytest

from pgvision.errors import CheckpointError
from pgvision.runtime import find_checkpoint

CARD = {
    "classes": ["helmet", "head", "vest"],
    "synonyms": {"helmet": ["hard hat", "hardhat"]},
    "thresholds": {"helmet": 0.39, "head": 1},
    "trained_on": {"helmet": "photographs", "vest": "drawings"},
    "masks_on": {"helmet": "drawings"},
    "text_domain": "drawings",
    "false_alarms": {"portraits": 0.05},
}


def written(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text("{}")
    (folder / "pgvision.json").write_text(json.dumps({**CARD, **changes}))
    return folder


def test_the_card_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    card = find_checkpoint(written(tmp_path))
    assert card.synonyms == {"helmet": ("hard hat", "hardhat")}
    assert card.thresholds == {"helmet": 0.39, "head": 1.0}
    assert card.trained_on == {"helmet": "photographs", "vest": "drawings"}
    assert card.masks_on == {"helmet": "drawings"}
    assert card.text_domain == "drawings"
    assert card.false_alarms == {"portraits": 0.05}
    assert hash(card) == hash(find_checkpoint(tmp_path))  # cards are keys of caches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synonyms": {"hat": ["cap"]}}, "synonyms names 'hat', which is not in 'classes'"),
        ({"synonyms": {"helmet": "hard hat"}}, "helmet is 'hard hat', expected a list"),
        ({"synonyms": ["hard hat"]}, "synonyms is .* expected an object"),
        ({"thresholds": {"helmet": 39}}, "thresholds of 'helmet' is 39, expected a number in"),
        ({"thresholds": {"helmet": True}}, "thresholds of 'helmet' is True"),
        ({"thresholds": {"helmet": "0.4"}}, "thresholds of 'helmet' is '0.4'"),
        ({"thresholds": {"dog": 0.4}}, "thresholds names 'dog'"),
        ({"trained_on": {"helmet": "films"}}, "trained_on of 'helmet' is 'films', expected one of"),
        ({"masks_on": {"helmet": "films"}}, "masks_on of 'helmet' is 'films', expected one of"),
        ({"text_domain": "films"}, "text_domain is 'films', expected one of photographs, drawings"),
        ({"false_alarms": {"portraits": -1}}, "false_alarms of 'portraits' is -1"),
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


def test_a_card_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    """It had ended in a RecursionError (found by fuzzing)."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pgvision.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        find_checkpoint(tmp_path)
