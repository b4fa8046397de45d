"""Trains the carried checkpoint: ``python -m pgvision.training.tiny --cache DIR --out DIR``.

Two cores, bf16 autocast, about two hours: ``torchrun --nproc-per-node 2 -m
pgvision.training.tiny ...`` gives each core a process of its own, which waits for the other once a
step and not once an operation; without torchrun it is one process. It can be stopped at any
moment and goes on from its last saved state; batches are functions of (seed, step, rank), so a
resumed run sees what an unbroken one would have seen.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from pgvision.scenes import CLASSES
from pgvision.scenes.vocabulary import SIGN_WORDS
from pgvision.training.architecture import (
    NUM_IMAGE_TOKENS,
    TEXT_WIDTH,
    VISION_WIDTH,
    build_config,
    build_processor,
)
from pgvision.training.batches import Batch, BatchMaker
from pgvision.training.cards import write_card
from pgvision.training.dense import AskedHead, DenseHead
from pgvision.training.optimisers import build_optimisers, rate_share
from pgvision.training.reading import text_losses
from pgvision.training.runs import data_digest, load_state, save_state
from pgvision.training.shards import COLOURS, load_shard
from pgvision.training.starting import set_location_start

_LOG = logging.getLogger(__name__)
_PROMPT_WORDS: Final = (
    *("detect", "segment", "caption", "describe", "answer", "question", "ocr", "cap", "en"),
    *("no", "yes"),
)
_SAVE_EVERY: Final = 150.0  # seconds


@dataclass(frozen=True)
class Settings:
    """What a run is; a resumed one is given them again."""

    steps: int
    vision_steps: int = 0  # the first steps train the vision tower alone
    seed: int = 1
    vision_images: int = 32  # pictures a step for each process while the tower is alone
    num_images: int = 16  # and afterwards
    num_prompts: int = 2
    learning_rate: float = 1.5e-3
    warmup: int = 200
    decay: float = 0.5  # the last share of the run, over which the rate falls to nothing
    weight_decay: float = 0.05
    compiled: bool = False  # twice as fast after half a minute of compilation


def words_of(sentences: Iterable[str]) -> list[str]:
    """Collect the words that scenes speak, for the tokenizer."""
    words = {*_PROMPT_WORDS, *CLASSES, *COLOURS}
    for line in sentences:
        caption, reading, questions = json.loads(line)
        for text in (caption, reading, *(part for pair in questions for part in pair)):
            words.update(text.replace(",", " ").replace("?", " ").split())
    for text in SIGN_WORDS:
        words.update((*text.split(), *text.lower().split()))
    return sorted(words)


def rank() -> int:
    """Return this process's number among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


