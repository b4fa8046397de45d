"""Task of a job, reading ahead of the model, and answering: all that another machine can do."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from pgvision import __version__
from pgvision.batch.items import Item, packed_stamp
from pgvision.batch.journal import Row, Stamp
from pgvision.errors import DataError, OptionError, PgvisionError
from pgvision.files import readable_name
from pgvision.images import Frame, FrameFailure, iter_frames
from pgvision.images.containers import TarImage
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult
from pgvision.runtime import find_checkpoint, weights_digest

Outcome: TypeAlias = DetectionResult | SegmentationResult | TextResult | Failure
TaskName = Literal["detect", "segment", "caption", "ask", "read"]

# Options that change the speed of an answer and not the answer.
_FREE: Final = frozenset({"batch_size", "threads", "generator", "model", "revision", "drafts"})


@dataclass(frozen=True)
class Recipe:
    """A task by name, with the keywords that its class takes.

    Attributes:
        task: ``"detect"``, ``"segment"``, ``"caption"``, ``"ask"`` or ``"read"``.
        keywords: Keywords of `pgvision.Detector`, ``Segmenter``, ``Captioner``, ``Answerer`` or
            ``Reader``: ``classes``, ``language``, ``model``, ``conf``, ... For "ask" also
            ``question`` and ``choices``.

    Raises:
        OptionError: If there is no such task.

    Example:
        >>> Recipe("detect", {"classes": ["helmet"], "conf": 0.3}).settings["conf"]
        0.3
    """

    task: TaskName
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the task."""
        if self.task not in get_args(TaskName):
            raise OptionError(
                f"task: expected one of {', '.join(get_args(TaskName))}, got {self.task!r}"
            )

    @property
    def settings(self) -> dict[str, object]:
        """Everything that determines the answers, by name: task, options, digest of the weights."""
        # 1. Options that change answers; files by their content.
        settings = {
            name: _plain(value)
            for name, value in self.keywords.items()
            if name not in _FREE and value is not None
        }
        if self.keywords.get("calibrate") is not None:
            path = Path(self.keywords["calibrate"])
            settings["calibrate"] = hashlib.sha256(path.read_bytes()).hexdigest()
        # 2. The weights: by name, address or content.
        generator = self.keywords.get("generator")
        if generator is not None:
            weights = f"generator {generator.card.name}"
        else:
            revision = self.keywords.get("revision")
            card = find_checkpoint(self.keywords.get("model"), revision=revision)
            weights = weights_digest(card, revision)
        return {"task": self.task, **settings, "weights": weights, "pgvision": __version__}

    def stream(self, frames: Iterable[Frame | FrameFailure]) -> Iterator[Outcome]:
        """Load the model and yield results in order."""
        # A draft from the frame before changes the last bit of a probability now and then, and a
        # resumed job does not have that frame.
        task = make_task(self.task, {**self.keywords, "drafts": "off"})
        found: Iterator[Outcome] = task.stream(frames, on_error="record")
        return found


def make_task(task: TaskName, keywords: Mapping[str, Any]) -> Any:
    """Load the model; return the `Detector`, ... or the question of an `Answerer`."""
    from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

    given = dict(keywords)
    if task == "ask":
        question, choices = given.pop("question"), given.pop("choices", None)
        return Answerer(**given).task(question, choices)
    kinds = {"detect": Detector, "segment": Segmenter, "caption": Captioner, "read": Reader}
    make: Any = kinds[task]
    return make(**given)


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Iterable):
        return [_plain(element) for element in value]
    return str(value)


Read: TypeAlias = tuple[Item, Stamp | None, Frame | FrameFailure]
Wanted: TypeAlias = Callable[[Item, int], bool]

_AHEAD: Final = 2  # images that wait for the model; more would only cost memory


