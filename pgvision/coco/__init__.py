"""COCO files: read with one set of checks, and written."""

from pgvision.coco.checks import Problems
from pgvision.coco.content import FIX, CocoContent, Entry, read_content
from pgvision.coco.writing import (
    annotation_entry,
    image_entry,
    relative_name,
    write_coco,
    write_results,
)

__all__ = [
    "FIX",
    "CocoContent",
    "Entry",
    "Problems",
    "annotation_entry",
    "image_entry",
    "read_content",
    "relative_name",
    "write_coco",
    "write_results",
]
