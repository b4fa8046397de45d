"""Batches of cached features with prompts, for the third edition of ``small``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from recipes.batches import BatchMaker, View, Wording
from recipes.scenes import CLASSES
from recipes.shards import Shard
from recipes.small.sources import CELLS, SOURCES

WORDING: Final = Wording(
    classes=(*CLASSES, *CELLS, "hat"),
    same={"person": "worker"},
    phrases={"worker": ("worker", "person")},
)
_EMPTY: Final = 0.3  # share of prompts about an absent class, where the image shows others
_VIEWS: Final = {"whole": 0.4, "crop": 0.35, "mirrored": 0.25}
_PRESENT_WEIGHTS: Final = {"helmet": 2.0, "head": 2.0}
_ABSENT_WEIGHTS: Final = {"helmet": 6.0, "head": 2.0, "person": 2.0, "hat": 2.0, "vest": 2.0}


@dataclass(frozen=True)
class Part:
    """One cached file: ``(n, tokens, d)`` features and the truth of its images."""

    name: str
    features: Any
    rows: list[dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> "Part":
        """Open NAME.npy and NAME.json."""
        rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return cls(path.stem, np.load(path, mmap_mode="r", allow_pickle=False), rows)

    def as_shard(self) -> Shard:
        """Return the truth in the form that `BatchMaker` reads."""
        counts, labels, boxes, codes = [0], [], [], []
        for row in self.rows:
            labels += row["labels"]
            boxes += row["boxes"]
            codes += row["codes"]
            counts.append(len(labels))
        names = tuple(sorted(set(labels))) or ("helmet",)
        none = np.full(len(labels), -1)
        return Shard(
            images=np.empty((0, 0, 0, 3), np.uint8),
            offsets=np.array(counts),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.array([names.index(one) for one in labels], np.int64),
            colours=none,
            texts=none,
            codes=np.array(codes, np.int16).reshape(-1, 16),
            sentences=tuple(json.dumps(row["sentences"]) for row in self.rows),
            names=names,
        )


class PhotographBatches(BatchMaker):
    """Draws images and prompts; a class counts as absent only where its labels are complete.

    Args:
        folder: Cached files.
        tokenizer: The model's.
        num_image_tokens: Image tokens of one image.
        scenes: Share of rendered scenes.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int,
        *,
        scenes: float,
    ) -> None:
        files = sorted(one for one in folder.glob("[!.]*.npy") if one.with_suffix(".json").exists())
        self.parts = [Part.load(one) for one in files]
        super().__init__(
            [part.as_shard() for part in self.parts],
            tokenizer,
            num_image_tokens,
            features=[part.features for part in self.parts],
            shares=part_shares(self.parts, scenes),
            wording=WORDING,
        )

    def view(self, shard_index: int, place: int) -> View:
        """Return the truth of one image, with the classes that are complete or absent in it."""
        row, number = self.parts[shard_index].rows[place], WORDING.index
        return (
            super()
            .view(shard_index, place)
            .narrowed(
                names={number(name): name for name in row["complete"]},
                present={number(name): name for name in row["labels"]},
                absent={number(one): one for one in row["absent"] if one not in row["labels"]},
            )
        )

    def class_to_ask(self, view: View, rng: np.random.Generator) -> tuple[int, str]:
        """Choose a class, and the words to ask for it with."""
        present = view.present
        missing = {n: one for n, one in view.names.items() if n not in present} | dict(view.absent)
        ask_absent = bool(missing) and (not present or rng.random() < _EMPTY)
        pool = missing if ask_absent else present
        weights = _ABSENT_WEIGHTS if ask_absent else _PRESENT_WEIGHTS
        chances = np.array([weights.get(one, 0.25 if ask_absent else 1.0) for one in pool.values()])
        chosen = int(rng.choice(list(pool), p=chances / chances.sum()))
        phrases = WORDING.phrases.get(pool[chosen], (pool[chosen],))
        return chosen, phrases[int(rng.integers(len(phrases)))]


def part_shares(parts: Sequence[Part], scenes: float) -> list[float]:
    """Return how often each file is drawn from: by source and view; scenes get a fixed share."""
    weights = []
    for part in parts:
        name, _, view = part.name.partition(".")[0].partition("_")
        is_scene = name == "scene"
        weights.append(0.0 if is_scene else len(part.rows) * SOURCES[name].share * _VIEWS[view])
    total, num_scenes = sum(weights), weights.count(0.0)
    return [(1 - scenes) * one / total if one else scenes / num_scenes for one in weights]