def read_items(
    items: Iterable[Item], *, stride: int, wanted: Wanted, num_threads: int
) -> Iterator[Read]:
    """Read items ahead of the model.

    Images are read and decoded in threads (OpenCV and Pillow release the GIL). A video is read
    frame by frame in its turn.

    Args:
        items: The items, drawn as they are read.
        stride: Of videos take each ``stride``-th frame.
        wanted: Whether a frame of a video is still to be answered.
        num_threads: Number of threads.

    Yields:
        The item, its fingerprint when it was read, and a frame or failure; in the order of the
        items.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="pgvision-batch-reader")
    waiting: deque[Future[list[Read] | Item]] = deque()
    try:
        while True:
            # Keep each thread busy, and a few images ready for the model.
            for item in islice(source, num_threads + _AHEAD - len(waiting)):
                waiting.append(pool.submit(_still, item))
            if not waiting:
                return
            read = waiting.popleft().result()
            yield from _video(read, stride, wanted) if isinstance(read, Item) else read
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _still(item: Item) -> list[Read] | Item:
    """Read an image; return a video, or a file of several images, unread."""
    if item.fault:
        return [(item, None, FrameFailure(item.name, 0, DataError(item.fault)))]
    if item.packed is not None:
        return [_packed(item, item.packed)]
    stamp = item.stamp
    with closing(_opened(item, stride=1)) as frames:  # type: ignore[type-var]
        frame, *others = islice(frames, 2)
    if others or (isinstance(frame, Frame) and frame.time is not None):
        return item  # a video, or several pages
    return [(item, stamp, replace(frame, source=item.name))]


def _packed(item: Item, packed: TarImage) -> Read:
    stamp = None
    try:
        data = packed.read()
        stamp = packed_stamp(packed, data)
        return item, stamp, replace(packed.frame(data), source=item.name)
    except PgvisionError as error:
        return item, stamp, FrameFailure(item.name, 0, error)


def _video(item: Item, stride: int, wanted: Wanted) -> Iterator[Read]:
    stamp = item.stamp
    for frame in _opened(item, stride=stride):
        if wanted(item, frame.index):
            yield item, stamp, replace(frame, source=item.name)


def _opened(item: Item, *, stride: int) -> Iterator[Frame | FrameFailure]:
    # A bare number would be a camera.
    source = f"./{item.source}" if item.source.isdecimal() else item.source
    return iter_frames([source], on_error="record", prefetch=0, stride=stride)


@dataclass(frozen=True)
class Asker:
    """Answers items with the model; it needs no journal, so that other machines can do it.

    Attributes:
        recipe: The task.
        stride: Of videos take each ``stride``-th frame.
        num_readers: Threads that read and decode ahead of the model.
    """

    recipe: Recipe
    stride: int = 1
    num_readers: int = 1

    def ask(
        self, items: Iterable[Item], frames: Mapping[str, frozenset[int]] | None = None
    ) -> Iterator[tuple[Outcome | None, list[Row]]]:
        """Ask about items.

        Args:
            items: The items.
            frames: Video frames that are answered already, by name.

        Yields:
            Each outcome with the rows that the journal needs; at the end perhaps rows alone.
        """
        stamps: dict[str, Stamp | None] = {}
        videos: dict[str, None] = {}  # that are not complete

        def wanted(item: Item, frame: int) -> bool:
            videos[item.name] = None
            return frames is None or frame not in frames.get(item.name, ())

        def stamped(reads: Iterable[Read]) -> Iterator[Frame | FrameFailure]:
            for item, stamp, frame in reads:
                stamps[item.name] = stamp
                yield frame

        current = ""
        reads = read_items(items, stride=self.stride, wanted=wanted, num_threads=self.num_readers)
        with closing(reads):  # type: ignore[type-var]
            for outcome in self.recipe.stream(stamped(reads)):
                name, rows = outcome.source or "", []
                # 1. Another name: the item before is complete.
                if current != name:
                    stamps.pop(current, None)
                    if current in videos:
                        del videos[current]
                        rows.append(Row(current))
                    current = name
                # 2. The row of this outcome; video frames have their number.
                failed = isinstance(outcome, Failure)
                place = outcome.index if isinstance(outcome, Failure) else outcome.frame_index
                place_in_video = place if name in videos else None
                row = Row(name, stamps[name], place_in_video, _repeatable(outcome), failed)
                yield outcome, [*rows, row]
        # 3. Complete the remaining videos, those without an open frame among them.
        yield None, [Row(name) for name in videos]


def _repeatable(outcome: Outcome) -> str:
    """Write an outcome as JSON, without what differs from run to run: times."""
    data = outcome.to_dict()
    if not isinstance(outcome, Failure):
        data |= {"timings": {}, "passes": None}
    return readable_name(json.dumps(data, ensure_ascii=False, allow_nan=False))
