"""Measure a generative detector honestly: COCO figures, answers, masks, text, calibration.

Needs numpy and an evaluator, never torch; predictions may come from any program.
"""

from pgvision.evaluation.answers import AnswerCounts, count_answers
from pgvision.evaluation.calibration import Calibration, fit_calibration
from pgvision.evaluation.captions import CaptionReport, evaluate_captions
from pgvision.evaluation.detection import evaluate_detections, match_scores
from pgvision.evaluation.engines import STAT_NAMES
from pgvision.evaluation.referring import (
    BigVisionReferring,
    ReferringAnswer,
    ReferringReport,
    big_vision_referring,
    evaluate_referring,
)
from pgvision.evaluation.report import DetectionReport
from pgvision.evaluation.text import TextReport, evaluate_answers
from pgvision.evaluation.vqa import vqa_accuracy

__all__ = [
    "STAT_NAMES",
    "AnswerCounts",
    "BigVisionReferring",
    "Calibration",
    "CaptionReport",
    "DetectionReport",
    "ReferringAnswer",
    "ReferringReport",
    "TextReport",
    "big_vision_referring",
    "count_answers",
    "evaluate_answers",
    "evaluate_captions",
    "evaluate_detections",
    "evaluate_referring",
    "fit_calibration",
    "match_scores",
    "vqa_accuracy",
]
