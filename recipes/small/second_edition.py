"""Trains the carried checkpoint with real eyes: ``python -m recipes.small.second_edition``.

Its tower begins as ten blocks of DINOv2, of which eight stay frozen: their features are read from
files (`recipes.features`). First the upper two learn under linear heads, and to say what
they see in the words of the carried tiny decoder: its own picture tokens on rendered scenes are
the teacher. Then the decoder, which began as tiny's, learns to read them.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from pgvision.arrays import FloatArray
from pgvision.training.samples import add_noise
from recipes.architecture import (
    TEXT_WIDTH,
    build_config,
    build_processor,
)
from recipes.batches import Batch, BatchMaker, Wording
from recipes.cards import write_card
from recipes.dense import AskedHead, DenseHead
from recipes.features import features_path
from recipes.grids import regrid_matrix
from recipes.optimisers import build_optimisers, has_bfloat16
from recipes.pointing import PlaceHead, ToldHead
from recipes.reading import read_text, text_losses
from recipes.run import Run, carry_out
from recipes.scenes import CLASSES
from recipes.scenes.vocabulary import SIGN_WORDS
from recipes.shards import COLOURS, load_shard
from recipes.starting import start_text_from
from recipes.state import data_digest
from recipes.teacher import teacher_path
from recipes.vision_tower import eyes_config, eyes_weights
from recipes.words import known_words

_LOG = logging.getLogger(__name__)
RESOLUTION: Final = 224
PATCH: Final = 14
GRID: Final = RESOLUTION // PATCH
BLOCKS: Final = 10
FROZEN: Final = 8
WORDING: Final = Wording(
    classes=(*CLASSES, "red blood cell", "white blood cell", "platelet"),
    same={"person": "worker"},
    phrases={"worker": ("worker", "person")},
    closed=("helmet", "head"),
)
# How often each set of pictures is drawn from, in each phase; divided among its views.
SHARES: Final = {
    "shard": (0.30, 0.37),
    "hardhat": (0.54, 0.55),
    "person": (0.06, 0.045),
    "mini": (0.05, 0.02),
    "blood": (0.05, 0.015),
}
_ABOUT: Final = "real eyes (DINOv2), trained on work sites: rendered ones and photographs"
_WEIGHTS: Final = {"told": 0.25}  # of losses that do not count whole
_LENGTHS: Final = (288, 320, 352, 384)  # rows are padded to these, so that few shapes are compiled


@dataclass(frozen=True)
class Settings:
    """What a run is; a resumed one is given them again."""

    steps: int
    vision_steps: int  # the first steps train the upper blocks alone
    seed: int = 1
    vision_images: int = 32  # pictures a step while the upper blocks are alone
    num_images: int = 12  # and afterwards
    num_prompts: int = 3
    learning_rate: float = 1.5e-3
    text_rate: float = 1.5e-3
    later: float = 0.15  # what is left of the upper blocks' rate in the second phase
    warmup: int = 60
    decay: float = 0.5  # the last share of each phase, over which its rate falls
    weight_decay: float = 0.05
    compiled: bool = True


@dataclass(frozen=True)
class Lesson:
    """One step's batch.

    Attributes:
        batch: Pictures as features.
        taught: ``(b, 100, d)`` picture tokens of the tiny checkpoint, NaN where it has none.
    """

    batch: Batch
    taught: Tensor | None = None


class SmallRecipe(nn.Module):
    """Model and training-only heads of one run."""

    def __init__(
        self, settings: Settings, processor: PaliGemmaProcessor, device: str = "cpu"
    ) -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.settings, self.processor, self.device = settings, processor, device
        vision = eyes_config(blocks=BLOCKS, resolution=RESOLUTION)
        self.model = PaliGemmaForConditionalGeneration(
            build_config(processor.tokenizer, vision)
        ).to(device)
        # Plain matrix products: on CPU their backward pass is faster than the fused kernel's.
        self.model.set_attn_implementation("eager")
        self.tower = getattr(
            self.model.model.vision_tower, "vision_model", self.model.model.vision_tower
        )
        counts = {"num_colours": len(COLOURS), "num_texts": len(SIGN_WORDS)}
        classes = len(WORDING.classes)
        self.head = DenseHead(384, num_classes=classes, **counts).to(device)
        self.read_head = DenseHead(TEXT_WIDTH, num_classes=classes, **counts).to(device)
        self.asked = AskedHead(TEXT_WIDTH).to(device)
        self.told = ToldHead(TEXT_WIDTH).to(device)
        self.place = PlaceHead(TEXT_WIDTH, grid=GRID).to(device)
        self.placed = PlaceHead(TEXT_WIDTH, grid=GRID).to(device)
        self._freeze()
        self._regrid = torch.from_numpy(regrid_matrix(10, GRID)).to(device)
        compiled = torch.compile if settings.compiled else (lambda function: function)
        self._see, self._read = compiled(self.see), compiled(read_text)
        self.first_loc = int(processor.tokenizer.convert_tokens_to_ids("<loc0000>"))

    def _freeze(self) -> None:
        for part in (self.tower.embeddings, *self.tower.encoder.layers[:FROZEN]):
            part.requires_grad_(False)

    def start(self, eyes: Path, tiny: Path) -> None:
        """Begin with DINOv2's blocks and the tiny checkpoint's language model."""
        state = eyes_weights(eyes, blocks=BLOCKS, resolution=RESOLUTION)
        self.tower.load_state_dict(state)
        start_text_from(self.model, self.processor.tokenizer, tiny)

    def see(self, features: Tensor) -> Tensor:
        """Return what the upper blocks make of cached features, ``(b, p, 384)``."""
        hidden = features
        for layer in self.tower.encoder.layers[FROZEN:]:
            hidden = layer(hidden, attention_mask=None)
        seen: Tensor = self.tower.post_layernorm(hidden)
        return seen

    def forward(self, batch: Lesson) -> dict[str, Tensor]:
        """Return the losses of a batch, by name, each with its weight in it."""
        losses = self._losses(batch.batch, batch.taught)
        return {name: _WEIGHTS.get(name, 1.0) * one for name, one in losses.items()}

    def _losses(self, batch: Batch, taught: Tensor | None) -> dict[str, Tensor]:
        dense = batch.dense.to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=has_bfloat16(self.device)):
            seen = self._see(batch.pictures.to(self.device))
            projected = self.model.model.multi_modal_projector(seen)
            losses = {"dense": self.head(seen, dense), "read": self.read_head(projected, dense)}
            losses["place"] = self.place(projected)
            if taught is not None:
                losses |= self._lesson(projected, taught.to(self.device))
            if len(batch.ids):
                losses |= text_losses(
                    self.model,
                    projected,
                    batch,
                    asked=self.asked,
                    told=self.told,
                    place=self.placed,
                    first_loc=self.first_loc,
                    read=self._read,
                    groups=2,
                    lengths=_LENGTHS,
                )
        return losses

    def _lesson(self, projected: Tensor, taught: Tensor) -> dict[str, Tensor]:
        """Return how far the picture tokens are from the teacher's, as a share of its spread."""
        some = ~taught[:, 0, 0].isnan()
        if not some.any():
            return {}
        goal = self._regrid @ taught[some]
        error = (projected[some].float() - goal).square().mean() / goal.var()
        return {"lesson": error}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Return what moves the weights."""
        return build_optimisers(
            self.model,
            (self.head, self.read_head, self.place),
            readers=(self.asked, self.told, self.placed),
            vision_steps=self.settings.vision_steps,
            weight_decay=self.settings.weight_decay,
        )

    def rate(self, step: int, group: Mapping[str, Any]) -> float:
        """Return the rate of what sees, or of what reads, at a step."""
        s = self.settings
        if step < s.vision_steps:
            fall = (s.vision_steps - step) / (s.decay * s.vision_steps)
            sees = s.learning_rate * min((step + 1) / s.warmup, max(fall, s.later), 1.0)
            return sees if group["sees"] else 0.0
        done, all_ = step - s.vision_steps, s.steps - s.vision_steps
        fall = min(1.0, (all_ - done) / (s.decay * all_))
        if group["sees"]:
            return s.learning_rate * s.later * fall
        return s.text_rate * min((done + 1) / s.warmup, fall)


class Data:
    """The shards of a folder with their features and, for rendered scenes, the teacher's tokens."""

    def __init__(self, folder: Path, processor: PaliGemmaProcessor) -> None:
        paths = [path for path in sorted(folder.glob("*.npz")) if features_path(path).exists()]
        shards = [load_shard(path, with_images=False) for path in paths]
        self.digest = data_digest(paths)
        features = [
            np.load(features_path(path), mmap_mode="r", allow_pickle=False) for path in paths
        ]
        self.makers = tuple(
            BatchMaker(
                shards,
                processor.tokenizer,
                GRID**2,
                features=features,
                shares=_shares(paths, phase),
                wording=WORDING,
            )
            for phase in (0, 1)
        )
        self._taught: list[FloatArray | None] = [
            np.load(teacher_path(path), mmap_mode="r", allow_pickle=False)
            if teacher_path(path).exists()
            else None
            for path in paths
        ]

    def draw(self, settings: Settings, step: int) -> Lesson:
        """Return the batch of a step, with the teacher's tokens while the tower is alone."""
        alone = step < settings.vision_steps
        batch = self.makers[0 if alone else 1].draw(
            (settings.seed, step),
            num_images=settings.vision_images if alone else settings.num_images,
            num_prompts=0 if alone else settings.num_prompts,
        )
        return Lesson(batch, self._lessons(batch) if alone else None)

    def _lessons(self, batch: Batch) -> Tensor:
        tokens = torch.full((len(batch.sources), 100, TEXT_WIDTH), torch.nan)
        for place, (source, row) in enumerate(zip(batch.sources, batch.rows, strict=True)):
            taught = self._taught[source]
            if taught is not None:
                tokens[place] = torch.from_numpy(taught[row].astype(np.float32))
        return tokens


