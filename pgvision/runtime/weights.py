"""Reads a checkpoint's files: configuration, weights, adapter, tokenizer, picture processor."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from pgvision.collecting import without_collecting
from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard, require_parts_inside
from pgvision.runtime.tokenizer_files import read_tokenizer

if TYPE_CHECKING:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

QUANTIZATIONS: Final = ("int8", "int4")
# Pictures go through vision and projector once, and the output layer is the embedding as well:
# only the language model's layers are worth their rounding.
_UNQUANTIZED: Final = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def read_config(source: str, revision: str | None, name: str) -> "PaliGemmaConfig":
    """Read a checkpoint's configuration.

    Args:
        source: Folder or hub id.
        revision: Of the hub.
        name: For errors.

    Raises:
        CheckpointError: If it is not PaliGemma's.
    """
    from transformers import PaliGemmaConfig

    content, _ = PaliGemmaConfig.get_config_dict(source, revision=revision)
    kind = content.get("model_type")
    if kind != "paligemma":
        raise CheckpointError(
            f"{name}: is a {kind!r} model, expected PaliGemma 1 or 2 "
            f'(model_type "paligemma"); name such a checkpoint, or use model="tiny"'
        )
    return PaliGemmaConfig.from_dict(content)


def read_model(
    source: str,
    revision: str | None,
    config: "PaliGemmaConfig",
    *,
    dtype: torch.dtype,
    device: str,
    quantize: str | None,
) -> "PaliGemmaForConditionalGeneration":
    """Read the weights and put them where they will run.

    Args:
        source: Folder or hub id.
        revision: Of the hub.
        config: Of `read_config`.
        dtype: Of weights and arithmetic.
        device: As `torch.device` knows them, or "auto": spread over the GPUs.
        quantize: None, "int8" or "int4".

    Raises:
        CheckpointError: If it does not fit the GPUs it should be spread over, or its weights are in
            parts elsewhere.
        DependencyError: If accelerate or torchao is missing.
    """
    with without_collecting():
        from transformers import PaliGemmaForConditionalGeneration
        from transformers.utils import logging as transformers_logging

    # Its progress bar would stand between a program's own lines; ours says when it is done.
    transformers_logging.disable_progress_bar()
    # Gemma 2 caps its attention logits, which PyTorch's fused attention cannot do; eager for the
    # vision tower as well would cost 18 times the memory.
    is_capped = config.text_config.model_type == "gemma2"
    attention: Any = {"text_config": "eager", "vision_config": "sdpa"} if is_capped else "sdpa"
    more: dict[str, Any] = {}
    require_parts_inside(Path(source))
    if quantize is not None:
        more["quantization_config"] = _quantization(quantize, device)
    if device == "auto":
        _require_accelerate()
        more["device_map"] = "auto"
    model = PaliGemmaForConditionalGeneration.from_pretrained(
        source,
        config=config,
        revision=revision,
        dtype=dtype,
        attn_implementation=attention,
        **more,
    )
    if device != "auto":
        return cast("PaliGemmaForConditionalGeneration", model.to(device).eval())
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if places & {"disk", "meta"} or ("cpu" in places and len(places) > 1):
        raise CheckpointError(
            f"{source}: does not fit into the memory of this machine's GPUs; "
            f'try quantize="int8" or "int4", a smaller checkpoint, or device="cpu"'
        )
    return cast("PaliGemmaForConditionalGeneration", model.eval())


def merge_adapter(
    model: "PaliGemmaForConditionalGeneration", card: CheckpointCard
) -> "PaliGemmaForConditionalGeneration":
    """Merge a LoRA adapter's weights in: they then run at the base's speed.

    Raises:
        DependencyError: If peft is missing.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise DependencyError(
            f"{card.name} is a LoRA adapter, which needs peft: pip install 'pgvision[train]'"
        ) from error
    merged = PeftModel.from_pretrained(model, card.location).merge_and_unload().eval()
    return cast("PaliGemmaForConditionalGeneration", merged)


def read_processor(source: str, revision: str | None) -> Any:
    """Read the tokenizer and the picture processor.

    The Pillow processor is named, whatever is installed: torchvision's resizes to other pixels.
    The tokenizer comes from its one file where there is one: transformers reads Gemma's 34 MB
    three times over.
    """
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    images = SiglipImageProcessorPil.from_pretrained(source, revision=revision)
    return PaliGemmaProcessor(images, read_tokenizer(source, revision))


def _quantization(quantize: str, device: str) -> Any:
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
        from transformers import TorchAoConfig
    except ImportError as error:
        raise DependencyError(
            f"quantize={quantize!r} needs torchao: pip install 'pgvision[quant]'"
        ) from error
    if quantize == "int8":
        config = Int8WeightOnlyConfig()
    elif device == "cpu":
        # torchao's own door for processors still lies in its prototypes.
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        config = PrototypeInt4WeightOnlyConfig(group_size=32)
    else:
        config = Int4WeightOnlyConfig(group_size=32, int4_packing_format="tile_packed_to_4d")
    return TorchAoConfig(config, modules_to_not_convert=_UNQUANTIZED)


def require_quantization(quantize: str | None, card: CheckpointCard) -> str | None:
    """Return ``quantize`` if it can be done.

    Raises:
        OptionError: If there is no such quantisation, or the checkpoint is a LoRA adapter.
    """
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise OptionError(
            f"quantize: expected None or one of {', '.join(QUANTIZATIONS)}, got {quantize!r}"
        )
    if quantize is not None and card.base is not None:
        raise OptionError(
            f"quantize: {card.name!r} is a LoRA adapter, and weights cannot be merged into "
            f"quantised ones; load it without quantize, save the merged model "
            f"(engine.model.save_pretrained), and quantise that"
        )
    return quantize


def _require_accelerate() -> None:
    try:
        import accelerate  # noqa: F401  (transformers needs it)
    except ImportError as error:
        raise DependencyError(
            "device=\"auto\" needs accelerate: pip install 'pgvision[train]'"
        ) from error
