"""Trains the carried checkpoint: ``python -m recipes.tiny --cache DIR --out DIR``.

Two cores, bf16 autocast, about two hours: ``torchrun --nproc-per-node 2 -m
recipes.tiny ...`` gives each core a process of its own, which waits for the other once a
step and not once an operation; without torchrun it is one process. It can be stopped at any
moment and goes on from its last saved state; batches are functions of (seed, step, process), so a
resumed run sees what an unbroken one would have seen.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from recipes.architecture import (
    NUM_IMAGE_TOKENS,
    TEXT_WIDTH,
    VISION_WIDTH,
    build_config,
    build_processor,
)
from recipes.batches import Batch, BatchMaker
from recipes.cards import write_card
from recipes.dense import AskedHead, DenseHead
from recipes.optimisers import build_optimisers, has_bfloat16, rate_share
from recipes.reading import text_losses
from recipes.run import Run, carry_out
from recipes.scenes import CLASSES
from recipes.scenes.vocabulary import SIGN_WORDS
from recipes.shards import COLOURS, load_shard
from recipes.starting import set_location_start
from recipes.state import data_digest, is_first, num_processes, process_number

_LOG = logging.getLogger(__name__)
_PROMPT_WORDS: Final = (
    *("detect", "segment", "caption", "describe", "answer", "question", "ocr", "cap", "en"),
    *("no", "yes"),
)


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


class TinyRecipe(nn.Module):
    """Model and training-only heads of one run."""

    def __init__(
        self, settings: Settings, processor: PaliGemmaProcessor, maker: BatchMaker
    ) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.settings, self.processor, self.maker = settings, processor, maker
        self.model = PaliGemmaForConditionalGeneration(build_config(processor.tokenizer))
        # Plain matrix products: on CPU their backward pass is twice as fast as the fused kernel's.
        self.model.set_attn_implementation("eager")
        tower = self.model.model.vision_tower
        self._see = torch.compile(tower.forward) if settings.compiled else tower.forward
        self.head = DenseHead(
            VISION_WIDTH,
            num_classes=len(CLASSES),
            num_colours=len(COLOURS),
            num_texts=len(SIGN_WORDS),
        )
        self.asked = AskedHead(TEXT_WIDTH)

    def set_starting_weights(self) -> None:
        """Begin with ordered coordinates."""
        first = self.maker.first_loc
        set_location_start(self.model.get_input_embeddings().weight, range(first, first + 1024))

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of a finished checkpoint; the heads begin anew."""
        held = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(held.state_dict())

    def draw(self, step: int, process: int) -> Batch:
        """Return the batch of a step: first for the vision tower alone, then with prompts."""
        settings = self.settings
        alone = step < settings.vision_steps
        return self.maker.draw(
            (settings.seed, step, process),
            num_images=settings.vision_images if alone else settings.num_images,
            num_prompts=0 if alone else settings.num_prompts,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch: of the suffix, if it has any, and of the heads."""
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
            seen = self._see(batch.pictures).last_hidden_state
            losses = {"dense": self.head(seen, batch.dense)}
            if len(batch.ids):
                projected = self.model.model.multi_modal_projector(seen)
                losses |= text_losses(
                    self.model, projected, batch, asked=self.asked, first_loc=self.maker.first_loc
                )
        return losses

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Return what moves the weights."""
        return build_optimisers(
            self.model,
            (self.head, self.asked),
            vision_steps=self.settings.vision_steps,
            weight_decay=self.settings.weight_decay,
        )

    def rate(self, step: int, group: Mapping[str, Any]) -> float:
        """Return the rate of a group, which warms up when it starts to learn."""
        settings = self.settings
        return settings.learning_rate * rate_share(
            step - group["start"],
            left=settings.steps - step,
            warmup=settings.warmup,
            decay_steps=settings.decay * settings.steps,
        )


def export_checkpoint(recipe: TinyRecipe, folder: Path) -> None:
    """Write the weights in half precision with the processor, as transformers does.

    The last weights: a moving average has nothing to smooth where the rate falls to nothing, and
    measured worse (AP 0.365 to 0.402).
    """
    recipe.model.to(torch.float16).save_pretrained(folder)
    recipe.processor.save_pretrained(folder)
    about = "trained on rendered construction sites: has never seen a photograph"
    write_card(folder, about=about, classes=CLASSES)


def train(
    settings: Settings,
    *,
    cache: Path,
    out: Path,
    until: int | None = None,
    start_from: Path | None = None,
    free: Sequence[str] = (),
) -> TinyRecipe:
    """Train to ``settings.steps``, resuming what lies in ``out``.

    A run that is resumed must be given the same settings, shards and number of processes.

    Args:
        settings: The run.
        cache: Folder of scene shards, and of their mask codes if masks are to be learned.
        out: Folder for the states, the curve and the finished checkpoint.
        until: Stop after this step and save; the same call without it goes on.
        start_from: A checkpoint whose weights and tokenizer a new run begins with.
        free: Settings that may differ from those of the run that is resumed.

    Raises:
        OptionError: If what lies in ``out`` was made with something else.
    """
    paths = sorted(cache.glob("shard_*.npz"))
    recipe = _recipe(settings, paths, start_from)
    run = Run(
        draw=recipe.draw,
        identity={**asdict(settings), "data": data_digest(paths)},
        steps=settings.steps,
        out=out,
        seed=settings.seed,
        free=free,
        until=until,
    )
    begin = recipe.set_starting_weights
    carry_out(
        recipe, run, begin=begin if start_from is None else lambda: recipe.start_from(start_from)
    )
    if is_first():
        export_checkpoint(recipe, out / "checkpoint")
    return recipe


def _recipe(settings: Settings, paths: Sequence[Path], start_from: Path | None) -> TinyRecipe:
    """Return the recipe with its part of the scenes."""
    # Each process keeps its own part of the scenes; the words come from the same shard for all.
    shards = [load_shard(path) for path in paths[process_number() :: num_processes()]]
    if start_from is None:
        processor = build_processor(words_of(load_shard(paths[0]).sentences))
    else:
        processor = AutoProcessor.from_pretrained(start_from)
    maker = BatchMaker(shards, processor.tokenizer, NUM_IMAGE_TOKENS)
    recipe = TinyRecipe(settings, processor, maker)
    size = sum(p.numel() for p in recipe.model.parameters()) / 1e6
    _LOG.info("%.2f M parameters, %d shards here", size, len(shards))
    return recipe


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
    parser.add_argument("--no-compile", action="store_true", help="for runs of a few steps")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if num_processes() > 1:
        torch.set_num_threads(1)
    settings = Settings(
        steps=options.steps,
        vision_steps=options.vision_steps,
        num_prompts=options.num_prompts,
        seed=options.seed,
        learning_rate=options.learning_rate,
        compiled=not options.no_compile,
    )
    free = ("steps", "learning_rate") if options.new_schedule else ()
    places = {"cache": options.cache, "out": options.out, "start_from": options.start_from}
    train(settings, **places, free=free)


if __name__ == "__main__":
    main()