def _shares(paths: Sequence[Path], phase: int) -> list[float]:
    groups = [next(name for name in SHARES if path.name.startswith(name)) for path in paths]
    return [SHARES[group][phase] / groups.count(group) for group in groups]


def train(
    settings: Settings,
    *,
    cache: Path,
    out: Path,
    eyes: Path,
    tiny: Path,
    device: str = "cpu",
    until: int | None = None,
    free: Sequence[str] = (),
) -> SmallRecipe:
    """Train to ``settings.steps``, resuming what lies in ``out``.

    Args:
        settings: The run.
        cache: Folder of shards with their features and lessons.
        out: Folder for the states and the curve.
        eyes: DINOv2's weights.
        tiny: The checkpoint that the language model begins with.
        device: Where to train.
        until: Stop after this step and save; the same call without it goes on.
        free: Settings that may differ from those of the run that is resumed.

    Raises:
        OptionError: If what lies in ``out`` was made with something else.
    """
    words = known_words(tiny)
    processor = build_processor(words, resolution=RESOLUTION, patch=PATCH)
    add_noise(processor.tokenizer)
    data = Data(cache, processor)
    recipe = SmallRecipe(settings, processor, device)
    size = sum(p.numel() for p in recipe.model.parameters()) / 1e6
    _LOG.info("%.2f M parameters, data %s", size, data.digest)
    run = Run(
        draw=lambda step, process: data.draw(settings, step),
        identity={**asdict(settings), "data": data.digest},
        steps=settings.steps,
        out=out,
        seed=settings.seed,
        free=free,
        until=until,
        device=device,
    )
    carry_out(recipe, run, begin=lambda: recipe.start(eyes, tiny))
    return recipe


