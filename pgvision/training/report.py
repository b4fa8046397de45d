"""Report of a training run: table, model card, curves, sheets of images."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml

from pgvision.arrays import ByteArray
from pgvision.datasets import Dataset
from pgvision.drawing import draw_boxes, draw_labels
from pgvision.errors import ImageError, SourceError
from pgvision.files import replaced_path, write_text
from pgvision.images import read_image
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.tokens import parse_suffix
from pgvision.training.config import TrainConfig, as_plain
from pgvision.training.data import RunData, TaskData
from pgvision.training.evaluation import Shown
from pgvision.training.folder import saving
from pgvision.training.samples import Sample
from pgvision.version import __version__

CALIBRATION_NAME: Final = "calibration.json"
_SIDE: Final = 320  # pixels; of an image on a sheet
_TITLE: Final = 20  # pixels; height of the title above it
_LETTERS: Final = 11  # pixels; of titles and labels
_COLUMNS: Final = 4
_WORSE: Final = 0.02  # a class that lost more is warned of


@dataclass(frozen=True)
class TrainReport:
    """Outcome of a run.

    Attributes:
        folder: The checkpoint; ``Detector("helmet", model=folder)`` loads it.
        steps: Optimiser steps taken.
        before: Figures of the starting weights.
        after: Figures on the same images of the weights that were written, the best ones.
        best_step: Step of these weights.
        seconds: Wall-clock time of the run.
        left_out: Images that were not used, with the reason.
        finished: Whether the run is complete; False where it was stopped.
    """

    folder: Path
    steps: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    best_step: int
    seconds: float
    left_out: Mapping[str, str]
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], folder: Path) -> "TrainReport":
        """Return the report of `to_dict`, of a run that is now in ``folder``."""
        return cls(**{**content, "folder": folder})

    @property
    def worse(self) -> list[str]:
        """Names of the classes and main figures that the run made worse."""
        main = next(iter(self.after), "")
        return [
            name
            for name, value in self.after.items()
            if (name == main or "ap50 " in name) and self.before.get(name, 0.0) - value > _WORSE
        ]

    def table(self) -> str:
        """Return figures before and after, a line each."""
        width = max(map(len, self.after), default=0)
        lines = [f"{'':{width}}  before   after"]
        for name, value in self.after.items():
            was = self.before.get(name)
            mark = "  worse" if name in self.worse else ""
            lines.append(
                f"{name:{width}}  {'-' if was is None else f'{was:.3f}':>6}   {value:.3f}{mark}"
            )
        return "\n".join(lines)


def write_results(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``results.csv`` and ``results.png``: losses and figures by step.

    Args:
        history: The log history of transformers' Trainer.
        folder: Of the run.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "loss" in entry or any(name.startswith("eval_") for name in entry):
            rows.setdefault(int(entry["step"]), {}).update(entry)
    hidden = {"epoch", "eval_score", "step"}
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name not in hidden))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", *names])
    for step, row in sorted(rows.items()):
        writer.writerow([step, *(row.get(name, "") for name in names)])
    with saving(folder):
        write_text(folder / "results.csv", text.getvalue())
        _plot(rows, [n for n in names if n.startswith("eval_") and "loss" not in n], folder)


def _plot(rows: Mapping[int, Mapping[str, Any]], figures: Sequence[str], folder: Path) -> None:
    from matplotlib.figure import Figure

    # A Figure without pyplot: it needs no display and no global state.
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("loss", "eval_loss"):
        points = [(step, row[name]) for step, row in sorted(rows.items()) if name in row]
        if points:
            left.plot(*zip(*points, strict=True), label=name)
            left.legend(fontsize="small")
    for name in figures[:6]:
        points = [(step, row[name]) for step, row in sorted(rows.items()) if name in row]
        right.plot(*zip(*points, strict=True), marker="o", ms=3, label=name.removeprefix("eval_"))
    left.set(xlabel="step", title="loss")
    right.set(xlabel="step", title="validation")
    if figures:
        right.legend(fontsize="small")
    with replaced_path(folder / "results.png") as aside:
        figure.savefig(aside, dpi=110, format="png")


def show_sample(sample: Sample) -> tuple[ByteArray, Shown]:
    """Return a training sample for a sheet: its image, prompt and target boxes."""
    objects = parse_suffix(sample.suffix, image_hw=sample.bgr.shape[:2]).objects
    boxes, labels = [one.xyxy for one in objects], [one.label or "" for one in objects]
    title = sample.prefix if boxes else f"{sample.prefix}: {sample.suffix or 'nothing'}"
    return sample.bgr, Shown(sample.name, title, boxes, labels)


def write_sheet(path: Path, shown: Sequence[Shown], images: Sequence[ByteArray] = ()) -> None:
    """Write a sheet of images with boxes and titles.

    Args:
        path: A JPEG file.
        shown: What to draw.
        images: Pixels of each; read from the files if not given.
    """
    tiles = []
    for number, one in enumerate(shown):
        try:
            image = images[number] if images else read_image(one.path)
        except (ImageError, SourceError):
            continue
        # 1. Shrink each image to its place on a tile.
        scale = _SIDE / max(image.shape[:2])
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        tile = np.full((_SIDE + _TITLE, _SIDE, 3), 255, np.uint8)
        small = tile[_TITLE : _TITLE + height, :width]
        small[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        # 2. Draw boxes, labels and the title, which fits above the image.
        boxes = np.array(one.boxes, float).reshape(-1, 4) * scale
        ids = np.arange(len(boxes))
        draw_boxes(small, boxes, color_ids=ids, thickness=1)
        draw_labels(small, boxes, one.labels, color_ids=ids, font_size=_LETTERS)
        frame = np.array([[0, _TITLE, _SIDE, _SIDE + _TITLE]])
        draw_labels(tile, frame, [one.title], color_ids=np.array([-1]), font_size=_LETTERS)
        tiles.append(tile)
    if not tiles:
        return
    # 3. Arrange the tiles in rows.
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[k : k + _COLUMNS]) for k in range(0, len(tiles), _COLUMNS)]
    with saving(path), replaced_path(path) as aside:
        aside.write_bytes(cv2.imencode(".jpg", np.vstack(rows))[1].tobytes())


def write_model_card(
    report: TrainReport,
    config: TrainConfig,
    data: RunData,
    base: CheckpointCard,
    card: CheckpointCard,
) -> None:
    """Write ``README.md`` with the hub's front matter: data, figures, settings, credits.

    Args:
        report: Of the run.
        config: Of the run.
        data: Of the run.
        base: Card of the checkpoint that the run started from.
        card: Card of the trained checkpoint.
    """
    # 1. Front matter, which the hub reads.
    text_tasks = {
        "caption": "image-to-text",
        "ask": "visual-question-answering",
        "read": "image-text-to-text",
    }
    task = data.tasks[0].config.task
    front = {
        "library_name": "peft" if config.keep_adapter else "transformers",
        "license": _licence(base),
        "pipeline_tag": text_tasks.get(task, "object-detection"),
        "tags": ["pgvision", "paligemma", task],
    } | ({"base_model": base.location} if not base.is_local else {})
    # 2. Sections; settings list only what differs from the default.
    default = as_plain(TrainConfig())
    changed = {k: v for k, v in as_plain(config).items() if v != default[k] and v is not None}
    names = {name: f"asked for as {other!r}" for name, other in data.asked_as.items()}
    sections: dict[str, Mapping[str, Any] | str] = {
        **{f"Data, {one.name}": one.summary for one in data.tasks},
        "Figures": f"On {config.eval_limit if not config.eval_all else 'all'} validation images at "
        f"most, best weights of step {report.best_step}.\n\n```\n{report.table()}\n```",
        "Names": names
        | {
            "classes": "any" if card.classes is None else ", ".join(card.classes),
            "questions": "any" if card.questions is None else "; ".join(card.questions),
            "prompts": f"those of kind {card.kind!r}",
            "codec of masks": card.codec,
        },
        "Settings": changed | {"digest of the data": data.digest},
        # Names without folders: the card may be published.
        "Images left out": {Path(name).name: why for name, why in report.left_out.items()},
        "Credits": {f"base, {base.name}": _base_credits(base)}
        | {f"data, {one.name}": data_credits(one) for one in data.tasks},
    }
    # 3. Write front matter, title and the sections that have content.
    rows = [f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n", f"# {card.about}", ""]
    rows += [f"Fine-tuned with pgvision {__version__}.", ""]
    for heading, content in sections.items():
        if content:
            rows += [f"## {heading}", ""]
            if isinstance(content, Mapping):
                rows += [f"- {key}: {value}" for key, value in content.items()]
            else:
                rows.append(content)
            rows.append("")
    write_text(report.folder / "README.md", "\n".join(rows))


def _licence(card: CheckpointCard) -> str:
    if card.name in ("tiny", "small"):
        return "apache-2.0"
    if "gemma" in card.location.lower():
        return "gemma"
    # A fine-tuned checkpoint has the licence that its card states.
    readme = Path(card.location, "README.md")
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.search(r"^license: (\S+)$", text, re.MULTILINE)
    return found[1] if found else "other"


def _base_credits(card: CheckpointCard) -> str:
    if card.location.startswith("google/"):
        return "Gemma terms, https://ai.google.dev/gemma/terms: pass them on"
    if not card.is_local:
        return f"https://huggingface.co/{card.location}"
    return f"{card.about}; see its README.md for sources and licences"


def data_credits(data: TaskData) -> str:
    """Return what COCO's ``info`` and ``licenses`` or a data.yaml state of a data set's licence."""
    parts = []
    # 1. COCO's info, and the licences that images refer to.
    if isinstance(data.train, Dataset):
        info, listed = data.train.info.get("info"), data.train.info.get("licenses")
        if isinstance(info, Mapping):
            texts = {
                key: " ".join(str(value).split())[:200] for key, value in info.items() if value
            }
            parts += [f"{key}: {text}" for key, text in texts.items()]
        counts = Counter(one.extra.get("license") for one in data.train.images)
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, Mapping) and counts[one.get("id")]:
                parts.append(
                    f"{one.get('name')} {one.get('url', '')} ({counts[one.get('id')]} images)"
                )
    # 2. A licence in a data.yaml, or in its section of Roboflow.
    path = data.source.data
    for file in sorted(path.glob("*.y*ml")) if path.is_dir() else [path]:
        if file.suffix not in (".yaml", ".yml"):
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for part in (content, content.get("roboflow") if isinstance(content, Mapping) else None):
            if isinstance(part, Mapping) and part.get("license"):
                parts.append(f"license: {part['license']} ({file.name})")
    return "; ".join(parts) or "unknown: add where the data come from before you publish"
