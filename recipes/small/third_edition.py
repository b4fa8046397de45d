"""Trains ``small``, third edition: ``python -m recipes.small.third_edition``.

The frozen blocks are read from files (`recipes.small.cache`); the two upper blocks of the image
encoder, the projector and the language model learn. Training-only heads guide them, as in the
second edition. A run resumes from ``state.pt`` in its folder with the same command.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

from pgvision.files import replaced_path
from pgvision.training.model import set_resolution
from recipes.batches import Batch
from recipes.dense import AskedHead, DenseHead
from recipes.optimisers import has_bfloat16, muon_and_adamw
from recipes.pointing import PlaceHead, ToldHead
from recipes.reading import text_losses
from recipes.run import Together
from recipes.scenes.vocabulary import SIGN_WORDS
from recipes.shards import COLOURS
from recipes.small.prompts import WORDING, PhotographBatches
from recipes.small.sources import FROZEN
from recipes.vision_tower import eyes_weights

_LOG = logging.getLogger(__name__)
# Weights of the losses, those of the second edition. With a fifth of those on places ("edges",
# "arrived", "place", none on "placed") the first 440 steps did not relearn them: error of an edge
# 0.32 of the object's side, in the second edition 0.10.
_WEIGHTS: Final = dict.fromkeys(
    ("suffix", "dense", "asked", "looks", "edges", "arrived", "place", "placed"), 1.0
) | {"told": 0.25}
# Rotary positions of a grid with four times the tokens. Frequencies with a wavelength above 300
# positions turn four times slower, those below 75 as before: words keep their order, and from the
# first step attention falls on the object that is being written (loss "looks" 0.7 instead of 2.2).
ROPE: Final = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 300,
}
_WARMUP: Final = 60  # steps
_LOG_EVERY, _SAVE_EVERY = 20, 20  # steps


class ThirdEdition(nn.Module):
    """Model and training-only heads.

    Args:
        start: Checkpoint folder to begin with.
        resolution: Side of the image in pixels; another one than the folder's is the second stage
            of the article: positions are interpolated, and the decoder learns the finer grid.
        eyes: DINOv2's weights. At another resolution their own position table is read instead of
            one that was interpolated twice.
    """

    def __init__(self, start: Path, *, resolution: int, eyes: Path) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.processor = AutoProcessor.from_pretrained(start)
        self.model = PaliGemmaForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
        self.in_bfloat16 = has_bfloat16("cpu")
        # The fused attention is 3 times faster in bfloat16, and slower than plain products without.
        self.model.set_attn_implementation("sdpa" if self.in_bfloat16 else "eager")
        tower = self.model.model.vision_tower
        self.tower = getattr(tower, "vision_model", tower)
        if resolution != self.tower.config.image_size:
            set_resolution(self.model, self.processor, resolution)
            blocks = self.tower.config.num_hidden_layers
            table = eyes_weights(eyes, blocks=blocks, resolution=resolution)
            with torch.no_grad():
                self.tower.embeddings.position_embedding.weight.copy_(
                    table["embeddings.position_embedding.weight"]
                )
            text = self.model.config.text_config
            text.rope_parameters = ROPE | {"rope_theta": text.rope_parameters["rope_theta"]}
            text.max_position_embeddings = 2048
            language_model = self.model.model.language_model
            language_model.rotary_emb = type(language_model.rotary_emb)(config=text)
        self.grid = self.tower.config.image_size // self.tower.config.patch_size
        for part in (self.tower.embeddings, *self.tower.encoder.layers[:FROZEN]):
            part.requires_grad_(False)
        width = self.model.config.text_config.hidden_size
        self.head = DenseHead(
            self.tower.config.hidden_size,
            num_classes=len(WORDING.classes),
            num_colours=len(COLOURS),
            num_texts=len(SIGN_WORDS),
        )
        self.asked, self.told = AskedHead(width), ToldHead(width)
        self.place, self.placed = PlaceHead(width, grid=self.grid), PlaceHead(width, grid=self.grid)
        self.first_loc = int(self.processor.tokenizer.convert_tokens_to_ids("<loc0000>"))
        # The longest rows differ; few sizes keep padding and memory steady.
        self.lengths = [self.grid**2 + one for one in (16, 32, 48, 64, 96, 144)]

    def forward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Return the losses of a batch, by name; see `chosen_tokens`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16):
            hidden = batch.pictures
            for layer in self.tower.encoder.layers[FROZEN:]:
                hidden = layer(hidden, attention_mask=None)
            seen = self.tower.post_layernorm(hidden)
            projected = self.model.model.multi_modal_projector(seen)
            losses = {"dense": self.head(seen, batch.dense), "place": self.place(projected)}
            return losses | text_losses(
                self.model, projected, batch, asked=self.asked, told=self.told, place=self.placed,
                first_loc=self.first_loc, groups=3, lengths=self.lengths,
                kept=None if share == 1 else chosen_tokens(batch, share),
            )  # fmt: skip

    def optimiser(self) -> Together:
        """Return Muon for the matrices of the layers and AdamW for the rest, in five groups."""
        groups: dict[str, list[nn.Parameter]] = {
            name: [] for name in ("vision", "text", "vision rest", "text rest", "heads")
        }
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                part = "vision" if "vision_tower" in name or "projector" in name else "text"
                is_matrix = parameter.ndim == 2 and ".layers." in name
                groups[part if is_matrix else f"{part} rest"].append(parameter)
        for head in (self.head, self.asked, self.told, self.place, self.placed):
            groups["heads"] += list(head.parameters())
        named = [{"params": held, "name": name, "lr": 0.0} for name, held in groups.items()]
        return Together(muon_and_adamw(named[:2], named[2:], weight_decay=0.02))

    def trained(self) -> dict[str, Tensor]:
        """Return the state of all that learns."""
        names = {name for name, one in self.named_parameters() if one.requires_grad}
        return {name: one for name, one in self.state_dict().items() if name in names}


def chosen_tokens(batch: Batch, share: float) -> Tensor:
    """Draw a share of the image tokens for the language model, those on objects first.

    With half of them a step takes half the time. A model that is trained so has to end with all.

    Returns:
        ``(b, k)`` numbers of image tokens, in their order.
    """
    is_object = batch.dense.present.amax(2)
    chance = torch.rand(is_object.shape) + 0.5 * is_object
    chosen = chance.topk(round(share * is_object.shape[1]), dim=1).indices
    return chosen.sort(1).values


def learning_rates(
    step: int, *, steps: int, head_steps: int, decay: float, rate: float, vision_rate: float
) -> dict[str, float]:
    """Return the rate of each group at a step: the heads first, a rise, a plateau, a fall to 0."""
    fall = min(1.0, (steps - step) / (decay * steps))
    rise = min(1.0, max(0, step - head_steps) / _WARMUP)
    model = {
        "vision": vision_rate,
        "vision rest": vision_rate / 2,
        "text": rate,
        "text rest": rate / 2,
    }
    return {name: one * rise * fall for name, one in model.items()} | {"heads": 1.5e-3 * fall}


def save_state(
    recipe: ThirdEdition, optimiser: torch.optim.Optimizer, step: int, path: Path
) -> None:
    """Write the state of a run; an earlier one stays whole until this one is."""
    state = {"weights": recipe.trained(), "optimiser": optimiser.state_dict(), "step": step}
    with replaced_path(path) as aside:
        torch.save(state, aside)


def train(recipe: ThirdEdition, options: argparse.Namespace) -> None:
    """Take the steps that are left."""
    optimiser, state_path, step = recipe.optimiser(), options.out / "state.pt", 0
    # 1. Resume.
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        recipe.load_state_dict(state["weights"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
        _LOG.info("resumed at step %d", step)
    batches = PhotographBatches(
        options.cache, recipe.processor.tokenizer, recipe.grid**2, scenes=options.scenes
    )
    recent: list[dict[str, float]] = []
    started = time.monotonic()
    while step < options.steps:
        # 2. A batch is a function of its step.
        torch.manual_seed(step)
        batch = batches.draw((7, step), num_images=options.images, num_prompts=options.prompts)
        rates = learning_rates(
            step, steps=options.steps, head_steps=options.head_steps, decay=options.decay,
            rate=options.rate, vision_rate=options.vision_rate,
        )  # fmt: skip
        for group in optimiser.param_groups:
            group["lr"] = rates[group["name"]]
        # 3. One step. Heads are not clipped with the model: they are thrown away.
        losses = recipe(
            batch, options.tokens if step < options.steps - options.whole_steps else 1.0
        )
        total = torch.stack([_WEIGHTS[name] * one for name, one in losses.items()]).sum()
        if not torch.isfinite(total):
            raise SystemExit(f"step {step}: the loss is not finite: {losses}")
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(recipe.model.parameters(), 1.0)
        optimiser.step()
        step += 1
        # 4. Curve and state.
        recent.append({name: float(one.detach()) for name, one in losses.items()})
        if step % _LOG_EVERY == 0:
            line: dict[str, Any] = {"step": step, "seconds": round(time.monotonic() - started)}
            line |= {
                name: round(float(np.mean([one[name] for one in recent])), 4) for name in losses
            }
            recent = []
            with (options.out / "curve.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            _LOG.info("%s", line)
        if step % _SAVE_EVERY == 0 or step == options.steps:
            save_state(recipe, optimiser, step, state_path)


def export(recipe: ThirdEdition, folder: Path) -> None:
    """Write weights in half precision with the processor, as transformers does."""
    recipe.model.to(torch.float16).save_pretrained(folder)
    recipe.processor.save_pretrained(folder)


def main() -> None:
    """Train, then export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="files of recipes.small.cache")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint folder to begin with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=448, help="as that of the cache")
    parser.add_argument("--eyes", type=Path, required=True, help="DINOv2's weights, safetensors")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--images", type=int, default=12, help="images of one step")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of one image")
    parser.add_argument("--scenes", type=float, default=0.22, help="share of rendered scenes")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--vision-rate", type=float, default=6e-5)
    parser.add_argument("--head-steps", type=int, default=40, help="first steps: heads alone")
    parser.add_argument(
        "--decay", type=float, default=0.6, help="last share, over which rates fall"
    )
    parser.add_argument(
        "--tokens", type=float, default=0.5, help="share of image tokens for the language model"
    )
    parser.add_argument("--whole-steps", type=int, default=200, help="last steps: all of them")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = ThirdEdition(options.start, resolution=options.resolution, eyes=options.eyes)
    train(recipe, options)
    export(recipe, options.out / "checkpoint")


if __name__ == "__main__":
    main()
