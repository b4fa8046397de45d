"""The same job on many machines: Ray Data hands items to actors, the driver keeps the journal.

Every answer comes back to the driver and is a row of its journal before it counts: a worker that is
lost costs the items that it had in hand, which Ray gives to another, and a driver that is killed
goes on from the journal. Ray's own checkpoints are not used: they commit by blocks of files.
Workers read the sources by the same paths, so that these lie where all machines see them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, Final

from pgvision.batch.items import Item
from pgvision.batch.jobs import Job
from pgvision.batch.journal import Row
from pgvision.errors import DependencyError, OptionError
from pgvision.images.stored import Stored

_ITEMS_AT_ONCE: Final = 16
_BLOCKS_AN_ACTOR: Final = 8


def run_on_ray(
    job: Job, *, address: str | None = None, num_actors: int = 1, gpus_each: float = 0.0
) -> Iterator[int]:
    """Ask about everything that is left of a job, on a Ray cluster.

    Args:
        job: The job. Its journal is written here, by the driver alone.
        address: Of the cluster, such as ``"auto"``; None: one on this machine, unless Ray runs in
            this process already.
        num_actors: Processes that hold the model, each with one copy.
        gpus_each: GPUs that each of them needs.

    Yields:
        How many pictures and frames are answered so far, as they come.

    Raises:
        DependencyError: If Ray is not installed.
        OptionError: If there are no actors.
    """
    if num_actors < 1:
        raise OptionError(f"num_actors: expected at least 1, got {num_actors}")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nobody is told
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DependencyError("this needs Ray: pip install 'pgvision[ray]'") from error
    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    with job.opened() as (journal, _, left):
        if not left:
            return
        dataset = ray.data.from_items(
            [{"item": json.dumps(astuple(one))} for one in left],
            override_num_blocks=min(len(left), _BLOCKS_AN_ACTOR * num_actors),
        ).map_batches(
            Asker,
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            batch_size=_ITEMS_AT_ONCE,
            num_gpus=gpus_each or None,
        )
        count = 0
        for line in dataset.iter_rows():
            row: Row = json.loads(line["row"])
            journal.add(row)
            count += row["type"] == "answer"
            yield count


class Asker:
    """What an actor holds: the job, and through it the model, which is loaded once a process.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Answer some items; their rows as JSON."""
        items = []
        for line in batch["item"].tolist():
            name, at, source, stored = json.loads(line)
            items.append(Item(name, at, source, stored=Stored(*stored) if stored else None))
        rows: list[str] = []
        for _ in self._job.answers(items, lambda row: rows.append(json.dumps(row))):
            pass
        return {"row": rows}
