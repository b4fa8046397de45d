"""Files of examples: COCO, YOLO, Pascal VOC, LabelMe and JSONL, read, written and checked."""

from pgvision.datasets.budgets import estimate_tokens, token_budget
from pgvision.datasets.check_report import CheckReport, Forecast
from pgvision.datasets.checks import check_dataset
from pgvision.datasets.coco import coco_to_dataset, dataset_to_coco, read_coco
from pgvision.datasets.examples import Example, ExampleOptions, MaskCodec, iter_examples
from pgvision.datasets.jsonl import read_examples, read_jsonl
from pgvision.datasets.labelme import read_labelme
from pgvision.datasets.parts import find_split, part_of, training_part, validation_part
from pgvision.datasets.reading import FORMATS, detect_format, read_dataset, read_splits
from pgvision.datasets.records import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    Polygons,
    Rle,
    Segmentation,
)
from pgvision.datasets.round_trip import RoundTrip, round_trip
from pgvision.datasets.segmentations import segmentation_to_mask
from pgvision.datasets.splits import split_by_hash
from pgvision.datasets.voc import read_voc
from pgvision.datasets.writing import WriteReport, write_dataset
from pgvision.datasets.yolo import read_yolo

__all__ = [
    "FORMATS",
    "Annotation",
    "Category",
    "CheckReport",
    "Dataset",
    "Example",
    "ExampleOptions",
    "Finding",
    "Forecast",
    "ImageRecord",
    "MaskCodec",
    "Polygons",
    "Rle",
    "RoundTrip",
    "Segmentation",
    "WriteReport",
    "check_dataset",
    "coco_to_dataset",
    "dataset_to_coco",
    "detect_format",
    "estimate_tokens",
    "find_split",
    "iter_examples",
    "part_of",
    "read_coco",
    "read_dataset",
    "read_examples",
    "read_jsonl",
    "read_labelme",
    "read_splits",
    "read_voc",
    "read_yolo",
    "round_trip",
    "segmentation_to_mask",
    "split_by_hash",
    "token_budget",
    "training_part",
    "validation_part",
    "write_dataset",
]
