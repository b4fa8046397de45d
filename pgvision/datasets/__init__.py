"""Data sets of labelled images: COCO, YOLO, Pascal VOC, LabelMe and JSONL."""

from pgvision.datasets.coco import coco_to_dataset, dataset_to_coco, read_coco
from pgvision.datasets.dataset import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    Polygons,
    Rle,
    Segmentation,
    file_digest,
    merge_datasets,
    split_by_hash,
)
from pgvision.datasets.examples import (
    Example,
    ExampleOptions,
    MaskCodec,
    iter_examples,
    read_examples,
    read_jsonl,
)
from pgvision.datasets.formats import detect_format
from pgvision.datasets.linter import CheckReport, check_dataset
from pgvision.datasets.outlines import plot_truth, segmentation_to_mask, truth_result
from pgvision.datasets.reading import (
    find_split,
    read_dataset,
    read_evaluation_part,
    read_splits,
    training_part,
    validation_part,
)
from pgvision.datasets.voc_labelme import read_labelme, read_voc
from pgvision.datasets.writing import WriteReport, write_dataset
from pgvision.datasets.yolo import read_yolo

__all__ = [
    "Annotation",
    "Category",
    "CheckReport",
    "Dataset",
    "Example",
    "ExampleOptions",
    "Finding",
    "ImageRecord",
    "MaskCodec",
    "Polygons",
    "Rle",
    "Segmentation",
    "WriteReport",
    "check_dataset",
    "coco_to_dataset",
    "dataset_to_coco",
    "detect_format",
    "file_digest",
    "find_split",
    "iter_examples",
    "merge_datasets",
    "plot_truth",
    "read_coco",
    "read_dataset",
    "read_evaluation_part",
    "read_examples",
    "read_jsonl",
    "read_labelme",
    "read_splits",
    "read_voc",
    "read_yolo",
    "segmentation_to_mask",
    "split_by_hash",
    "training_part",
    "truth_result",
    "validation_part",
    "write_dataset",
]
