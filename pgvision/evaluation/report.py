"""Report of a detection evaluation: frozen numbers, and their tables, JSON, CSV and PNG."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.arrays import FloatArray, IntArray, to_plain
from pgvision.errors import OptionError, require_module
from pgvision.evaluation.inputs import OutputCounts
from pgvision.evaluation.matching import MAX_DETS, Engine, IouType, stat_names
from pgvision.evaluation.metrics import BestF1, Reliability, ScoreFree
from pgvision.files import replaced_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group
    from rich.table import Table

_SHOWN_CLASSES = 20
_LONGEST_NAME = 28


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Metrics of one category; None where undefined.

    Attributes:
        category_id: Its id in the ground truth.
        name: Its name.
        ap: AP over IoU 0.5:0.95; None without annotations or without scores.
        ap50: AP at IoU 0.5.
        ap75: AP at IoU 0.75.
        ar: Recall with at most ``max_dets`` predictions an image, over IoU 0.5:0.95.
        best_f1: The best threshold at IoU 0.5.
        num_annotations: Annotations, without crowds.
        num_detections: Predictions.
    """

    category_id: int
    name: str
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    best_f1: BestF1 | None
    num_annotations: int
    num_detections: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionReport:
    """Result of :func:`evaluate_detections`.

    Attributes:
        iou_type: ``"bbox"`` or ``"segm"``.
        engine: The evaluator.
        stats: The 12 COCO figures in pycocotools' order (``STAT_NAMES``), -1 for undefined ones;
            None for predictions without scores.
        per_class: Metrics of each class by its name, in the order of category ids.
        curves: ``(k, 2, 101)`` precision at recall 0:0.01:1, at IoU 0.5 and 0.75, -1 undefined;
            None without scores.
        score_free: Metrics of all predictions, which no order changes, at IoU 0.5 and 0.75.
        best_f1: The best threshold over all classes at IoU 0.5.
        mean_f1: F1 over all classes, averaged over IoU 0.5:0.95, of predictions at ``threshold``;
            None without annotations.
        miou: IoU of each annotation with the prediction assigned to it, 0 for a missed one,
            averaged; see `pgvision.evaluation.metrics.mean_iou`.
        threshold: Score that predictions need for ``mean_f1`` and ``confusion``, that of
            ``best_f1``; None takes all of them.
        reliability: Scores against precision at IoU 0.5; None if scores are no probabilities.
        confusion: ``(k + 1, k + 1)``, rows true and columns predicted, last is background, at
            IoU 0.5 and ``threshold``.
        outputs: Counts over the model's outputs, if result objects were given.
        num_images: Images that are scored.
        num_annotations: Annotations, crowds included.
        num_crowds: Annotations that are crowds.
        num_detections: Predictions.
        notes: What limits the numbers: classes and images that were not queried, filled-in areas.
        max_dets: Predictions kept for each image and class.
        model: The model, where it is known; set with ``dataclasses.replace``.
        data: The data; the path of the ground truth, if that is a file.
        conf: Score below which the model's predictions were dropped beforehand.
    """

    iou_type: IouType
    engine: Engine
    stats: tuple[float, ...] | None
    per_class: Mapping[str, ClassMetrics]
    curves: FloatArray | None
    num_images: int
    num_annotations: int
    num_crowds: int
    num_detections: int
    notes: tuple[str, ...]
    max_dets: int = MAX_DETS
    score_free: tuple[ScoreFree, ...] = ()
    best_f1: BestF1 | None = None
    mean_f1: float | None = None
    miou: float | None = None
    threshold: float | None = None
    reliability: Reliability | None = None
    confusion: IntArray | None = None
    outputs: OutputCounts | None = None
    model: str | None = None
    data: str | None = None
    conf: float | None = None

    @property
    def ap(self) -> float | None:
        """AP over IoU 0.5:0.95, or None without scores."""
        return None if self.stats is None else self.stats[0]

    @property
    def ap50(self) -> float | None:
        """AP at IoU 0.5, or None without scores."""
        return None if self.stats is None else self.stats[1]

    @property
    def ap75(self) -> float | None:
        """AP at IoU 0.75, or None without scores."""
        return None if self.stats is None else self.stats[2]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe; ``stats`` by name, -1 and None unchanged."""
        names = stat_names(self.max_dets)
        stats = None if self.stats is None else dict(zip(names, self.stats, strict=True))
        per_class, outputs = list(self.per_class.values()), self.outputs and self.outputs.to_dict()
        fields = to_plain(self, without=frozenset({"per_class"}))
        return {**fields, "stats": stats, "per_class": to_plain(per_class), "outputs": outputs}

    def to_json(self) -> str:
        """The content of :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def to_csv(self) -> str:
        """One line for each class, with a header; empty cells where undefined."""
        text = io.StringIO()
        columns = ("name", "ap", "ap50", "ap75", "ar", "best_f1", "threshold", "precision",
                   "recall", "num_annotations", "num_detections")  # fmt: skip
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for metrics in self.per_class.values():
            best = asdict(metrics.best_f1) if metrics.best_f1 else {"f1": None}
            writer.writerow(asdict(metrics) | best | {"best_f1": best["f1"]})
        return text.getvalue()

    def save(self, path: str | Path) -> None:
        """Write ``.json``, ``.csv`` (a line for each class) or ``.png``, by the ending of ``path``.

        Args:
            path: The file, replaced atomically.

        Raises:
            OptionError: If the ending is another.
            DependencyError: If a PNG is asked for and matplotlib is missing.
        """
        ending = Path(path).suffix.lower()
        # Each ending has its own content: all fields, a line for each class, diagrams.
        if ending == ".json":
            write_text(path, self.to_json() + "\n")
        elif ending == ".csv":
            write_text(path, self.to_csv())
        elif ending == ".png":
            figure = report_figure(self.to_dict())
            with replaced_path(path) as aside:
                figure.savefig(aside, format="png", dpi=100)
        else:
            raise OptionError(
                f"path: expected an ending .json, .csv or .png, got {Path(path).name!r}. "
                "Fix: name the file report.json or report.png."
            )

    def __rich__(self) -> "Group":
        """Tables for the terminal: ``rich.print(report)``."""
        from rich.console import Group
        from rich.text import Text

        content = self.to_dict()
        tables = [_overall_table(content), _class_table(content["per_class"])]
        notes = [Text(f"note: {note}") for note in content["notes"]]
        return Group(Text("\n".join(summary(content))), *tables, *notes)