def export(recipe: SmallRecipe, folder: Path) -> None:
    """Write the weights in half precision with the processor, as transformers does."""
    recipe.model.to(torch.float16).save_pretrained(folder)
    recipe.processor.save_pretrained(folder)
    names = {phrase for name in WORDING.classes for phrase in WORDING.phrases.get(name, (name,))}
    # Its closed set is not in its card: asked so it finds less than asked class by class.
    write_card(folder, about=_ABOUT, classes=sorted(names))


def main() -> None:
    """Train the small checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="shards and their features")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eyes", type=Path, required=True, help="DINOv2's weights")
    parser.add_argument("--tiny", type=Path, required=True, help="the carried tiny checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new-schedule", action="store_true", help="steps and rates may change")
    for name, kind in Settings.__annotations__.items():
        if kind in (int, float):
            flag = "--" + name.replace("_", "-")
            parser.add_argument(flag, type=kind, default=getattr(Settings, name, None))
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    numbers = {
        name: options[name] for name, kind in Settings.__annotations__.items() if kind is not bool
    }
    free = (
        ("steps", "learning_rate", "text_rate", "later", "decay") if options["new_schedule"] else ()
    )
    places = {name: options[name] for name in ("cache", "out", "eyes", "tiny", "device")}
    recipe = train(replace(Settings(1, 0), **numbers), **places, free=free)
    export(recipe, options["out"] / "checkpoint")


if __name__ == "__main__":
    main()
