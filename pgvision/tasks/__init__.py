"""What users type: Detector, Segmenter, Captioner, Answerer and Reader."""

from pgvision.tasks.detector import Detector
from pgvision.tasks.segmenter import Segmenter
from pgvision.tasks.texts import Answerer, Captioner, Reader

__all__ = ["Answerer", "Captioner", "Detector", "Reader", "Segmenter"]
