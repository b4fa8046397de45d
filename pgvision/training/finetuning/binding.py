"""Holds a folder to one run: its settings, its data, how many processes share it."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from pgvision import __version__
from pgvision.errors import OptionError
from pgvision.files import write_text
from pgvision.runtime import Engine
from pgvision.training.finetuning.collator import Collator
from pgvision.training.finetuning.samples import Samples
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.runs import differences

_LOG = logging.getLogger(__name__)
RUN_NAME: Final = "run.json"
_PATIENCE: Final = 900.0  # seconds: a large checkpoint may have to be downloaded first


def num_processes() -> int:
    """Return how many processes train together, as torchrun and accelerate tell it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Return this process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return process_number() == 0


def is_switched_on(name: str) -> bool:
    """Whether a launcher has set a switch of the environment."""
    return os.environ.get(name, "false").lower() in ("1", "true")


def is_sharded() -> bool:
    """Whether each process is to hold a piece of the weights (FSDP), as accelerate tells it."""
    return is_switched_on("ACCELERATE_USE_FSDP")


def own_gpu() -> str | None:
    """Return the GPU of this process, where several processes share a machine's."""
    if num_processes() == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def figures_before(folder: Path, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the figures before the first step; a resumed run has noted them."""
    path = folder / RUN_NAME
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "before" not in run and is_first():
        run["before"] = validate()
        write_text(path, json.dumps(run, indent=1) + "\n")
    found: dict[str, float] = run.get("before", {})
    return found


def _wait_for(path: Path) -> None:
    """Let the first process bind the folder, so that all take the same number of steps."""
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise OptionError(f"out: the first process has not written {path}; see its error")
        time.sleep(0.1)


def bind(
    folder: Path,
    identity: Mapping[str, Any],
    count: Callable[[], int],
    *,
    free: Sequence[str] = (),
) -> int:
    """Hold a folder to one run, and return its number of steps.

    Args:
        folder: Where the run lies.
        identity: What it is, as plain data; the number of processes and the version join it.
        count: Returns the number of steps of a run that begins here.
        free: Names that may have changed; from now on they are bound to what they are now.

    Raises:
        OptionError: If it holds another run, or files of something else.
    """
    identity = {**identity, "processes": num_processes(), "version": __version__}
    identity |= {"sharded": True} if is_sharded() else {}
    path = folder / RUN_NAME
    if not is_first():
        _wait_for(path)
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise OptionError(f"out: {folder} is not empty and holds no run; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        steps = count()
        write_text(path, json.dumps({"identity": identity, "steps": steps}, indent=1) + "\n")
        return steps
    run = json.loads(path.read_text(encoding="utf-8"))
    if other := differences(run["identity"], identity, free=free):
        raise OptionError(
            f"out: {folder} holds a run with other settings: {other}. Give it the same again, or "
            "another folder"
        )
    if is_first() and run["identity"] != identity:
        write_text(path, json.dumps({**run, "identity": identity}, indent=1) + "\n")
    return int(run["steps"])


def count_steps(
    settings: FinetuneSettings, engine: Engine, samples: Samples, collator: Collator
) -> int:
    """Return how many steps a run has; minutes are turned into steps by a short measurement."""
    size = settings.batch_size * settings.accumulation * num_processes()
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is not None:
        return max(1, round(settings.epochs * sum(map(len, samples.sources)) / size))
    seconds = 60 * float(settings.minutes or 0)
    taken = []
    for number in range(4):
        start = time.monotonic()
        first = number * settings.batch_size
        batch = collator([samples[first + k] for k in range(settings.batch_size)])
        inputs = {
            name: batch[name].to(engine.model.device)
            for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
        }
        engine.model(
            **inputs, logits_to_keep=batch["kept"], use_cache=False
        ).logits.mean().backward()
        taken.append(time.monotonic() - start)
    engine.model.zero_grad(set_to_none=True)
    each = sorted(taken)[1] * settings.accumulation * 1.15  # the optimiser's share
    steps = max(1, int(0.85 * seconds / each))  # the rest is for validation
    _LOG.info("%.2f s a step: %d steps in %.1f minutes", each, steps, seconds / 60)
    return steps
