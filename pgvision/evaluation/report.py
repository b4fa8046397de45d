"""The report of a detection run: figures that are frozen, and their table, JSON and picture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pgvision.evaluation.answers import AnswerCounts
from pgvision.evaluation.engines import STAT_NAMES, Engine, IouType
from pgvision.evaluation.figures import BestF1, Reliability
from pgvision.evaluation.scoreless import ApInterval, ScoreFree
from pgvision.files import write_text

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one category; None where nothing is defined.

    Attributes:
        category_id: Its id in the ground truth.
        name: Its name.
        ap: AP over IoU 0.5:0.95; None without annotations or without scores.
        ap50: AP at IoU 0.5.
        ap75: AP at IoU 0.75.
        ar: Recall with at most 100 predictions an image, over IoU 0.5:0.95.
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
    """What :func:`evaluate_detections` found.

    Attributes:
        iou_type: ``"bbox"`` or ``"segm"``.
        engine: The evaluator that ran.
        stats: The 12 COCO figures in pycocotools' order (``STAT_NAMES``), -1 for undefined ones;
            None for predictions without scores.
        ap_interval: Bounds on AP over all orders, for predictions without or with equal scores
            and on request.
        per_class: One entry per category, by category id.
        curves: ``(k, 2, 101)`` precision at recall 0:0.01:1, at IoU 0.5 and 0.75, -1 undefined;
            None without scores.
        score_free: Figures that no order changes, at IoU 0.5 and 0.75.
        best_f1: The best threshold over all classes at IoU 0.5.
        mean_f1: F1 over all classes, averaged over IoU 0.5:0.95, of predictions at ``threshold``;
            None without annotations.
        miou: IoU of each annotation with the prediction that is taken for it, 0 for a missed one,
            averaged; see `pgvision.evaluation.scoreless.mean_iou`.
        threshold: Score that predictions need for ``mean_f1`` and ``confusion``, that of
            ``best_f1``; None takes all of them.
        reliability: Scores against precision at IoU 0.5; None if scores are no probabilities.
        confusion: ``(k + 1, k + 1)``, rows true and columns predicted, last is background, at
            IoU 0.5 and ``threshold``.
        answers: What the model's answers looked like, if result objects were given.
        num_images: Images in the ground truth.
        num_annotations: Annotations, crowds included.
        num_crowds: Annotations that are crowds.
        num_detections: Predictions.
        notes: What a reader should know before trusting the figures.
        model: What predicted, where it is known; ``dataclasses.replace`` says it.
        data: What it was scored on; the path of the ground truth, if that is a file.
        conf: Score below which the model's predictions were dropped before they came here.
    """

    iou_type: IouType
    engine: Engine
    stats: tuple[float, ...] | None
    ap_interval: ApInterval | None
    per_class: tuple[ClassFigures, ...]
    curves: NDArray[np.float64] | None
    score_free: tuple[ScoreFree, ...]
    best_f1: BestF1 | None
    mean_f1: float | None
    miou: float | None
    threshold: float | None
    reliability: Reliability | None
    confusion: NDArray[np.int64] | None
    answers: AnswerCounts | None
    num_images: int
    num_annotations: int
    num_crowds: int
    num_detections: int
    notes: tuple[str, ...]
    model: str | None = None
    data: str | None = None
    conf: float | None = None

    @property
    def ap(self) -> float | None:
        """AP over IoU 0.5:0.95, or None without scores."""
        return None if self.stats is None else self.stats[0]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-safe; ``stats`` by name, -1 and None as they are."""
        stats = None if self.stats is None else dict(zip(STAT_NAMES, self.stats, strict=True))
        return {
            "model": self.model,
            "data": self.data,
            "conf": self.conf,
            "iou_type": self.iou_type,
            "engine": self.engine,
            "stats": stats,
            "mean_f1": self.mean_f1,
            "miou": self.miou,
            "ap_interval": self.ap_interval and self.ap_interval.to_dict(),
            "per_class": [asdict(figures) for figures in self.per_class],
            "curves": None if self.curves is None else self.curves.tolist(),
            "score_free": [asdict(figures) for figures in self.score_free],
            "best_f1": self.best_f1 and asdict(self.best_f1),
            "threshold": self.threshold,
            "reliability": self.reliability and self.reliability.to_dict(),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "answers": self.answers and self.answers.to_dict(),
            "num_images": self.num_images,
            "num_annotations": self.num_annotations,
            "num_crowds": self.num_crowds,
            "num_detections": self.num_detections,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The content of :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def save(self, path: str | Path) -> None:
        """Write ``.json`` or ``.png``, by the ending of ``path``.

        Args:
            path: The file, written aside and renamed.

        Raises:
            OptionError: If the ending is another.
            DependencyError: If a PNG is asked for and matplotlib is missing.
        """
        if Path(path).suffix.lower() == ".json":
            write_text(path, self.to_json() + "\n")
            return
        from pgvision.evaluation.plots import save_report_png

        save_report_png(self.to_dict(), path)

    def __rich__(self) -> "Group":
        """Tables for the terminal: ``rich.print(report)``."""
        from pgvision.evaluation.tables import report_tables

        return report_tables(self.to_dict())
