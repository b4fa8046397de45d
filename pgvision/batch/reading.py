"""Image reading and decoding in threads ahead of the model, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from pgvision.batch.database import Stamp
from pgvision.batch.items import Item, stored_stamp
from pgvision.errors import DataError, PgvisionError
from pgvision.images import Frame, FrameFailure, iter_frames
from pgvision.images.containers import VIDEO_ENDINGS, sniff
from pgvision.images.stored import Stored

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
    if item.stored is not None:
        return [_stored(item, item.stored)]
    if _is_video(item):
        return item
    stamp = item.stamp
    with closing(_opened(item, stride=1)) as frames:  # type: ignore[type-var]
        frame, *others = islice(frames, 2)
    if others or (isinstance(frame, Frame) and frame.time is not None):
        return item  # several pages, or a video that neither its name nor its first bytes showed
    return [(item, stamp, replace(frame, source=item.name))]


def _stored(item: Item, stored: Stored) -> Read:
    stamp = None
    try:
        data = stored.read()
        stamp = stored_stamp(stored, data)
        return item, stamp, replace(stored.frame(data), source=item.name)
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


def _is_video(item: Item) -> bool:
    if "://" in item.source:
        ending = Path(item.source.partition("?")[0]).suffix
        return ending.lower() in VIDEO_ENDINGS
    try:
        with Path(item.source).open("rb") as file:
            kind = sniff(file.read(16))
    except (OSError, ValueError):
        return False
    return kind == "video" or (kind is None and Path(item.source).suffix.lower() in VIDEO_ENDINGS)
