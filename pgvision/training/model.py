"""The model of a run: checkpoint, adapters, resolution; merging and writing at the end."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)

from pgvision.errors import OptionError
from pgvision.runtime import Engine, engine_of, find_checkpoint, load_apart
from pgvision.runtime.checkpoints import CheckpointCard, save_card
from pgvision.training.config import TrainConfig
from pgvision.training.losses import remove_objective
from pgvision.training.samples import NOISE, add_noise

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

_TEXT: Final = 512  # tokens; longest text in addition to the image
_MOST_PIECES: Final = 3  # token pieces of "<noise>": with more it is added as one token


class TrainedModel:
    """A checkpoint that is trained.

    Args:
        config: The run.
        device: Where to train.

    Attributes:
        base: The PaliGemma, which answers.
        trained: What transformers' Trainer is given: the base, or peft's model around it.
        processor: Of the checkpoint.
        card: Of the checkpoint.

    Raises:
        OptionError: If settings do not fit the checkpoint.
        CheckpointError: If the checkpoint cannot be loaded.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        # 1. Load in float32 what is trained: bfloat16 would lose small updates. The frozen base of
        # adapters has the type of the arithmetic; on a CPU its natural one, which is half the
        # memory for Google's checkpoints and exact for small ones.
        frozen = config.dtype or (None if device.type == "cpu" else arithmetic_dtype(device))
        dtype = "float32" if config.lora is None else frozen
        engine = load_apart(config.model, device=str(device), dtype=dtype)
        self.config, self.card = config, engine.card
        self.base: Any = engine.model
        self.base.requires_grad_(True)  # weights that an adapter was merged into are frozen
        self.processor: Any = engine.processor
        # 2. Change resolution and vocabulary, before adapters are added.
        if config.resolution is not None:
            set_resolution(self.base, self.processor, config.resolution)
        if config.closed_set:
            self._add_noise_token()
        # 3. Save memory.
        if config.four_bit:
            quantize_base(self.base)
        if config.vision_rate == 0:
            self.base.model.vision_tower.requires_grad_(False)
        if config.checkpointing:
            self.base.activation_checkpointing_enable({"use_reentrant": False})
            self.base.enable_input_require_grads()
        # 4. Add adapters.
        self.trained: Any = self.base if config.lora is None else self._with_adapters()

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, image included."""
        return int(self.base.config.text_config.max_position_embeddings)

    @property
    def resolution(self) -> int:
        """Side of the model's input in pixels."""
        return int(self.base.config.vision_config.image_size)

    @contextmanager
    def answering(self, card: CheckpointCard | None = None) -> Iterator[Engine]:
        """Give an engine over the present weights in eval mode; the mode is restored."""
        was = self.base.training
        self.trained.eval()
        try:
            yield engine_of(self.base, self.processor, card or self.card)
        finally:
            self.trained.train(was)

    def _add_noise_token(self) -> None:
        tokenizer = self.processor.tokenizer
        if len(tokenizer.tokenize(f" {NOISE}")) <= _MOST_PIECES:
            return
        if self.config.lora is not None:
            raise OptionError(
                f"closed_set with lora: {NOISE!r} is a new token of {self.card.name}, whose "
                "embedding adapters leave as it is; train all weights, or leave closed_set out"
            )
        add_noise(tokenizer)
        self.base.resize_token_embeddings(len(tokenizer))

    def _with_adapters(self) -> Any:
        from peft import LoraConfig, get_peft_model

        config = self.config
        lora = LoraConfig(
            r=config.lora,
            lora_alpha=2 * (config.lora or 0),
            target_modules=r".*language_model.*_proj",  # all linear layers
        )
        torch.manual_seed(config.seed)  # initial weights of the adapters
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers about peft
            model = get_peft_model(self.base, lora)
        # A bundled model has the same name everywhere; its path is that of this installation.
        found = find_checkpoint(config.model)
        lora.base_model_name_or_path = (
            found.name if found.name in ("tiny", "small") else found.location
        )
        # Trained weights are float32, also on a bfloat16 base.
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        return model

    def export(self, folder: Path, card: CheckpointCard) -> None:
        """Write weights, processor and ``pgvision.json``, which comes last.

        Args:
            folder: Target folder.
            card: Of the trained checkpoint.
        """
        remove_objective(self.base)
        if self.config.keep_adapter:
            # The vocabulary is the base's, for which peft would look in a folder of that name.
            self.trained.save_pretrained(folder, save_embedding_layers=False)
        else:
            model = self._merged()
            model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        save_card(folder, card)

    def _merged(self) -> Any:
        if self.config.lora is None:
            return self.base
        if not self.config.four_bit:
            return self.trained.merge_and_unload()
        # Adapters over 4-bit weights are merged into the weights as they were.
        config = replace(self.config, four_bit=False)
        whole = TrainedModel(config, torch.device("cpu"))
        for name, weight in whole.trained.named_parameters():
            if weight.requires_grad:
                weight.data.copy_(self.trained.get_parameter(name).data)
        return whole.trained.merge_and_unload()


