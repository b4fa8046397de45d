"""Evaluation: COCO figures, metrics for generative models, masks, text, calibration.

Needs numpy and a COCO evaluator, never torch; predictions may come from any program.
"""

from pgvision.evaluation.calibration import Calibration, fit_calibration
from pgvision.evaluation.detection import Mistakes, evaluate_detections, find_mistakes, match_scores
from pgvision.evaluation.inputs import OutputCounts
from pgvision.evaluation.matching import STAT_NAMES
from pgvision.evaluation.metrics import ReferringReport, evaluate_referring
from pgvision.evaluation.report import ClassMetrics, DetectionReport
from pgvision.evaluation.text import (
    CaptionReport,
    ReadingReport,
    TextReport,
    evaluate_answers,
    evaluate_captions,
    evaluate_reading,
    vqa_accuracy,
)

__all__ = [
    "STAT_NAMES",
    "Calibration",
    "CaptionReport",
    "ClassMetrics",
    "DetectionReport",
    "Mistakes",
    "OutputCounts",
    "ReadingReport",
    "ReferringReport",
    "TextReport",
    "evaluate_answers",
    "evaluate_captions",
    "evaluate_detections",
    "evaluate_reading",
    "evaluate_referring",
    "find_mistakes",
    "fit_calibration",
    "match_scores",
    "vqa_accuracy",
]