def shown_number(value: float | None) -> str:
    """Format a number with three digits, or a dash where it is undefined.

    Example:
        >>> shown_number(0.25), shown_number(-1.0)
        ('0.250', '-')
    """
    return "-" if value is None or value == -1 else f"{value:.3f}"


def shown_threshold(content: Mapping[str, Any]) -> str:
    """Return which predictions count where a threshold is needed.

    Example:
        >>> shown_threshold({"threshold": 0.25})
        'score >= 0.250'
    """
    threshold = content["threshold"]
    return "all predictions" if threshold is None else f"score >= {threshold:.3f}"


def summary(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return two lines: model, data and counts; AP, mean F1 and their thresholds.

    Args:
        content: By ``DetectionReport.to_dict``.
    """
    # 1. What was scored.
    subject = " on ".join(filter(None, (content["model"], content["data"])))
    kind = "boxes" if content["iou_type"] == "bbox" else "masks"
    counts = (
        f"{kind} of {content['num_images']} images: {content['num_annotations']} annotations "
        f"({content['num_crowds']} crowds), {content['num_detections']} detections"
    )
    if content["conf"] is not None:
        counts += f" of score >= {content['conf']:.3f}"
    # 2. The metrics to quote.
    parts = []
    if content["stats"] is not None:
        parts += [f"{name} {shown_number(content['stats'][name])}" for name in ("AP", "AP50")]
    if content["mean_f1"] is not None:
        value = shown_number(content["mean_f1"])
        parts.append(f"mean F1 over IoU 0.5:0.95 {value} ({shown_threshold(content)})")
    return ": ".join(filter(None, (subject, counts))), ", ".join(parts)


def _overall_table(content: Mapping[str, Any]) -> "Table":
    """Groups: ranked by score, at one threshold, all predictions whatever the score, outputs."""
    from rich.table import Column, Table

    title = f"{content['iou_type']}, {content['engine']}"
    table = Table("metric", Column("value", justify="right"), title=title)
    # 1. Ranked by score.
    for name, value in (content["stats"] or {}).items():
        table.add_row(name, shown_number(value))
    table.add_section()
    # 2. At one threshold.
    if best := content["best_f1"]:
        limit = f"at IoU 0.5, score >= {best['threshold']:.3f}"
        for name in ("f1", "precision", "recall"):
            shown = "best F1" if name == "f1" else name
            table.add_row(f"{shown} {limit}", shown_number(best[name]))
    if content["mean_f1"] is not None:
        row = f"mean F1 over IoU 0.5:0.95, {shown_threshold(content)}"
        table.add_row(row, shown_number(content["mean_f1"]))
    if content["reliability"] is not None:
        table.add_row("expected calibration error", shown_number(content["reliability"]["ece"]))
    table.add_section()
    # 3. All predictions.
    for metrics in content["score_free"]:
        for name in ("f1", "precision", "recall"):
            row = f"{name} of all predictions at IoU {metrics['iou']}"
            table.add_row(row, shown_number(metrics[name]))
    if content["miou"] is not None:
        table.add_row("mean IoU of annotations (missed: 0)", shown_number(content["miou"]))
    # 4. The model's outputs.
    for name, share in (content["outputs"] or {"shares": {}})["shares"].items():
        table.add_row(f"share of outputs with {name.replace('_', ' ')}", shown_number(share))
    return table


def _class_table(per_class: list[dict[str, Any]]) -> "Table":
    """At most 80 columns wide for names of up to 20 letters."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="classes (F1: best at IoU 0.5, and its score)", padding=(0, 0, 0, 1))
    table.add_column("class", overflow="fold")
    for name in ("AP", "AP50", "AP75", "AR", "F1", "score", "truth", "found"):
        table.add_column(name, justify="right", no_wrap=True)
    for metrics in per_class:
        best = metrics["best_f1"] or {"f1": None, "threshold": None}
        table.add_row(
            Text(metrics["name"]),  # a name is no markup
            *(shown_number(metrics[name]) for name in ("ap", "ap50", "ap75", "ar")),
            shown_number(best["f1"]),
            shown_number(best["threshold"]),
            str(metrics["num_annotations"]),
            str(metrics["num_detections"]),
        )
    return table


def report_figure(content: Mapping[str, Any]) -> "Figure":
    """Draw a report as a matplotlib figure.

    Args:
        content: By ``DetectionReport.to_dict``.

    Raises:
        DependencyError: If matplotlib is missing.
    """
    missing = "a PNG report needs matplotlib, which is not installed. Fix: pip install matplotlib."
    module = require_module("matplotlib.figure", missing)
    figure: Figure = module.Figure(
        figsize=(20, 8), layout="constrained"
    )  # no pyplot: no global state
    lines = [_plain(line, len(line)) for text in summary(content) for line in wrap(text, 200)]
    figure.suptitle("\n".join(lines), fontsize=11)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.4, 1))
    _draw_curves(left, content)
    _draw_confusion(middle, content)
    _draw_reliability(right, content)
    return figure


