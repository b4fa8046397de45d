"""Train the mask codec; ``python -m vqvae train`` is its command.

Every step draws its masks, its flips and its warps from a generator seeded by (seed, step), so a
run that was stopped and resumed sees exactly what an unbroken run would have seen.
"""

import hashlib
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pgvision.errors import CodecError, OptionError
from pgvision.files import replaced_path
from vqvae.checkpoint import save_checkpoint
from vqvae.model import MASK_SIDE, NUM_CODES, SHARPNESS, MaskVqVae

_LOG = logging.getLogger(__name__)
_WARMUP_STEPS = 50
# The first steps train without a codebook: one that starts on random features collapses to a
# handful of codes and needs a thousand steps to spread again.
_FREE_STEPS = 150
_REVIVE_EVERY = 25


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train a codec.

    Args:
        steps: Length of the whole run, in batches; the cosine schedule ends there.
        seed: Random seed.
        batch_size: Masks a step.
        learning_rate: Peak of the schedule (AdamW).
        commitment: Weight of the encoder's distance to the chosen codes.
        overlap: Weight of ``1 - soft IoU``, added to the per-pixel cross-entropy: the mean IoU of
            masks is what a codec is measured by.
        save_every: Steps between states from which a stopped run resumes.
        bfloat16: Run the convolutions in bfloat16 (about twice as fast where the CPU has it).
        threads: Threads of torch; 0 leaves torch's own choice.

    Raises:
        OptionError: If a number is outside its range.
    """

    steps: int = 4000
    seed: int = 0
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    commitment: float = 0.25
    overlap: float = 0.5
    save_every: int = 200
    bfloat16: bool = True
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in {"steps": 1, "batch_size": 1, "save_every": 1, "threads": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(f"{name}: expected a whole number from {least} on, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate: expected a number above 0, got {self.learning_rate}")


def mask_loss(logits: Tensor, masks: Tensor, *, overlap: float) -> Tensor:
    """Per-pixel cross-entropy plus ``overlap * (1 - soft IoU)``.

    The logits are multiplied by 4 first, so that outputs settle in about [-1, 1] as Google's do.

    Args:
        logits: ``(b, 64, 64)`` decoder outputs.
        masks: ``(b, 64, 64)`` targets in [0, 1].
        overlap: Weight of the second term.
    """
    # 1. Each pixel.
    scaled = SHARPNESS * logits
    pixels = functional.binary_cross_entropy_with_logits(scaled, masks)
    # 2. The mask as a whole.
    probs = scaled.sigmoid()
    both = torch.minimum(probs, masks).sum((1, 2))
    either = torch.maximum(probs, masks).sum((1, 2))
    return pixels + overlap * (1.0 - both / either.clamp_min(1.0)).mean()


def augment(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, transpose and smoothly warp masks ``(b, 64, 64)``; their bounding boxes stay full."""
    flips = torch.rand(3, len(masks), 1, 1, generator=generator) < 0.5
    masks = torch.where(flips[0], masks.flip(1), masks)
    masks = torch.where(flips[1], masks.flip(2), masks)
    masks = torch.where(flips[2], masks.transpose(1, 2), masks)
    warped = _warp(masks[: len(masks) // 2], generator)
    return torch.cat([warped, masks[len(masks) // 2 :]])


def _warp(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Move pixels by low sine waves that vanish on the border of the mask."""
    # 1. A basis of waves: those of the warped axis vanish on the border.
    centres = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    waves = torch.sin(math.pi * torch.arange(1, 4)[:, None] * centres)
    flat = torch.ones(1, MASK_SIDE)
    basis = torch.cat([flat, waves[:2]])
    # 2. Column displacement: zero at left and right, free along the height; rows the other way.
    size = torch.tensor([0.10, 0.06, 0.03])[:, None] / torch.tensor([1.0, 2.0, 3.0])
    amounts = torch.randn(2, len(masks), 3, 3, generator=generator) * size
    dx = torch.einsum("bij,iw,jh->bhw", amounts[0], waves, basis)
    dy = torch.einsum("bij,ih,jw->bhw", amounts[1], waves, basis)
    # 3. Sample the masks there.
    grid = torch.stack([2 * (centres + dx) - 1, 2 * (centres[:, None] + dy) - 1], dim=3)
    pulled = functional.grid_sample(
        masks[:, None], grid, padding_mode="border", align_corners=False
    )
    return pulled[:, 0]


def read_mask_file(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Read masks and their weights from an ``.npz`` file.

    Args:
        path: Has ``masks`` ``(n, 64, 64)`` uint8 and, optionally, ``weights`` ``(n,)``.

    Returns:
        Masks, and how often each is drawn in training relative to the others (1 by default).

    Raises:
        CodecError: If the file cannot be read or has other arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            masks: NDArray[np.uint8] = arrays["masks"]
            weights = arrays["weights"] if "weights" in arrays else np.ones(len(masks))
    except Exception as error:  # zipfile, zlib and numpy raise many types
        raise CodecError(f"{path}: expected an .npz with 'masks' (n, 64, 64): {error}") from error
    try:
        _require_masks(masks, weights)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error
    return masks, weights.astype(np.float32)


def train_codec(
    masks: NDArray[np.uint8],
    out: str | Path,
    *,
    settings: TrainingSettings | None = None,
    weights: NDArray[np.floating] | None = None,
    resume: bool = False,
) -> Path:
    """Train a codec on masks and write it as ``out/codec.safetensors``.

    Args:
        masks: ``(n, 64, 64)`` uint8, 0 outside to 255 inside, each cropped to its box.
        out: Folder for the state of the run, its log and the finished codec.
        settings: See `TrainingSettings`; the defaults are the published recipe.
        weights: ``(n,)`` how often each mask is drawn, relative to the others.
        resume: Go on from the state in ``out``; without one, start.

    Returns:
        The path of the finished codec.

    Raises:
        CodecError: If the masks are of another shape or dtype, or none; if the weights are not one
            for each mask, or negative, or all zero.
        OptionError: If the state in ``out`` belongs to a run with other settings, masks or weights,
            or is there and ``resume`` is not asked for.
    """
    run = _Run(masks, weights, Path(out), settings or TrainingSettings())
    run.out.mkdir(parents=True, exist_ok=True)  # refused before the first step
    run.restore(resume=resume)
    run.go()
    path = Path(out) / "codec.safetensors"
    save_checkpoint(run.model, path)
    return path


def _require_masks(masks: NDArray[np.uint8], weights: NDArray[np.floating] | None) -> None:
    if masks.ndim != 3 or masks.shape[1:] != (MASK_SIDE, MASK_SIDE) or not len(masks):
        raise CodecError(f"masks: expected (n, 64, 64) with n > 0, got {masks.shape}")
    if masks.dtype != np.uint8:
        raise CodecError(f"masks: expected uint8 from 0 to 255, got {masks.dtype}")
    if weights is None:
        return
    if weights.shape != (len(masks),) or weights.dtype.kind not in "fiub":
        raise CodecError(
            f"weights: expected a number for each of {len(masks)} masks, got {weights.dtype} of "
            f"shape {weights.shape}"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise CodecError("weights: expected finite numbers from 0 on, and not all of them 0")


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:12]


class _Run:
    """One training run: the model, its optimiser, and the step it has reached."""

    def __init__(
        self,
        masks: NDArray[np.uint8],
        weights: NDArray[np.floating] | None,
        out: Path,
        settings: TrainingSettings,
    ) -> None:
        # 1. Masks, each drawn by its weight.
        _require_masks(masks, weights)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings, self.out, self.step = settings, out, 0
        self.masks = torch.from_numpy(masks)
        self.weights = torch.ones(len(masks)) if weights is None else torch.tensor(weights)
        # 2. The model, in the layout that convolutions on a CPU like, and its optimiser.
        torch.manual_seed(settings.seed)
        self.model = MaskVqVae().train()
        for parameter in self.model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=1e-4, fused=True
        )

    def _identity(self) -> dict[str, float | str]:
        """Return the settings that a resumed run must repeat; threads may differ."""
        data = {"masks": _digest(self.masks), "weights": _digest(self.weights)}
        named = asdict(self.settings) | data
        del named["threads"]
        return named

    def restore(self, *, resume: bool) -> None:
        """Go on from the state in the run's folder, if there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        if not resume:
            raise OptionError(
                f"{path}: a run is there already; go on with it (resume=True, --resume) or choose "
                "another --out"
            )
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:  # torch's errors of damaged files are of many types
            raise CodecError(f"{path}: damaged; delete it to start again") from error
        # Another run's state would be continued with other masks or settings.
        was, now = state.get("identity", {}), self._identity()
        differ = [name for name in now if was.get(name) != now[name]]
        if differ:
            listed = "; ".join(f"{name} was {was.get(name)}, is {now[name]}" for name in differ)
            raise OptionError(
                f"{path}: the run there is another one: {listed}. Repeat its options and masks, or "
                "choose another --out"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        _LOG.info("resumed at step %d", self.step)

    def go(self) -> None:
        last, shown, shown_step = self.settings.steps, time.monotonic(), self.step
        while self.step < last:
            figures = self._one_step()
            self.step += 1
            if self.step % 50 == 0 or self.step == last:
                num_masks = (self.step - shown_step) * self.settings.batch_size
                rate = num_masks / (time.monotonic() - shown)
                shown, shown_step = time.monotonic(), self.step
                _LOG.info("step %d/%d %s %.0f masks/s", self.step, last, figures, rate)
            if self.step % self.settings.save_every == 0 or self.step == last:
                self._save()

    def _one_step(self) -> str:
        # 1. Draw and change masks; (seed, step) decides, so that a resumed run sees the same.
        settings = self.settings
        chance = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        drawn = torch.multinomial(self.weights, settings.batch_size, True, generator=chance)
        masks = augment(self.masks[drawn].float() / 255.0, chance)
        # 2. Encode to codes and decode.
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._schedule()
        chosen, codes, commitment = self._quantised(masks, chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=_uses_bfloat16(settings)):
            logits = self.model.decode(chosen)
        loss = mask_loss(logits.float(), masks, overlap=settings.overlap)
        # 3. One step of the optimiser.
        if not loss.isfinite():
            raise CodecError(f"step {self.step}: the loss is {loss}; lower the learning rate")
        self.optimizer.zero_grad()
        (loss + settings.commitment * commitment).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        # 4. Figures for the log.
        used = len(torch.unique(codes))
        inside, truth = logits > 0, masks >= 0.5
        iou = ((inside & truth).sum((1, 2)) / (inside | truth).sum((1, 2)).clamp_min(1)).mean()
        return f"loss {loss:.4f} commitment {commitment:.4f} iou {iou:.4f} codes {used}"

    def _quantised(self, masks: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return code vectors, codes and the commitment loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=_uses_bfloat16(self.settings)):
            vectors = self.model.vectors(masks)
        vectors = vectors.float()
        self._tend_codebook(vectors.detach().reshape(-1, vectors.shape[-1]), chance)
        chosen, codes, commitment = self.model.quantizer(vectors)
        if self.step < _FREE_STEPS:
            chosen, commitment = vectors, 0.01 * vectors.square().mean()
        return chosen, codes, commitment

    def _tend_codebook(self, vectors: Tensor, chance: torch.Generator) -> None:
        if self.step == _FREE_STEPS:
            self.model.quantizer.start_from(vectors, chance)
        # The last fifth of the run leaves the codebook alone, so that the decoder can settle.
        elif _FREE_STEPS < self.step < 0.8 * self.settings.steps and not self.step % _REVIVE_EVERY:
            self.model.quantizer.revive(vectors, chance, minimum=0.1 * len(vectors) / NUM_CODES)

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / _WARMUP_STEPS)
        return warm * 0.5 * (1.0 + math.cos(math.pi * self.step / self.settings.steps))

    def _save(self) -> None:
        state = {
            "identity": self._identity(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        with replaced_path(self.out / "state.pt") as aside:
            torch.save(state, aside)


def _uses_bfloat16(settings: TrainingSettings) -> bool:
    """Return whether to multiply in bfloat16: emulated by the CPU it is 20 times slower."""
    return settings.bfloat16 and torch.cpu._is_avx512_bf16_supported()
