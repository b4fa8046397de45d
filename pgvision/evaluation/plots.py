"""A detection report as one picture: precision and recall, confusions, reliability."""

from pathlib import Path
from typing import Any

import numpy as np

from pgvision.errors import DependencyError, OptionError
from pgvision.evaluation.report import DetectionReport
from pgvision.files import replaced_path

_SHOWN_CLASSES = 20


def save_report_png(report: DetectionReport, path: str | Path) -> None:
    """Draw the report and write it, aside and then renamed.

    Args:
        report: What to draw.
        path: A ``.png`` file.

    Raises:
        OptionError: If ``path`` has another ending.
        DependencyError: If matplotlib is missing.
    """
    if Path(path).suffix.lower() != ".png":
        raise OptionError(
            f"path: expected an ending .json or .png, got {Path(path).name!r}. "
            "Fix: name the file report.json or report.png."
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(
            "a PNG report needs matplotlib, which is not installed. Fix: pip install matplotlib."
        ) from error
    figure = Figure(figsize=(18, 6), layout="constrained")  # no pyplot: no global state
    left, middle, right = figure.subplots(1, 3)
    _draw_curves(left, report)
    _draw_confusion(middle, report)
    _draw_reliability(right, report)
    with replaced_path(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def _shown(report: DetectionReport) -> list[int]:
    """Places of the classes with the most annotations, in category order."""
    counts = np.array([figures.num_annotations for figures in report.per_class])
    return sorted(np.argsort(-counts, kind="stable")[:_SHOWN_CLASSES].tolist())


def _draw_curves(axes: Any, report: DetectionReport) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision at IoU 0.5")
    axes.set_title("Precision and recall")
    if report.curves is None:
        axes.text(0.5, 0.5, "no scores, no curve", ha="center", va="center")
        return
    recall = np.linspace(0, 1, 101)
    for place in _shown(report):
        curve = report.curves[place, 0]
        if (curve > -1).any():
            axes.plot(recall, curve, lw=1, label=_plain(report.per_class[place].name))
    if axes.lines:
        axes.legend(fontsize=7, loc="lower left")


def _plain(name: str) -> str:
    """Text for matplotlib: no mathematics, and no underscore that hides it from the legend."""
    return name.replace("$", r"\$").lstrip("_") or "?"


def _draw_confusion(axes: Any, report: DetectionReport) -> None:
    axes.set_title("Confusions at IoU 0.5 (rows: truth)")
    if report.confusion is None:
        axes.text(0.5, 0.5, "not computed", ha="center", va="center")
        return
    places = [*_shown(report), len(report.per_class)]
    matrix = report.confusion[np.ix_(places, places)]
    names = [_plain(report.per_class[place].name) for place in places[:-1]] + ["background"]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)


def _draw_reliability(axes: Any, report: DetectionReport) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score", ylabel="share correct at IoU 0.5")
    diagram = report.reliability
    if diagram is None or diagram.ece is None:
        axes.set_title("Reliability: no scores in [0, 1]")
        return
    axes.set_title(f"Reliability, expected calibration error {diagram.ece:.3f}")
    axes.plot([0, 1], [0, 1], color="gray", lw=1)
    width = diagram.edges[1] - diagram.edges[0]
    for left, count, precision in zip(
        diagram.edges[:-1], diagram.counts, diagram.precision, strict=True
    ):
        if precision is not None:
            axes.bar(left, precision, width, align="edge", color="#4c72b0", edgecolor="white")
            axes.text(left + width / 2, precision, count, ha="center", va="bottom", fontsize=7)
