"""Pictures read and decoded by several threads ahead of the model, in order, a few at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from pgvision.batch.items import Item, Stamp, stored_stamp
from pgvision.errors import PgvisionError
from pgvision.images import Frame, FrameFailure, iter_frames
from pgvision.images.containers import VIDEO_ENDINGS, sniff
from pgvision.images.stored import Stored

Read: TypeAlias = tuple[Item, Stamp | None, Frame | FrameFailure]
Wanted: TypeAlias = Callable[[Item, int], bool]

_AHEAD: Final = 2
"""Pictures that wait beside those that are being read: more would only hold memory."""


def read_items(
    items: Iterable[Item], *, stride: int, wanted: Wanted, num_threads: int
) -> Iterator[Read]:
    """Read items ahead of whoever takes their frames.

    Pictures are read and decoded in threads (OpenCV and Pillow let others work meanwhile); a
    video, whose frames follow from one another, is read when its turn comes.

    Args:
        items: What to read, drawn as it is read.
        stride: Of videos take each ``stride``-th frame.
        wanted: Says whether a frame of a video is still to be asked about.
        num_threads: How many read at a time.

    Yields:
        The item, its stamp as it was read, and a frame or the reason why there is none; in the
        order of the items.
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
    """Read a picture; a video is given back as it is."""
    if item.stored is not None:
        return [_stored(item, item.stored)]
    if _is_video(item):
        return item
    stamp = item.stamp
    with closing(_opened(item, stride=1)) as frames:  # type: ignore[type-var]
        frame = next(frames)
    if isinstance(frame, Frame) and frame.time is not None:
        return item  # what nothing but the try showed
    return [(item, stamp, replace(frame, source=item.name))]


def _stored(item: Item, stored: Stored) -> Read:
    stamp = None
    try:
        data = stored.read()
        stamp = stored_stamp(stored, data)
        return item, stamp, stored.frame(data)
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
