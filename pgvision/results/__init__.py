"""What every task returns: frozen, checked at construction, and with exits to other formats.

`DetectionResult`, `SegmentationResult` and `TextResult` are answers; `Failure` takes their place in
a list when a frame could not be read and ``on_error="record"`` was asked for. All four have ``ok``.
"""

from pgvision.results.answer import Answer
from pgvision.results.detection import DetectionResult
from pgvision.results.failure import Failure
from pgvision.results.reading_back import result_from_dict
from pgvision.results.segmentation import SegmentationResult
from pgvision.results.text import TextResult

__all__ = [
    "Answer",
    "DetectionResult",
    "Failure",
    "SegmentationResult",
    "TextResult",
    "result_from_dict",
]
