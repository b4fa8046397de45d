"""Report of a detection evaluation: frozen numbers, and their tables, JSON, CSV and PNG."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import OptionError
from pgvision.evaluation.engine import MAX_DETS, Engine, IouType, stat_names
from pgvision.evaluation.metrics import BestF1, Reliability, ScoreFree
from pgvision.evaluation.outputs import OutputCounts
from pgvision.evaluation.report_text import shown_number, shown_threshold, summary
from pgvision.files import write_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


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
    curves: NDArray[np.float64] | None
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
    confusion: NDArray[np.int64] | None = None
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
        return {
            "model": self.model,
            "data": self.data,
            "conf": self.conf,
            "iou_type": self.iou_type,
            "engine": self.engine,
            "max_dets": self.max_dets,
            "stats": stats,
            "mean_f1": self.mean_f1,
            "miou": self.miou,
            "per_class": [asdict(metrics) for metrics in self.per_class.values()],
            "curves": None if self.curves is None else self.curves.tolist(),
            "score_free": [asdict(metrics) for metrics in self.score_free],
            "best_f1": self.best_f1 and asdict(self.best_f1),
            "threshold": self.threshold,
            "reliability": self.reliability and self.reliability.to_dict(),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "outputs": self.outputs and self.outputs.to_dict(),
            "num_images": self.num_images,
            "num_annotations": self.num_annotations,
            "num_crowds": self.num_crowds,
            "num_detections": self.num_detections,
            "notes": list(self.notes),
        }

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
        if ending == ".json":
            write_text(path, self.to_json() + "\n")
        elif ending == ".csv":
            write_text(path, self.to_csv())
        elif ending == ".png":
            from pgvision.evaluation.report_figure import save_report_png

            save_report_png(self.to_dict(), path)
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
        if content["outputs"] is not None:
            tables.append(_output_table(content["outputs"]))
        notes = [Text(f"note: {note}") for note in content["notes"]]
        return Group(Text("\n".join(summary(content))), *tables, *notes)


def _overall_table(content: Mapping[str, Any]) -> "Table":
    """Three groups: ranked by score, at one threshold, and all predictions whatever the score."""
    from rich.table import Table

    table = Table(title=f"{content['iou_type']}, {content['engine']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
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
        for name in ("f1", "precision", "recall", "average_recall"):
            row = f"{name} of all predictions at IoU {metrics['iou']}"
            table.add_row(row, shown_number(metrics[name]))
    if content["miou"] is not None:
        table.add_row("mean IoU of annotations (missed: 0)", shown_number(content["miou"]))
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


def _output_table(outputs: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title="outputs of the model")
    for name in ("outputs with", "count", "share"):
        table.add_column(name, justify="left" if name == "outputs with" else "right")
    for name, share in outputs["shares"].items():
        table.add_row(name.replace("_", " "), str(outputs[f"with_{name}"]), shown_number(share))
    return table
