"""A detection report as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pgvision.evaluation.headline import headline, kept_above, shown_figure


def report_tables(content: Mapping[str, Any]) -> Group:
    """Lay a report out: the COCO figures, figures without order, classes, answers, notes.

    Args:
        content: What ``DetectionReport.to_dict`` gives.
    """
    head = Text("\n".join(headline(content)))
    parts: list[RenderableType] = [head, _overall(content), _classes(content["per_class"])]
    if content["answers"] is not None:
        parts.append(_answers(content["answers"]))
    notes = [Text(f"note: {note}") for note in content["notes"]]
    return Group(*parts, *notes)


def _overall(content: Mapping[str, Any]) -> Table:
    table = Table(title=f"{content['iou_type']}, {content['engine']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (content["stats"] or {}).items():
        table.add_row(name, shown_figure(value))
    for name in ("ap", "ap50", "ap75") if content["ap_interval"] else ():
        low, high = map(shown_figure, content["ap_interval"][name])
        table.add_row(f"{name.upper()}, any order", f"{low} to {high}")
    if content["mean_f1"] is not None:
        row = f"mean F1 over IoU 0.5:0.95, {kept_above(content)}"
        table.add_row(row, shown_figure(content["mean_f1"]))
    if content["miou"] is not None:
        table.add_row("mean IoU of annotations, missed ones 0", shown_figure(content["miou"]))
    for figures in content["score_free"]:
        for name in ("f1", "precision", "recall", "average_recall"):
            table.add_row(f"{name} at IoU {figures['iou']}", shown_figure(figures[name]))
    if best := content["best_f1"]:
        text = "{f1:.3f} (P {precision:.3f}, R {recall:.3f})".format(**best)
        table.add_row(f"best F1 at IoU 0.5, score >= {best['threshold']:.3f}", text)
    if content["reliability"] is not None:
        table.add_row("expected calibration error", shown_figure(content["reliability"]["ece"]))
    return table


def _classes(per_class: list[dict[str, Any]]) -> Table:
    table = Table(title="classes")
    table.add_column("class")
    for name in ("AP", "AP50", "AP75", "AR", "best F1", "at score", "annotations", "detections"):
        table.add_column(name, justify="right")
    for figures in per_class:
        best = figures["best_f1"] or {"f1": None, "threshold": None}
        table.add_row(
            Text(figures["name"]),  # a name is no markup
            *(shown_figure(figures[name]) for name in ("ap", "ap50", "ap75", "ar")),
            shown_figure(best["f1"]),
            shown_figure(best["threshold"]),
            str(figures["num_annotations"]),
            str(figures["num_detections"]),
        )
    return table


def _answers(answers: Mapping[str, Any]) -> Table:
    table = Table(title="answers")
    for name in ("answers with", "count", "share"):
        table.add_column(name, justify="left" if name == "answers with" else "right")
    for name, share in answers["shares"].items():
        table.add_row(name.replace("_", " "), str(answers[f"with_{name}"]), shown_figure(share))
    return table
