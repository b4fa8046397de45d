"""Bulk jobs that lose nothing: a journal of every answer, one file at the end, any number of parts.

`Job` asks about all pictures of some sources and goes on where it was stopped; `merge` makes one
file of the journals of several parts.
"""

from pgvision.batch.coco_files import describe_origin, found_entry, picture_name
from pgvision.batch.coco_ids import KnownIds
from pgvision.batch.items import Shard
from pgvision.batch.jobs import Job
from pgvision.batch.merging import Merged, merge
from pgvision.batch.recipes import Outcome, Recipe, TaskName

__all__ = [
    "Job",
    "KnownIds",
    "Merged",
    "Outcome",
    "Recipe",
    "Shard",
    "TaskName",
    "describe_origin",
    "found_entry",
    "merge",
    "picture_name",
]
