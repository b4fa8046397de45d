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
    TEXT_LAYERS,
    TEXT_WIDTH,
    VISION_WIDTH,
    build_config,
    build_processor,
)
from pgvision.training.batches import Batch, BatchMaker
from pgvision.training.losses import AskedHead, DenseHead, suffix_loss
from pgvision.training.optimisers import build_optimisers, rate_share
from pgvision.training.scene_cache import COLOURS, codes_path, load_shard, shard_path
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
            seen = self._see(batch.pixels).last_hidden_state
            dense = self.head(seen, batch.dense)
            if len(batch.ids) == 0:
                return torch.zeros(()), dense
            projected = self.model.model.multi_modal_projector(seen)
            suffix = torch.zeros(())
            for rows in _rows_of_like_length(batch):
                middle, hidden = self._read(projected, batch, rows)
                # Only the positions before a suffix token predict one; the rest of the output
                # layer would be work for nothing.
                is_target = batch.is_target[rows, 1 : hidden.shape[1]]
                logits = self.model.lm_head(hidden[:, :-1][is_target])
                targets = batch.ids[rows, 1 : hidden.shape[1]][is_target]
                loss = suffix_loss(logits, targets, first_loc=self.maker.first_loc)
                suffix = suffix + loss * (len(targets) / int(batch.is_target.sum()))
                asked = self.asked(middle[:, :NUM_IMAGE_TOKENS], batch.dense, batch.asked, rows)
                dense = dense + asked * (len(rows) / len(batch.ids))
        return suffix, dense

    def _read(self, projected: Tensor, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the language model's middle and last layer give, ``(r, t, d)`` each."""
        end = int(batch.attention[rows].sum(1).max())
        pictures = projected[rows // self.settings.num_prompts]
        output = self.model.model(
            input_ids=batch.ids[rows, :end],
            attention_mask=batch.attention[rows, :end],
            token_type_ids=batch.types[rows, :end],
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=pictures)},
            use_cache=False,
            output_hidden_states=True,
        )
        return output.hidden_states[TEXT_LAYERS // 2], output.last_hidden_state

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
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return float(suffix.detach()), float(dense.detach())

    def _share_gradients(self) -> None:
        if not dist.is_initialized():
            return
        gradients = [
            parameter.grad
            for optimiser in self.optimisers
            for group in optimiser.param_groups
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
        """Write the state of the run."""
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "asked": self.asked.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }
        with replaced_path(folder / "state.pt") as aside:
            torch.save(state, aside)

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of a finished checkpoint; the heads begin anew."""
        held = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(held.state_dict())

    def resume(self, folder: Path) -> None:
        """Go on from ``folder``'s state."""
        state = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.asked.load_state_dict(state["asked"])
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        self.step = state["step"]


def _rows_of_like_length(batch: Batch, groups: int = 4) -> Iterable[Tensor]:
    """Yield row numbers, short rows apart from long ones, so that little is padding."""
    return batch.attention.sum(1).argsort(stable=True).chunk(groups)


def export_checkpoint(trainer: TinyTrainer, folder: Path) -> None:
    """Write the weights in half precision with the processor, as transformers does.

    The last weights: a moving average has nothing to smooth where the rate falls to nothing, and
    measured worse (AP 0.365 to 0.402).
    """
    trainer.model.to(torch.float16).save_pretrained(folder)
    trainer.processor.save_pretrained(folder)


def load_codes(shard_paths: Sequence[Path]) -> list[IntArray | None]:
    """Read the mask codes that lie beside shards; None for a shard that has none."""
    paths = [codes_path(path) for path in shard_paths]
    return [np.load(path) if path.exists() else None for path in paths]


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
    else:
        trainer.set_starting_weights()
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    _LOG.info("%.2f M parameters, %d shards here, step %d", size, len(shards), trainer.step)
    saved = logged = time.monotonic()
    recent: list[tuple[float, float]] = []
    while trainer.step < (until or settings.steps):
        images = settings.vision_images if trainer.vision_only else settings.num_images
        recent.append(trainer.train_step())
        if trainer.step % 50 == 0 and rank() == 0:
            now = time.monotonic()
            images *= len(recent) * int(os.environ.get("WORLD_SIZE", "1"))
            _log_curve(out, trainer.step, recent, images / (now - logged))
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
    parser.add_argument(
        "--vision-steps", type=int, default=0, help="first steps, for the vision tower alone"
    )
    parser.add_argument("--num-prompts", type=int, default=Settings.num_prompts)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to begin with")
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        steps=options.steps,
        vision_steps=options.vision_steps,
        num_prompts=options.num_prompts,
        seed=options.seed,
        learning_rate=options.learning_rate,
        compiled=True,
    )
    train(settings, cache=options.cache, out=options.out, start_from=options.start_from)


if __name__ == "__main__":
    main()
