"""COCO files: read piece by piece and checked, by one notion of what is sound, and written."""

from pgvision.coco.content import FIX, CocoContent, Entry, outline_area
from pgvision.coco.problems import Problems
from pgvision.coco.reading import read_content
from pgvision.coco.stream import holds_objects
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
    "holds_objects",
    "image_entry",
    "outline_area",
    "read_content",
    "relative_name",
    "write_coco",
    "write_results",
]
