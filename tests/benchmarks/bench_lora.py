"""A LoRA step: our trainer's model and loss against plain transformers and peft.

    python ../shared/tools/random_paligemma.py pg2 3b mix-224 OUT  # random weights, true shapes
    python tests/benchmarks/bench_lora.py --model OUT/google-paligemma2-3b-mix-224 --rounds 5

Both have the same checkpoint in bfloat16, the same rank and layers, the same batch of random
images, and AdamW. Their weights are loaded once: of the 3B shape each takes 6 GB. Steps alternate,
so that whatever else the machine does meets both. Prints the median seconds of a step of each, and
the ratio; below 1 ours is faster.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

from pgvision.training import TrainConfig
from pgvision.training.losses import Collator, add_objective, make_objective
from pgvision.training.model import TrainedModel
from pgvision.training.samples import Sample

RATE = 2e-4
PREFIX = "detect helmet"
SUFFIX = " ; ".join(
    f"<loc{at:04d}><loc0100><loc{at + 90:04d}><loc0300> helmet" for at in (90, 300, 600)
)


def random_images(count: int) -> list[np.ndarray]:
    """Return images ``(224, 224, 3)`` uint8, BGR."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(count)]


def stepper(model: Any, loss_of: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """Return a function that takes a step and returns its loss."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    model.train()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def ours(folder: Path, rank: int, images: list[np.ndarray]) -> Callable[[], float]:
    """Return the step of `pgvision.training`."""
    # Hard targets, mean over tokens: the loss of transformers.
    config = TrainConfig(model=str(folder), lora=rank, dtype="bfloat16", loc_sigma=0.0, steps=1)
    model = TrainedModel(config, torch.device("cpu"))
    collator = Collator(model.processor, max_length=model.max_length)
    samples = [Sample(str(number), bgr, PREFIX, SUFFIX) for number, bgr in enumerate(images)]
    length = float((collator(samples)["labels"] >= 0).sum(1).float().mean())
    add_objective(model.base, make_objective(config, collator, mean_length=length))

    def loss() -> torch.Tensor:
        batch = collator(samples)
        inputs = {name: value for name, value in batch.items() if torch.is_tensor(value)}
        found: torch.Tensor = model.trained(**inputs)["loss"]
        return found

    return stepper(model.trained, loss)


def plain(folder: Path, rank: int, images: list[np.ndarray]) -> Callable[[], float]:
    """Return the step of a model card: peft around the model, the processor's own labels."""
    processor = AutoProcessor.from_pretrained(folder)
    base = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    torch.manual_seed(0)
    layers = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))
    pictures = [Image.fromarray(bgr[..., ::-1].copy()) for bgr in images]

    def loss() -> torch.Tensor:
        batch = processor(
            images=pictures,
            text=[f"<image>{PREFIX}"] * len(pictures),
            suffix=[SUFFIX] * len(pictures),
            padding="longest",
            return_tensors="pt",
        )
        found: torch.Tensor = model(**batch, use_cache=False).loss
        return found

    return stepper(model, loss)


def main(arguments: list[str] | None = None) -> None:
    """Take steps of both in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args(arguments)
    images = random_images(options.batch_size)
    steps = {
        "pgvision": ours(options.model, options.rank, images),
        "transformers + peft": plain(options.model, options.rank, images),
    }
    gc.collect()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    # The first step of each allocates the optimizer's state: it is not measured.
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name].append(step())
            if number:
                taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        sys.stdout.write(
            f"{name}: {median(seconds):.3f} s a step (from {min(seconds):.3f} to "
            f"{max(seconds):.3f}), loss {losses[name][0]:.4f} -> {losses[name][-1]:.4f}\n"
        )
    ours_, plain_ = (median(seconds) for seconds in taken.values())
    sys.stdout.write(f"ratio: {ours_ / plain_:.3f}\n")


if __name__ == "__main__":
    main()
