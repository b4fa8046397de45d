"""Trains the carried checkpoint: ``python -m pgvision.training.tiny --cache DIR --out DIR``.

Two cores, bf16 autocast, about 90 minutes: ``torchrun --nproc-per-node 2 -m
pgvision.training.tiny ...`` gives each core a process of its own, which waits for the other once a
step and not once an operation; without torchrun it is one process. It can be stopped at any
moment and goes on from its last saved state; batches are functions of (seed, step, rank), so a
resumed run sees what an unbroken one would have seen.
"""

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from transformers import (
    AutoProcessor,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pgvision.arrays import IntArray
from pgvision.files import replaced_path
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
from pgvision.training.losses import AskedHead, DenseHead, suffix_loss
from pgvision.training.scene_cache import COLOURS, load_shard, shard_path

_LOG = logging.getLogger(__name__)
_PROMPT_WORDS: Final = (
    *("detect", "segment", "caption", "describe", "answer", "question", "ocr", "cap", "en"),
    *("no", "yes"),
)
_SAVE_EVERY: Final = 150.0  # seconds


@dataclass(frozen=True)
class Settings:
    """What a run is; stored beside its state."""

    steps: int
    seed: int = 1
    num_images: int = 16  # for each process
    num_prompts: int = 2
    learning_rate: float = 1.2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    ema: float = 0.998


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
    """Model, dense head, optimiser and moving average of one run."""

    def __init__(
        self, settings: Settings, processor: PaliGemmaProcessor, maker: BatchMaker
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.processor, self.maker = settings, processor, maker
        self.model = PaliGemmaForConditionalGeneration(build_config(processor.tokenizer))
        self.head = DenseHead(
            VISION_WIDTH,
            num_classes=len(CLASSES),
            num_colours=len(COLOURS),
            num_texts=len(SIGN_WORDS),
        )
        self.asked = AskedHead(TEXT_WIDTH)
        parameters = [*self.model.parameters(), *self.head.parameters(), *self.asked.parameters()]
        self.optimiser = torch.optim.AdamW(
            parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.step = 0

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the suffix loss and the dense loss of a batch."""
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model.model.vision_tower(batch.pixels).last_hidden_state
            projected = self.model.model.multi_modal_projector(seen)
            repeated = projected.repeat_interleave(self.settings.num_prompts, 0)
            hidden = self.model.model(
                input_ids=batch.ids,
                attention_mask=batch.attention,
                token_type_ids=batch.types,
                mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=repeated)},
                use_cache=False,
            ).last_hidden_state
            # Only the positions before a suffix token predict one; the rest of the output layer
            # would be work for nothing.
            logits = self.model.lm_head(hidden[:, :-1][batch.is_target[:, 1:]])
            targets = batch.ids[:, 1:][batch.is_target[:, 1:]]
            dense = self.head(seen, batch.dense)
            dense = dense + self.asked(hidden[:, :NUM_IMAGE_TOKENS], batch.dense, batch.asked)
        return suffix_loss(logits, targets, first_loc=self.maker.first_loc), dense

    def train_step(self) -> tuple[float, float]:
        """Take one step and return its two losses."""
        settings = self.settings
        batch = self.maker.draw(
            (settings.seed, self.step, rank()),
            num_images=settings.num_images,
            num_prompts=settings.num_prompts,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * _schedule(self.step, settings)
        suffix, dense = self.losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        (suffix + dense).backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # The average follows faster at the start, when old weights are worth little.
        keep = min(settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)
        return float(suffix.detach()), float(dense.detach())

    def _share_gradients(self) -> None:
        if not dist.is_initialized():
            return
        gradients = [
            parameter.grad
            for group in self.optimiser.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def save(self, folder: Path) -> None:
        """Write the state of the run, and the averaged weights as a loadable checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "asked": self.asked.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        with replaced_path(folder / "state.pt") as aside:
            torch.save(state, aside)

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of a finished checkpoint; the heads begin anew."""
        held = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(held.state_dict())
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}

    def resume(self, folder: Path) -> None:
        """Go on from ``folder``'s state."""
        state = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.asked.load_state_dict(state["asked"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.step = state["average"], state["step"]


def _schedule(step: int, settings: Settings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def export_checkpoint(trainer: TinyTrainer, folder: Path) -> None:
    """Write the averaged weights in half precision with the processor, as transformers does."""
    trainer.model.load_state_dict(trainer.average)
    trainer.model.to(torch.float16).save_pretrained(folder)
    trainer.processor.save_pretrained(folder)


def load_codes(shard_paths: Sequence[Path]) -> list[IntArray] | None:
    """Read the mask codes that lie beside shards, if all have been written."""
    paths = [path.with_name(path.name.replace("shard", "codes")) for path in shard_paths]
    paths = [path.with_suffix(".npy") for path in paths]
    return [np.load(path) for path in paths] if all(path.exists() for path in paths) else None


def train(
    settings: Settings,
    *,
    cache: Path,
    out: Path,
    until: int | None = None,
    start_from: Path | None = None,
) -> TinyTrainer:
    """Train to ``settings.steps``, resuming what lies in ``out``.

    Args:
        settings: The run.
        cache: Folder of scene shards, and of their mask codes if masks are to be learned.
        out: Folder for the state, the curve and the finished checkpoint.
        until: Stop after this step and save; the same call without it goes on.
        start_from: A checkpoint whose weights and tokenizer a new run begins with.
    """
    # Each process keeps its own part of the scenes; the words come from the same shard for all.
    paths = sorted(cache.glob("shard_*.npz"))[rank() :: int(os.environ.get("WORLD_SIZE", "1"))]
    shards = [load_shard(path) for path in paths]
    if start_from is None:
        processor = build_processor(words_of(load_shard(shard_path(cache, 0)).sentences))
    else:
        processor = AutoProcessor.from_pretrained(start_from)
    maker = BatchMaker(shards, load_codes(paths), processor.tokenizer, NUM_IMAGE_TOKENS)
    trainer = TinyTrainer(settings, processor, maker)
    if (out / "state.pt").exists():
        trainer.resume(out)
    elif start_from is not None:
        trainer.start_from(start_from)
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    _LOG.info("%.2f M parameters, %d shards here, step %d", size, len(shards), trainer.step)
    saved = logged = time.monotonic()
    recent: list[tuple[float, float]] = []
    while trainer.step < (until or settings.steps):
        recent.append(trainer.train_step())
        if trainer.step % 50 == 0 and rank() == 0:
            now = time.monotonic()
            images = len(recent) * settings.num_images * int(os.environ.get("WORLD_SIZE", "1"))
            rate = images / (now - logged)
            _log_curve(out, trainer.step, recent, rate)
            recent, logged = [], now
        if rank() == 0 and time.monotonic() - saved > _SAVE_EVERY:
            trainer.save(out)
            saved = time.monotonic()
    if rank() == 0:
        trainer.save(out)
        export_checkpoint(trainer, out / "checkpoint")
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to begin with")
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(steps=options.steps, seed=options.seed, learning_rate=options.learning_rate)
    train(settings, cache=options.cache, out=options.out, start_from=options.start_from)


if __name__ == "__main__":
    main()
