"""One LoRA step at PaliGemma's 3B shape: our trainer against a plain transformers + peft loop.

Random bfloat16 weights, the same picture, prompt, answer, layers and rank on either side. One side
a run, so that peak memory is its own::

    python tests/benchmarks/bench_lora.py plain && python tests/benchmarks/bench_lora.py pgvision
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))
from bench_large import build_model, build_processor, peak_gib, say

from pgvision.runtime import find_checkpoint
from pgvision.training import TrainConfig
from pgvision.training.collator import Collator
from pgvision.training.losses import add_objective, make_objective
from pgvision.training.model import TrainedModel
from pgvision.training.samples import Sample
from pgvision.training.trainer import FineTuner, RunClock, make_arguments, set_length
from recipes.scenes import render_scene

PREFIX = "detect helmet"
SUFFIX = " ; ".join(
    f"<loc{at:04d}><loc0100><loc{at + 90:04d}><loc0300> helmet" for at in (90, 300, 600)
)


def plain(model: Any, processor: Any, settings: TrainConfig) -> list[float]:
    """The loop of the model card: peft around the model, the processor's own labels, AdamW."""
    from peft import LoraConfig, get_peft_model

    places = "|".join(settings.lora_targets)
    config = LoraConfig(
        r=settings.lora,
        lora_alpha=2 * (settings.lora or 8),
        target_modules=rf".*language_model.*\.({places})",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config).train()
    if settings.checkpointing:
        adapted.activation_checkpointing_enable({"use_reentrant": False})
        adapted.enable_input_require_grads()
    optimiser = torch.optim.AdamW(
        [one for one in adapted.parameters() if one.requires_grad], lr=2e-4
    )
    bgr = render_scene(60_000_001).image
    taken = []
    for _ in range(settings.steps or 0):
        start = time.perf_counter()
        batch = processor(
            images=[Image.fromarray(bgr[..., ::-1].copy())] * settings.batch_size,
            text=[f"<image>{PREFIX}"] * settings.batch_size,
            suffix=[SUFFIX] * settings.batch_size,
            return_tensors="pt",
        )
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            loss = adapted(**batch, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(time.perf_counter() - start)
    return taken


class Same(Dataset):  # type: ignore[type-arg]
    """One sample, as often as it is asked for."""

    def __init__(self, settings: TrainConfig) -> None:
        self.sample = Sample("scene", render_scene(60_000_001).image, PREFIX, SUFFIX)
        self.count = settings.batch_size * (settings.steps or 0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        return self.sample


class Clock(TrainerCallback):
    """Notes when steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def ours(model: Any, processor: Any, settings: TrainConfig) -> list[float]:
    """The trainer behind ``pgvision train``, without its validation."""
    collator = Collator(processor, max_length=4096)
    made = TrainedModel.__new__(TrainedModel)  # around a model that no folder contains
    made.config, made.base, made.processor = settings, model, processor
    made.card = find_checkpoint("google/paligemma-3b-pt-224")
    if settings.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    made.trained = made._with_adapters()
    add_objective(model, make_objective(settings, collator, None))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = make_arguments(settings, Path(folder), torch.device("cpu"))
        set_length(args, settings, 1)
        args.load_best_model_at_end = False
        args.set_save(strategy="no")
        args.set_evaluate(strategy="no")
        FineTuner(
            settings,
            rate=2e-4,
            model=made,
            args=args,
            samples=Same(settings),
            collator=collator,
            clock=RunClock(settings),
            callbacks=[clock],
            evaluator=lambda: {"ap": 0.0},
        ).train()
    return [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]


def main() -> None:
    """Build, take a few steps, say the middle one's seconds and the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("plain", "pgvision"))
    parser.add_argument("--family", type=int, choices=(1, 2), default=1, help="PaliGemma 1 or 2")
    parser.add_argument("--layers", type=int, help="of both towers; default: the true numbers")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    processor = build_processor()
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    model = build_model(options.family, image_token, options.layers)
    settings = TrainConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        checkpointing=options.checkpointing,
        lora=8,
        dtype="bfloat16",
        loc_sigma=0.0,
        model="tiny",
        eval_every=10**6,
    )
    built = peak_gib()
    taken = (plain if options.side == "plain" else ours)(model, processor, settings)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    say(
        f"{options.side}: {sorted(taken)[len(taken) // 2]:.2f} s a step (least {min(taken):.2f}, "
        f"first {taken[0]:.2f}), peak {peak_gib():.2f} GiB ({built:.2f} before the first), "
        f"{trained / 1e6:.1f} M trained; {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
