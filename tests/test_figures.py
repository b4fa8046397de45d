"""The README's figures are those that the benchmarks wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = json.loads((ROOT / "tests/benchmarks/results/small.json").read_text(encoding="utf-8"))
VALID = {
    row["class"]: row
    for row in map(
        json.loads,
        (ROOT / "tests/benchmarks/results/hardhat_valid.jsonl").read_text("utf-8").splitlines(),
    )
}
CARD = (ROOT / "pgvision/runtime/small/README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def percent(*names: str) -> str:
    return ", ".join(f"{100 * SMALL[name]['share']:.0f}%" for name in names)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (
            "training source, AP50",
            f"{VALID['helmet']['AP50']:.2f} / {VALID['head']['AP50']:.2f}",
        ),
        ("AP50", f"{SMALL['helmet, new sets']['AP50']:.2f}"),
        ("hats and caps", percent("false alarms, hats")),
        (
            "portraits, face masks, street and sports",
            percent("false alarms, portraits", "false alarms, masked", "false alarms, people"),
        ),
        ("rooms and cars, objects", percent("false alarms, things", "false alarms, objects")),
        ("hats called helmet", percent("head called helmet", "hat called helmet")),
        (
            "of all sizes)",
            f"{SMALL['persons, person']['AP50']:.2f}; {SMALL['persons, people']['AP50']:.2f}",
        ),
    ],
)
def test_readme_row(row, result):
    assert f"{row} | {result} |" in README


def test_readme_counts_the_objects():
    assert f"{SMALL['helmet, new sets']['objects']} objects of five other sources" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_card_has_the_figures_of_the_training_source():
    for name, words in (("helmet", "helmet AP50 / AP"), ("head", "bare head")):
        row = VALID[name]
        assert f"{words} | {row['AP50']:.3f} / {row['AP']:.3f} " in CARD
    sizes = (VALID["all"][f"AP_{size}"] for size in ("small", "medium", "large"))
    assert f"| {' / '.join(f'{value:.3f}' for value in sizes)} |" in CARD


def test_the_page_of_checkpoints_has_the_same_figures():
    page = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8")
    new, people = SMALL["helmet, new sets"], SMALL["persons, people"]
    helmet, head = (f"{VALID[name]['AP50']:.2f}" for name in ("helmet", "head"))
    assert f"training source | helmet {helmet}, bare head {head} |" in page
    assert f"sources, {new['objects']} helmets | helmet {new['AP50']:.2f} |" in page
    assert f"{people['objects']} persons of all sizes | person {people['AP50']:.2f} |" in page
    assert f"a helmet in {percent('false alarms, hats')} of the photographs" in page


def test_the_false_alarms_of_the_card_are_the_measured_ones():
    card = json.loads((ROOT / "pgvision/runtime/small/pgvision.json").read_text("utf-8"))
    sets = {
        "hats and caps": "hats",
        "construction scenes": "css",
        "portraits": "portraits",
        "face masks": "masked",
        "street and sports": "people",
        "rooms and cars": "things",
        "objects": "objects",
        "classrooms": "classrooms",
    }
    measured = {words: SMALL[f"false alarms, {name}"]["share"] for words, name in sets.items()}
    assert card["false_alarms"] == measured
    for words, name in sets.items():
        row = SMALL[f"false alarms, {name}"]
        assert f"| false alarms: {words} | {100 * row['share']:.0f}% of {row['images']} |" in CARD
    assert (card["thresholds"]["helmet"], card["least_presence"]["helmet"]) == (
        SMALL["threshold"],
        SMALL["least presence"],
    )
