"""Loads a checkpoint once per process and turns every failure into advice."""

import logging
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError

from pgvision.errors import CheckpointError, DependencyError, GatedCheckpointError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, find_revision
from pgvision.runtime.engine import Engine

if TYPE_CHECKING:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

_LOG = logging.getLogger(__name__)
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Engine:
    """Load a checkpoint, or return the engine that this process already has for it.

    Args:
        model: See `find_checkpoint`.
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the best that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 for small models on the CPU,
            bfloat16 for large ones.

    Returns:
        The engine, shared by all who name the same checkpoint, device and dtype.

    Raises:
        CheckpointError: If the weights cannot be had or are not PaliGemma's; the message says why.
        GatedCheckpointError: If Google's licence must be accepted first.
        OptionError: If the device or dtype does not exist, or a folder is given a revision.

    Example:
        >>> load("tiny") is load("tiny")
        True
    """
    card = find_revision(model, revision)
    return _load_once(card, revision, _require_device(device), _require_dtype(dtype))


@cache
def _load_once(
    card: CheckpointCard, revision: str | None, device: str, dtype: str | None
) -> Engine:
    started = time.perf_counter()
    try:
        model, processor = _read(card, revision, device, dtype)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise _explain(error, card) from error
    engine = Engine(model, processor, card)
    _LOG.info(
        "loaded %s in %.1f s (%s, %s): %s",
        card.name,
        time.perf_counter() - started,
        device,
        str(model.dtype).removeprefix("torch."),
        card.about,
    )
    return engine


def _read(
    card: CheckpointCard, revision: str | None, device: str, dtype: str | None
) -> tuple["PaliGemmaForConditionalGeneration", Any]:
    from transformers import AutoConfig, AutoProcessor, PaliGemmaForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    # Its progress bar would stand between a program's own lines; ours says when it is done.
    transformers_logging.disable_progress_bar()
    source = card.base or card.location
    source = find_checkpoint(source).location
    config = AutoConfig.from_pretrained(source, revision=revision)
    if config.model_type != "paligemma":
        raise CheckpointError(
            f"{card.name}: is a {config.model_type!r} model, expected PaliGemma 1 or 2 "
            f'(model_type "paligemma"); name such a checkpoint, or use model="tiny"'
        )
    wanted = _DTYPES[dtype] if dtype else _natural_dtype(config, device)
    # Gemma 2 caps its attention logits, which PyTorch's fused attention cannot do.
    attention = "eager" if config.text_config.model_type == "gemma2" else "sdpa"
    model = PaliGemmaForConditionalGeneration.from_pretrained(
        source, revision=revision, dtype=wanted, attn_implementation=attention
    )
    if card.base is not None:
        model = _with_adapter(model, card)
    processor = AutoProcessor.from_pretrained(source, revision=revision)
    return model.to(device).eval(), processor


def _with_adapter(
    model: "PaliGemmaForConditionalGeneration", card: CheckpointCard
) -> "PaliGemmaForConditionalGeneration":
    try:
        from peft import PeftModel
    except ImportError as error:
        raise DependencyError(
            f"{card.name} is a LoRA adapter, which needs peft: pip install 'pgvision[train]'"
        ) from error
    # Merged weights run at the base's speed and give the same answers.
    merged = PeftModel.from_pretrained(model, card.location).merge_and_unload()
    return cast("PaliGemmaForConditionalGeneration", merged)


def _natural_dtype(config: "PaliGemmaConfig", device: str) -> torch.dtype:
    large = int(config.text_config.hidden_size) >= 1024
    return torch.bfloat16 if large or device.startswith("cuda") else torch.float32


def _require_dtype(dtype: str | None) -> str | None:
    if dtype is not None and dtype not in _DTYPES:
        raise OptionError(f"dtype: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    return dtype


def _require_device(device: str | None) -> str:
    if device is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise OptionError(f"device: expected cpu, cuda or mps, got {device!r}") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(kind, False):
        raise OptionError(f"device: {device!r} is not on this machine; use device='cpu'")
    return device


def _explain(error: Exception, card: CheckpointCard) -> CheckpointError | DependencyError:
    """Turn what transformers or the hub raised into our error with the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, CheckpointError | DependencyError):
        return error
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    page = f"https://huggingface.co/{card.location}"
    out = 'or run offline with model="tiny"'
    if any(isinstance(one, GatedRepoError) for one in chain):
        return GatedCheckpointError(
            f"{card.name}: gated: accept the licence at {page}, run `hf auth login`, {out}"
        )
    if any(isinstance(one, RevisionNotFoundError) for one in chain):
        return CheckpointError(f"{card.name}: no such revision; see {page}/refs")
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return CheckpointError(
            f"{card.name}: not on the hub, or private: check the name at {page}, "
            f"run `hf auth login` if it is yours, {out}"
        )
    if not card.is_local and any(
        isinstance(one, LocalEntryNotFoundError | ConnectionError) or "onnect" in str(one)
        for one in chain
    ):
        return CheckpointError(
            f"{card.name}: the hub cannot be reached and the files are not in the cache: "
            f"connect, or download {page} to a folder and give its path, {out}"
        )
    return CheckpointError(
        f"{card.name}: cannot be loaded from {card.location} ({type(error).__name__}: {error}); "
        f"a file may be missing or half downloaded: fetch it again, {out}"
    )
