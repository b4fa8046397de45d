"""Detection report as a figure: precision and recall, confusion matrix, reliability."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.errors import DependencyError
from pgvision.evaluation.report_text import shown_number, shown_threshold, summary
from pgvision.files import replaced_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_CLASSES = 20
_LONGEST_NAME = 28


def save_report_png(content: Mapping[str, Any], path: str | Path) -> None:
    """Draw a report and write it atomically.

    Args:
        content: By ``DetectionReport.to_dict``.
        path: A ``.png`` file.

    Raises:
        DependencyError: If matplotlib is missing.
    """
    figure = report_figure(content)
    with replaced_path(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def report_figure(content: Mapping[str, Any]) -> "Figure":
    """Draw a report as a matplotlib figure.

    Args:
        content: By ``DetectionReport.to_dict``.

    Raises:
        DependencyError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(
            "a PNG report needs matplotlib, which is not installed. Fix: pip install matplotlib."
        ) from error
    figure = Figure(figsize=(20, 8), layout="constrained")  # no pyplot: no global state
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
