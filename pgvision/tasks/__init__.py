"""Tasks, which users type: Detector, Segmenter, Captioner, Answerer and Reader."""

from pgvision.tasks.detect import Detector, Segmenter
from pgvision.tasks.run import Answered, Ask, Predictor, Task
from pgvision.tasks.text import Answerer, Captioner, Reader

__all__ = [
    "Answered",
    "Answerer",
    "Ask",
    "Captioner",
    "Detector",
    "Predictor",
    "Reader",
    "Segmenter",
    "Task",
]
