"""The model that is trained: a checkpoint of one's own, its adapters, its resolution."""

from typing import Any, Final

import torch

from pgvision.errors import DependencyError, OptionError
from pgvision.runtime import Engine, engine_of, load_apart
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.noise import NOISE, add_noise
from pgvision.training.resolution import set_resolution

_SMALL: Final = 100_000_000  # parameters
_MOST_PIECES: Final = 3  # of "<noise>": beyond, it becomes a token of its own


def prepare(settings: FinetuneSettings, *, device: str | None = None) -> Engine:
    """Load the checkpoint and make of it what the settings ask for.

    Args:
        settings: The run.
        device: Where to train; None: the best there is.

    Returns:
        An engine whose ``model`` is to be trained; adapters are in it, other weights are frozen
        where the settings say so.

    Raises:
        OptionError: If a layer that should get adapters does not exist.
        DependencyError: If peft is missing, or bitsandbytes where 4-bit weights are asked for.
    """
    torch.manual_seed(settings.seed)  # of adapters
    # Masters of all weights are float32; under adapters they may rest in half precision.
    resting = settings.dtype if settings.method != "full" else "float32"
    engine = load_apart(settings.model, device=device, dtype=resting or _resting(settings, device))
    model, processor = engine.model, engine.processor
    if settings.resolution is not None:
        set_resolution(model, processor, settings.resolution)
    if settings.closed_set and len(processor.tokenizer.tokenize(f" {NOISE}")) > _MOST_PIECES:
        add_noise(processor.tokenizer)
        model.resize_token_embeddings(len(processor.tokenizer))
    engine = engine_of(model, processor, engine.card)
    if model.device.type == "cpu" and model.num_parameters() < _SMALL:
        # Plain matrix products: their backward pass is faster there than the fused kernel's.
        model.set_attn_implementation("eager")
    if settings.method == "qlora":
        rest_in_four_bits(model)
    if settings.method != "full":
        add_adapters(model, settings)
    if settings.freeze_vision or settings.method != "full":
        model.model.vision_tower.requires_grad_(False)
    if settings.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return engine


def _resting(settings: FinetuneSettings, device: str | None) -> str:
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return "bfloat16" if settings.method != "full" and on_gpu else "float32"


def rest_in_four_bits(model: Any) -> None:
    """Keep the large layers of the language model in 4 bits (NF4), as QLoRA does.

    Raises:
        DependencyError: If bitsandbytes is missing.

    Source:
        arXiv 2305.14314; bitsandbytes computes on CUDA, and, slowly, on a processor.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise DependencyError(
            "method: 'qlora' needs bitsandbytes: pip install '.[qlora]'; or use 'lora'"
        ) from error
    text = model.model.language_model
    for name, layer in list(text.named_modules()):
        if isinstance(layer, torch.nn.Linear) and "proj" in name:
            small = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None,
                compute_dtype=layer.weight.dtype, quant_type="nf4",
            )  # fmt: skip
            small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            small.bias = layer.bias
            # Its fast form for processors has no gradient, and is not undone after a validation.
            small.support_avx512bf16_for_cpu = False
            parent, _, child = name.rpartition(".")
            setattr(text.get_submodule(parent), child, small.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # peft asks for it, and so does the trainer


def add_adapters(model: Any, settings: FinetuneSettings) -> None:
    """Freeze all weights and put trainable low-rank adapters beside layers of the language model.

    The adapters are injected into the model itself, which keeps its class and methods.

    Raises:
        OptionError: If a layer does not exist.
        DependencyError: If peft is missing.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise DependencyError("method: LoRA needs peft: pip install '.[train]'") from error
    names = [name for name, _ in model.model.language_model.named_modules()]
    known = sorted({name.rpartition(".")[2] for name in names if "proj" in name})
    strangers = [one for one in settings.targets if one not in known]
    if strangers:
        raise OptionError(
            f"targets: the language model has no layers named {', '.join(strangers)}; it has "
            f"{', '.join(known)}"
        )
    model.requires_grad_(False)
    inject_adapter_in_model(adapter_config(settings), model)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()


def adapter_config(settings: FinetuneSettings) -> Any:
    """Return peft's configuration of the adapters."""
    from peft import LoraConfig

    places = "|".join(settings.targets)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        target_modules=rf".*language_model.*\.({places})",
        task_type="CAUSAL_LM",
    )