class TinyTrainer:
    """Model, training-only heads, and optimisers of one run."""

    def __init__(
        self, settings: Settings, processor: PaliGemmaProcessor, maker: BatchMaker
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.processor, self.maker = settings, processor, maker
        self.model = PaliGemmaForConditionalGeneration(build_config(processor.tokenizer))
        # Plain matrix products: on CPU their backward pass is twice as fast as the fused kernel's.
        self.model.set_attn_implementation("eager")
        tower = self.model.model.vision_tower
        self._see = torch.compile(tower) if settings.compiled else tower
        self.head = DenseHead(
            VISION_WIDTH,
            num_classes=len(CLASSES),
            num_colours=len(COLOURS),
            num_texts=len(SIGN_WORDS),
        )
        self.asked = AskedHead(TEXT_WIDTH)
        self.optimisers = build_optimisers(
            self.model,
            (self.head, self.asked),
            vision_steps=settings.vision_steps,
            weight_decay=settings.weight_decay,
        )
        self.step = 0

    def set_starting_weights(self) -> None:
        """Begin with ordered coordinates."""
        first = self.maker.first_loc
        set_location_start(self.model.get_input_embeddings().weight, range(first, first + 1024))

    @property
    def vision_only(self) -> bool:
        """Whether the next step trains the vision tower alone."""
        return self.step < self.settings.vision_steps

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the suffix loss (0 while the tower is alone) and the dense loss of a batch."""
        with torch.autocast("cpu", torch.bfloat16):
            seen = self._see(batch.pictures).last_hidden_state
            dense = self.head(seen, batch.dense)
            if len(batch.ids) == 0:
                return torch.zeros(()), dense
            projected = self.model.model.multi_modal_projector(seen)
            told = text_losses(
                self.model, projected, batch, asked=self.asked, first_loc=self.maker.first_loc
            )
        return told["suffix"], dense + told["asked"]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield every weight that learns, the heads' too."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                yield from group["params"]

    def train_step(self) -> tuple[float, float]:
        """Take one step and return its two losses."""
        settings = self.settings
        batch = self.maker.draw(
            (settings.seed, self.step, rank()),
            num_images=settings.vision_images if self.vision_only else settings.num_images,
            num_prompts=0 if self.vision_only else settings.num_prompts,
        )
        suffix, dense = self.losses(batch)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate_share(
                    self.step - group["start"],
                    left=settings.steps - self.step,
                    warmup=settings.warmup,
                    decay_steps=settings.decay * settings.steps,
                )
        (suffix + dense).backward()  # type: ignore[no-untyped-call]
        share_gradients(self.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return float(suffix.detach()), float(dense.detach())

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "asked": self.asked.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of a finished checkpoint; the heads begin anew."""
        held = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(held.state_dict())

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.asked.load_state_dict(state["asked"])
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        self.step = state["step"]


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes that train together, if there are any."""
    if not dist.is_initialized():
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def export_checkpoint(trainer: TinyTrainer, folder: Path) -> None:
    """Write the weights in half precision with the processor, as transformers does.

    The last weights: a moving average has nothing to smooth where the rate falls to nothing, and
    measured worse (AP 0.365 to 0.402).
    """
    trainer.model.to(torch.float16).save_pretrained(folder)
    trainer.processor.save_pretrained(folder)
    about = "trained on rendered construction sites: has never seen a photograph"
    write_card(folder, about=about, classes=CLASSES)


def train(
    settings: Settings,
    *,
    cache: Path,
    out: Path,
    until: int | None = None,
    start_from: Path | None = None,
    free: Iterable[str] = (),
) -> TinyTrainer:
    """Train to ``settings.steps``, resuming what lies in ``out``.

    A run that is resumed must be given the same settings, shards and number of processes.

    Args:
        settings: The run.
        cache: Folder of scene shards, and of their mask codes if masks are to be learned.
        out: Folder for the state, the curve and the finished checkpoint.
        until: Stop after this step and save; the same call without it goes on.
        start_from: A checkpoint whose weights and tokenizer a new run begins with.
        free: Settings that may differ from those of the run that is resumed.

    Raises:
        OptionError: If what lies in ``out`` was made with something else.
    """
    paths, world_size = sorted(cache.glob("shard_*.npz")), _num_processes()
    identity = {**asdict(settings), "data": data_digest(paths), "world_size": world_size}
    state = load_state(out, identity, free=tuple(free))
    trainer = _begin(settings, paths, state, start_from)
    out.mkdir(parents=True, exist_ok=True)
    saved = logged = time.monotonic()
    recent: list[tuple[float, float]] = []
    while trainer.step < (until or settings.steps):
        images = settings.vision_images if trainer.vision_only else settings.num_images
        recent.append(trainer.train_step())
        if trainer.step % 50 == 0 and rank() == 0:
            now = time.monotonic()
            images *= len(recent) * world_size
            _log_curve(out, trainer.step, recent, images / (now - logged))
            recent, logged = [], now
        if rank() == 0 and time.monotonic() - saved > _SAVE_EVERY:
            save_state(out, identity, trainer.state())
            saved = time.monotonic()
    if rank() == 0:
        save_state(out, identity, trainer.state())
        export_checkpoint(trainer, out / "checkpoint")
    return trainer


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _begin(
    settings: Settings,
    paths: Sequence[Path],
    state: dict[str, Any] | None,
    start_from: Path | None,
) -> TinyTrainer:
    """Return a trainer with its part of the scenes, as it starts or as it was left."""
    # Each process keeps its own part of the scenes; the words come from the same shard for all.
    shards = [load_shard(path) for path in paths[rank() :: _num_processes()]]
    if start_from is None:
        processor = build_processor(words_of(load_shard(paths[0]).sentences))
    else:
        processor = AutoProcessor.from_pretrained(start_from)
    maker = BatchMaker(shards, processor.tokenizer, NUM_IMAGE_TOKENS)
    trainer = TinyTrainer(settings, processor, maker)
    if state is not None:
        trainer.resume(state)
    elif start_from is not None:
        trainer.start_from(start_from)
    else:
        trainer.set_starting_weights()
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    _LOG.info("%.2f M parameters, %d shards here, step %d", size, len(shards), trainer.step)
    return trainer


def _log_curve(out: Path, step: int, recent: list[tuple[float, float]], rate: float) -> None:
    suffix, dense = np.mean(recent, axis=0)
    _LOG.info("step %d suffix %.3f dense %.3f, %.1f images/s", step, suffix, dense, rate)
    with (out / "curve.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"step": step, "suffix": suffix, "dense": dense, "rate": rate}) + "\n"
        )


def main() -> None:
    """Train the tiny checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="shards of scene_cache")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--vision-steps", type=int, default=0, help="first steps, for the vision tower alone"
    )
    parser.add_argument("--num-prompts", type=int, default=Settings.num_prompts)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to begin with")
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument(
        "--new-schedule", action="store_true", help="go on with other --steps or --learning-rate"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    settings = Settings(
        steps=options.steps,
        vision_steps=options.vision_steps,
        num_prompts=options.num_prompts,
        seed=options.seed,
        learning_rate=options.learning_rate,
        compiled=True,
    )
    free = ("steps", "learning_rate") if options.new_schedule else ()
    places = {"cache": options.cache, "out": options.out, "start_from": options.start_from}
    train(settings, **places, free=free)


if __name__ == "__main__":
    main()