def arithmetic_dtype(device: torch.device) -> str:
    """Return the type of a device's fast arithmetic that training is stable in."""
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if is_native else "float16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"


def choose_device(device: str | None) -> torch.device:
    """Return the device to train on, and make it the current one.

    Raises:
        OptionError: If there is no such device.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # torch knows devices that nothing can be trained on, such as "meta".
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise OptionError(f"device: expected cpu, mps, cuda or cuda:1, got {name!r}")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(f"device: {name} cannot be used: {reason}") from error
    if chosen.index is not None:
        torch.cuda.set_device(chosen)  # transformers' Trainer takes the current device
    return chosen


def quantize_base(model: Any) -> None:
    """Quantize the large layers of the language model to 4 bits (NF4), as QLoRA does.

    Source:
        arXiv 2305.14314; bitsandbytes computes on CUDA, and slowly on a CPU.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    # Only the language model's linear layers: they are most of the weights.
    text = model.model.language_model
    for name, layer in list(text.named_modules()):
        if isinstance(layer, torch.nn.Linear) and "proj" in name:
            small = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None,
                compute_dtype=layer.weight.dtype, quant_type="nf4",
            )  # fmt: skip
            small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            small.bias = layer.bias
            # Its fast kernel for CPUs has no gradient.
            small.support_avx512bf16_for_cpu = False
            parent, _, child = name.rpartition(".")
            setattr(text.get_submodule(parent), child, small.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # peft and the Trainer look for it


@torch.no_grad()
def set_resolution(
    model: "PaliGemmaForConditionalGeneration", processor: "PaliGemmaProcessor", resolution: int
) -> None:
    """Change a model's image resolution, in place.

    Position embeddings are interpolated, corner patches keep theirs; all other weights stay. The
    model answers at once, but has to be trained on before it answers well. At the resolution that
    it has already, nothing changes.

    Args:
        model: With or without gradients; before an optimiser is made of its parameters.
        processor: Of the model; it will write as many image tokens as the model sees.
        resolution: Side in pixels, a multiple of the vision tower's patch.

    Raises:
        OptionError: If it is no such multiple.

    Source:
        google-research/big_vision, models/vit.py (``resample_posemb``); PaliGemma, arXiv
        2407.07726, section 3.2.

    Example:
        >>> from pgvision.runtime import load
        >>> from copy import deepcopy
        >>> engine = load("tiny")
        >>> model, processor = deepcopy(engine.model), deepcopy(engine.processor)
        >>> set_resolution(model, processor, 224)
        >>> model.config.vision_config.image_size, processor.image_seq_length
        (224, 196)
    """
    # 1. Check the resolution.
    vision = model.config.vision_config
    if resolution < vision.patch_size or resolution % vision.patch_size:
        near = max(1, round(resolution / vision.patch_size)) * vision.patch_size
        raise OptionError(
            f"resolution: expected a multiple of the patch, {vision.patch_size} px, such as "
            f"{near}; got {resolution}"
        )
    if resolution == vision.image_size:
        return
    # 2. Resample the position embeddings.
    side = resolution // vision.patch_size
    seen = model.model.vision_tower.embeddings
    held = seen.position_embedding.weight
    table = nn.Embedding(side**2, held.shape[1], _weight=resample(held, side))
    seen.position_embedding = table.requires_grad_(held.requires_grad)
    seen.position_ids = torch.arange(side**2, device=held.device)[None]
    seen.image_size = vision.image_size = resolution
    seen.num_patches = seen.num_positions = side**2
    # 3. Update everything that counts image tokens.
    text = model.config.text_config
    text.num_image_tokens = side**2
    # Rotary positions have no end; other engines take this number for one.
    text.max_position_embeddings = max(text.max_position_embeddings, side**2 + _TEXT)
    processor.image_processor.size = {"height": resolution, "width": resolution}
    processor.image_processor.image_seq_length = processor.image_seq_length = side**2


def resample(table: Tensor, side: int) -> Tensor:
    """Return ``(side * side, d)`` position embeddings from a square ``(p * p, d)`` of them.

    Bilinear, corner on corner: what depends on the position linearly still does.
    """
    held = round(len(table) ** 0.5)
    grid = table.T.reshape(1, -1, held, held)
    if grid.dtype != torch.float64:
        grid = grid.float()  # half precision would round the positions between
    larger = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return larger[0].flatten(1).T.to(table.dtype).contiguous()