def _shown(content: Mapping[str, Any]) -> list[int]:
    """Return the positions of the classes with the most annotations, in category order."""
    counts = np.array([metrics["num_annotations"] for metrics in content["per_class"]])
    return sorted(np.argsort(-counts, kind="stable")[:_SHOWN_CLASSES].tolist())


def _draw_curves(axes: Any, content: Mapping[str, Any]) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision at IoU 0.5")
    axes.set_title("Precision and recall")
    if content["curves"] is None:
        axes.text(0.5, 0.5, "no scores, no curve", ha="center", va="center")
        return
    # One curve for each class that has precision anywhere.
    recall = np.linspace(0, 1, 101)
    for place in _shown(content):
        curve, metrics = np.array(content["curves"][place][0]), content["per_class"][place]
        if (curve > -1).any():
            label = f"{_plain(metrics['name'])}: AP50 {shown_number(metrics['ap50'])}"
            axes.plot(recall, curve, lw=1, label=label)
    if axes.lines:  # below, so that it hides no curve
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _plain(text: str, most: int = _LONGEST_NAME) -> str:
    """Return text for matplotlib: no mathematics, no underscore that hides it from the legend."""
    short = text if len(text) <= most else text[: most - 1] + "\u2026"
    return short.replace("$", r"\$").lstrip("_") or "?"


def _draw_confusion(axes: Any, content: Mapping[str, Any]) -> None:
    axes.set_title(f"Confusions at IoU 0.5, {shown_threshold(content)} (rows: truth)")
    if content["confusion"] is None:
        axes.text(0.5, 0.5, "not computed", ha="center", va="center")
        return
    per_class = content["per_class"]
    places = [*_shown(content), len(per_class)]
    matrix = np.array(content["confusion"])[np.ix_(places, places)]
    names = [_plain(per_class[place]["name"]) for place in places[:-1]] + ["background"]
    # Shares of the true class give the colour, counts the text.
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    # The matrix is some 360 points wide, a digit 0.7 of its size: the longest count must fit.
    size = min(9.0, 360 / len(names) / (0.7 * len(str(matrix.max()))))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, count, ha="center", va="center", fontsize=size, color=colour)


def _draw_reliability(axes: Any, content: Mapping[str, Any]) -> None:
    # Space above 1 for the counts on top of bars.
    axes.set(xlim=(0, 1), ylim=(0, 1.08), xlabel="score", ylabel="share correct at IoU 0.5")
    axes.set_yticks(np.linspace(0, 1, 6))
    diagram = content["reliability"]
    if diagram is None or diagram["ece"] is None:
        axes.set_title("Reliability: no scores in [0, 1]")
        return
    axes.set_title(f"Reliability, expected calibration error {diagram['ece']:.3f}")
    axes.plot([0, 1], [0, 1], color="gray", lw=1)
    width = diagram["edges"][1] - diagram["edges"][0]
    bars = zip(diagram["edges"], diagram["counts"], diagram["precision"], strict=False)
    for left, count, precision in bars:
        if precision is not None:
            axes.bar(left, precision, width, align="edge", color="#4c72b0", edgecolor="white")
            axes.text(left + width / 2, precision, count, ha="center", va="bottom", fontsize=8)
