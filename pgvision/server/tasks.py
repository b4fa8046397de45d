"""From fields to a task of the library, held to what the checkpoint knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgvision.results import Answer
from pgvision.runtime import Generator
from pgvision.server.fields import (
    AskFields,
    CaptionFields,
    Fields,
    ObjectFields,
    ReadFields,
    SegmentFields,
)
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter
from pgvision.tasks.asking import Task


@dataclass(frozen=True)
class Prepared:
    """A task that is ready to ask.

    Attributes:
        task: Its ``plan`` and ``read``.
        notes: What the caller should know: names that were asked for under another.
    """

    task: Task[Answer]
    notes: tuple[str, ...] = ()


def _objects(fields: ObjectFields, generator: Generator) -> Prepared:
    make = Segmenter if isinstance(fields, SegmentFields) else Detector
    task = make(
        fields.classes,
        generator=generator,
        conf=fields.conf,
        nms=fields.nms,
        max_objects=fields.max_objects,
        tile=fields.tile,
        soft=fields.soft,
    )
    return Prepared(task, task.notes)


def _caption(fields: CaptionFields, generator: Generator) -> Prepared:
    return Prepared(Captioner(fields.language, style=fields.style, generator=generator))


def _ask(fields: AskFields, generator: Generator) -> Prepared:
    answerer = Answerer(fields.language, generator=generator)
    return Prepared(answerer.task(fields.question, fields.choices))


def _read(fields: ReadFields, generator: Generator) -> Prepared:
    return Prepared(Reader(generator=generator))


@dataclass(frozen=True)
class Kind:
    """One route: what it takes, and the task that it makes of it."""

    name: str
    about: str
    fields: type[Fields]
    prepare: Callable[[Any, Generator], Prepared]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("detect", "Find objects: a box and a score for each.", ObjectFields, _objects),
        Kind("segment", "Find objects: box, mask and score.", SegmentFields, _objects),
        Kind("caption", "Say what a picture shows.", CaptionFields, _caption),
        Kind("ask", "Answer a question about a picture.", AskFields, _ask),
        Kind("read", "Read what is written in a picture.", ReadFields, _read),
    )
}
"""The tasks by name."""
