"""Bulk jobs on a Ray cluster: actors answer blocks of items, the driver writes the journal.

A block of at most 64 images is asked, returned and written to the journal as one. A worker that is
lost costs the block that it worked on, which Ray asks again elsewhere; a driver that is killed
resumes from the journal. Workers open the sources by the driver's paths, so these paths must
be the same on all machines.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pgvision.batch.items import Item
from pgvision.batch.jobs import Job
from pgvision.batch.journal import Row
from pgvision.batch.recipes import Asker
from pgvision.errors import DependencyError, OptionError
from pgvision.images.listing import VIDEO_ENDINGS

MOST_IN_A_BLOCK: Final = 64
_BLOCKS_EACH: Final = 2  # one that is worked on and one that waits, so that no actor idles


def run_on_ray(
    job: Job, *, address: str | None = None, num_actors: int = 1, gpus_each: float | None = None
) -> Iterator[int]:
    """Ask about everything that is left of a job, on a Ray cluster.

    Args:
        job: The job. Its journal is written here, by the driver alone.
        address: Address of the cluster, such as ``"auto"``; None: one on this machine, unless Ray
            runs in this process already.
        num_actors: Processes that load the model, each one copy.
        gpus_each: GPUs that each of them needs; None: one where the cluster has that many, a share
            where it has fewer, none where it has none.

    Yields:
        How many images and frames are answered so far, after each answer.

    Raises:
        DependencyError: If Ray is not installed.
        OptionError: If ``num_actors`` is below 1.
    """
    if num_actors < 1:
        raise OptionError(f"num_actors: expected at least 1, got {num_actors}")
    # 1. Connect to Ray.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            "this needs Ray; in a checkout of pgvision: pip install '.[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    with job.opened() as (journal, left):
        if not left:
            return
        # 2. Cut the open items into blocks.
        if gpus_each is None:
            gpus_each = min(1.0, ray.cluster_resources().get("GPU", 0.0) / num_actors)
        blocks = deque(_blocks(left, -(-len(left) // (num_actors * _BLOCKS_EACH))))
        # 3. Start the actors. Ray restarts a lost actor and repeats its blocks.
        make = ray.remote(max_restarts=-1, max_task_retries=-1, num_gpus=gpus_each)(_Worker)
        actors = [make.remote(job.asker) for _ in range(min(num_actors, len(blocks)))]
        frames = journal.frames()
        pending: dict[Any, Any] = {}

        def submit(actor: Any) -> None:
            if blocks:
                block = blocks.popleft()
                known = {item.name: frames[item.name] for item in block if item.name in frames}
                pending[actor.answer.remote(block, known)] = actor

        # 4. Submit several blocks to each actor, so that it never waits for the next one.
        for actor in actors * _BLOCKS_EACH:
            submit(actor)
        # 5. Write answers to the journal in the order of completion.
        count = 0
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            submit(pending.pop(done))
            for row in ray.get(done):
                journal.add(row)
                if row.result is not None:
                    count += 1
                    yield count


class _Worker:
    """An actor; the model is loaded once in its process."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def answer(self, items: list[Item], frames: dict[str, frozenset[int]]) -> list[Row]:
        """Answer a block of items."""
        return [row for _, rows in self._asker.ask(items, frames) for row in rows]


def _blocks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut items into blocks of ``size``, at most 64, images; each video is one block."""
    size = min(size, MOST_IN_A_BLOCK)
    block: list[Item] = []
    for item in items:
        # A video has many frames, so it ends the block before it, and is one of its own.
        is_video = Path(item.name).suffix.lower() in VIDEO_ENDINGS
        if block and (is_video or len(block) == size):
            yield block
            block = []
        block.append(item)
        if is_video:
            yield block
            block = []
    if block:
        yield block
