"""A detection report as tables for the terminal."""

from dataclasses import astuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pgvision.evaluation.report import STAT_NAMES, DetectionReport


def report_tables(report: DetectionReport) -> Group:
    """Lay a report out: the COCO figures, figures without order, classes, answers, notes."""
    parts = [_overall(report), _classes(report)]
    if report.answers is not None:
        parts.append(_answers(report))
    notes = [Text(f"note: {note}") for note in report.notes]
    return Group(*parts, *notes)


def _figure(value: float | None) -> str:
    return "-" if value is None or value == -1 else f"{value:.3f}"


def _overall(report: DetectionReport) -> Table:
    table = Table(title=f"{report.iou_type}, {report.engine}: {_counts(report)}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    if report.stats is not None:
        for name, value in zip(STAT_NAMES, report.stats, strict=True):
            table.add_row(name, _figure(value))
    if report.ap_interval is not None:
        for name in ("ap", "ap50", "ap75"):
            low, high = getattr(report.ap_interval, name)
            table.add_row(f"{name.upper()}, any order", f"{_figure(low)} to {_figure(high)}")
    for figures in report.score_free:
        for name in ("f1", "precision", "recall", "average_recall"):
            table.add_row(f"{name} at IoU {figures.iou}", _figure(getattr(figures, name)))
    if report.best_f1 is not None:
        threshold, f1, precision, recall = astuple(report.best_f1)
        text = f"{f1:.3f} (P {precision:.3f}, R {recall:.3f})"
        table.add_row(f"best F1 at IoU 0.5, score >= {threshold:.3f}", text)
    if report.reliability is not None:
        table.add_row("expected calibration error", _figure(report.reliability.ece))
    return table


def _counts(report: DetectionReport) -> str:
    return (
        f"{report.num_images} images, {report.num_annotations} annotations "
        f"({report.num_crowds} crowds), {report.num_detections} detections"
    )


def _classes(report: DetectionReport) -> Table:
    table = Table(title="classes")
    table.add_column("class")
    for name in ("AP", "AP50", "AP75", "AR", "best F1", "at score", "annotations", "detections"):
        table.add_column(name, justify="right")
    for figures in report.per_class:
        best = figures.best_f1
        table.add_row(
            Text(figures.name),  # a name is no markup
            *map(_figure, (figures.ap, figures.ap50, figures.ap75, figures.ar)),
            _figure(None if best is None else best.f1),
            _figure(None if best is None else best.threshold),
            str(figures.num_annotations),
            str(figures.num_detections),
        )
    return table


def _answers(report: DetectionReport) -> Table:
    table = Table(title="answers")
    for name in ("answers with", "count", "share"):
        table.add_column(name, justify="left" if name == "answers with" else "right")
    if report.answers is not None:
        content = report.answers.to_dict()
        for name, share in content["shares"].items():
            table.add_row(name.replace("_", " "), str(content[f"with_{name}"]), _figure(share))
    return table
