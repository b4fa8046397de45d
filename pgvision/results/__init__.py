"""Results of all tasks: frozen, checked at construction, with conversions to other formats.

A task returns `DetectionResult`, `SegmentationResult` or `TextResult`; with ``on_error="record"`` a
`Failure` takes the place of an image that could not be read. All four have ``ok``.
"""

from pgvision.results.answer import Answer, Failure, TextResult
from pgvision.results.detection import DetectionResult
from pgvision.results.segmentation import SegmentationResult
from pgvision.results.tables import load_results, result_from_dict, save_results, to_table

__all__ = [
    "Answer",
    "DetectionResult",
    "Failure",
    "SegmentationResult",
    "TextResult",
    "load_results",
    "result_from_dict",
    "save_results",
    "to_table",
]
