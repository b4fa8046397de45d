"""Bulk jobs that resume: a SQLite journal, one file at the end, any number of shards.

`Job` asks about all images of some sources and resumes where it was stopped; `merge` makes one file
of the journals of several shards.
"""

from pgvision.batch.coco_files import CocoEntries, describe_origin
from pgvision.batch.items import Shard
from pgvision.batch.jobs import Job, Merged, merge
from pgvision.batch.journal import Journal, Row
from pgvision.batch.recipes import Outcome, Recipe, TaskName

__all__ = [
    "CocoEntries",
    "Job",
    "Journal",
    "Merged",
    "Outcome",
    "Recipe",
    "Row",
    "Shard",
    "TaskName",
    "describe_origin",
    "merge",
]
