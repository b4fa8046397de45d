"""Load a checkpoint with torch and transformers, once per process."""

import logging
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError

from pgvision.errors import (
    CheckpointError,
    DependencyError,
    GatedCheckpointError,
    OptionError,
    require_choice,
    require_count,
    require_module,
)
from pgvision.hub import fetch_file, hub_if_it_answers
from pgvision.runtime.checkpoint_files import read_tokenizer, respell, weight_files, wrap_tokenizer
from pgvision.runtime.checkpoints import (
    CARD_NAME,
    CheckpointCard,
    adapter_base,
    find_checkpoint,
    is_address,
    read_card,
)
from pgvision.runtime.engine import Engine
from pgvision.runtime.engine_cache import LOCK, ON_HUB, cached_engine, logged, stamp_of
from pgvision.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

_LOG = logging.getLogger(__name__)
_DTYPES: Final = ("float32", "bfloat16", "float16")
# What transformers, torch, peft and the hub raise.
_ERRORS: Final = (
    *(OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError, SafetensorError),
)
_OFFLINE: Final = 'or run offline with model="tiny"'


@dataclass(frozen=True)
class _How:
    """The options of a load, checked; dtype None: the natural one."""

    device: str
    dtype: str | None


@dataclass(frozen=True)
class _Source:
    """Where the files are, once the hub was asked."""

    card: CheckpointCard
    base: str
    revision: str | None
    config: "PaliGemmaConfig"


def load(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    kind: str | None = None,
    threads: int | None = None,
) -> Engine:
    """Load a checkpoint in torch, or return the engine that this process already has for it.

    Tasks use `open_engine`, which takes ONNX Runtime for small checkpoints on a CPU. A folder is
    loaded again if its files have changed. Any number of threads may call this.

    Args:
        model: See `find_checkpoint`.
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread a large checkpoint over several
            GPUs; None takes the best that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 for small models on the CPU,
            bfloat16 for large ones. float16 overflows where bfloat16 does not.
        kind: Prompt format, if its name does not define it; see `find_checkpoint`.
        threads: Sets PyTorch's number of threads, which is the process's; None leaves it alone.

    Returns:
        The engine, shared by all callers with the same checkpoint and options; weights even
        where ``kind`` differs.

    Raises:
        CheckpointError: If the weights cannot be had, are incomplete, or are not PaliGemma's; the
            message names the reason.
        GatedCheckpointError: If Google's licence must be accepted first.
        DependencyError: If a package is missing that an adapter or an option needs.
        OptionError: If an option is not one of those named, or a folder is given a revision.

    Example:
        >>> load("tiny") is load("tiny", dtype="float32", device="cpu")
        True
    """
    card = find_checkpoint(model, revision=revision, kind=kind)
    how = _check_options(device, dtype)
    if threads is not None:
        torch.set_num_threads(require_count("threads", threads, least=1))
    with LOCK:
        return _load(card, revision, kind, how)


def load_apart(
    model: str | Path | None = None, *, device: str | None = None, dtype: str | None = None
) -> Engine:
    """Load a checkpoint that nothing else shares, so that its weights may be changed.

    Args:
        model: See `find_checkpoint`.
        device: See `load`.
        dtype: See `load`.

    Raises:
        CheckpointError: See `load`.
        OptionError: See `load`.

    Example:
        >>> load_apart("tiny").model is load("tiny").model
        False
    """
    card = find_checkpoint(model)
    how = _check_options(device, dtype)
    with LOCK:
        return _load(card, None, None, how, apart=True)


def engine_of(
    model: "PaliGemmaForConditionalGeneration", processor: Any, card: CheckpointCard
) -> Engine:
    """Return an engine over a model in memory, such as one in training.

    Args:
        model: The model, on its device, in eval mode; build a new engine after changing it.
        processor: Its processor.
        card: What the checkpoint is.

    Raises:
        CheckpointError: If tokenizer or processor belong to another checkpoint.
    """
    tokenizer = wrap_tokenizer(processor.tokenizer, card.name)
    return Engine(TorchBackend(model, processor), tokenizer, card)


def _load(
    card: CheckpointCard,
    revision: str | None,
    kind: str | None,
    how: _How,
    *,
    apart: bool = False,
) -> Engine:
    # 1. Find the checkpoint; the hub is contacted once per checkpoint.
    if is_address(card.location):
        raise OptionError(f"model: {card.name} is a server; name a folder or hub id with weights")
    on_hub = not (card if card.base is None else find_checkpoint(card.base)).is_local
    reached: Any = hub_if_it_answers if on_hub else nullcontext
    try:
        source = ON_HUB.get((card.location, revision))
        with nullcontext() if source else reached():
            source = source or _resolve(card, revision)
            if on_hub:
                ON_HUB[card.location, revision] = source
            if kind is not None:
                source = replace(source, card=replace(source.card, kind=kind))
            # 2. Load, or return the cached engine, for which nothing waits for the hub.
            how = replace(how, dtype=how.dtype or _natural_dtype(source.config, how.device))

            def build() -> Engine:
                with reached():
                    return _read(source, how)

            if apart:
                return logged(build)
            key = ("torch", source.card.location, source.revision, how)
            stamp = stamp_of(source.card.location, source.base)
            return cached_engine(key, stamp, source.card, build)
    except _ERRORS as error:
        raise explain(error, card) from error


def _read(source: _Source, how: _How) -> Engine:
    card = source.card
    if how.dtype == "float16" and source.config.text_config.model_type == "gemma2":
        _LOG.warning("%s: Gemma 2 overflows in float16; dtype='bfloat16' is safer", card.name)
    if card.base is not None:  # refused before gigabytes are read
        require_module("peft", f"{card.name}: an adapter needs peft: pip install '.[train]'")
    # Adapters are merged: merged weights cost nothing per token.
    model = _read_model(source, how)
    if card.base is not None:
        model = _merge_adapter(model, card)
    return engine_of(model, _read_processor(source.base, source.revision), card)


def _resolve(card: CheckpointCard, revision: str | None) -> _Source:
    """Read what only the files contain: a card on the hub, an adapter, the configuration."""
    # 1. On the hub: read the checkpoint's card, or find the base of an adapter.
    if not card.is_local:
        own = fetch_file(card.location, CARD_NAME, revision)
        card = read_card(own, card) if own else card
        # Adapters have no config.json. Where it cannot be had for other reasons, the error is
        # raised when the base is read.
        if fetch_file(card.location, "config.json", revision) is None:
            settings = fetch_file(card.location, "adapter_config.json", revision)
            if settings is not None:
                fetch_file(card.location, "adapter_model.safetensors", revision)
                card = replace(find_checkpoint(settings.parent), name=card.name)
                revision = None
    # 2. An adapter's weights and config are its base's.
    base = card.location
    if card.base is not None:
        base = find_checkpoint(card.base).location
        revision = revision or adapter_base(Path(card.location))[1]
    from transformers import PaliGemmaConfig

    content, _ = PaliGemmaConfig.get_config_dict(base, revision=revision)
    if content.get("model_type") != "paligemma":
        raise CheckpointError(
            f"{card.name}: is a {content.get('model_type')!r} model, expected PaliGemma 1 or 2 "
            f'(model_type "paligemma"); name such a checkpoint, or use model="tiny"'
        )
    # 3. Check local files before transformers reads them: its errors name no fix.
    folder = Path(base)
    if folder.is_dir():
        weight_files(folder)
        names = ("processor_config.json", "preprocessor_config.json")
        if not any((folder / name).is_file() for name in names):
            raise CheckpointError(
                f"{base}: has no processor_config.json; copy the processor's files (it, "
                f"tokenizer.json and tokenizer_config.json) from the checkpoint it was trained from"
            )
    return _Source(card, base, revision, PaliGemmaConfig.from_dict(content))


def _read_model(source: _Source, how: _How) -> "PaliGemmaForConditionalGeneration":
    """Read the weights and put them where they will run.

    Raises:
        CheckpointError: If they are incomplete, or do not fit the GPUs.
        DependencyError: If accelerate is missing and several devices are asked for.
    """
    from transformers import PaliGemmaForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    # 1. Options. The progress bar is disabled: it would break a program's own output lines.
    transformers_logging.disable_progress_bar()
    # Gemma 2 caps its attention logits, which PyTorch's fused attention cannot do; eager for the
    # vision tower as well would cost 18 times the memory.
    is_capped = source.config.text_config.model_type == "gemma2"
    attention: Any = {"text_config": "eager", "vision_config": "sdpa"} if is_capped else "sdpa"
    device_map = "auto" if how.device == "auto" else None
    if device_map and find_spec("accelerate") is None:  # transformers needs it
        raise DependencyError("device=\"auto\" needs accelerate: pip install '.[train]'")
    # 2. Read the weights, and refuse missing or unexpected ones.
    model, report = PaliGemmaForConditionalGeneration.from_pretrained(
        source.base,
        config=source.config,
        revision=source.revision,
        dtype=getattr(torch, cast("str", how.dtype)),
        attn_implementation=attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named, and refused, below
        device_map=device_map,
    )
    _require_whole(
        source.base,
        missing=report["missing_keys"],
        unknown=report["unexpected_keys"],
        misshapen=report["mismatched_keys"],
    )
    # 3. Move them to the device; "auto" has placed them, but must not have used the disk.
    if how.device != "auto":
        return cast("PaliGemmaForConditionalGeneration", model.to(how.device).eval())
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if places & {"disk", "meta"} or ("cpu" in places and len(places) > 1):
        raise CheckpointError(
            f"{source.base}: does not fit into the memory of this machine's GPUs; "
            f'try a smaller checkpoint, or device="cpu"'
        )
    return cast("PaliGemmaForConditionalGeneration", model.eval())


def _require_whole(source: str, **kinds: Iterable[Any]) -> None:
    """Refuse weights of which some were initialised anew or have no place."""
    for kind, keys in kinds.items():
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
        if names:
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise CheckpointError(
                f"{source}: {len(names)} weights are {kind}: {listed}; the files are incomplete or "
                f"belong to another model: copy them again"
            )


def _merge_adapter(
    model: "PaliGemmaForConditionalGeneration", card: CheckpointCard
) -> "PaliGemmaForConditionalGeneration":
    """Merge a LoRA adapter's weights into the model: it then runs at the base's speed.

    Raises:
        CheckpointError: If one of its weights has no place, or one is missing.
    """
    import peft

    stored = peft.load_peft_weights(card.location, device="cpu")
    # 1. An adapter of embeddings or output layer was trained beside the base's weights, which both
    #    share: merging it must not change the other one.
    if any(part in name for name in stored for part in ("embed_tokens.lora_", "lm_head.lora_")):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    # 2. Compare its tensors with the expected ones, whose modules older releases of transformers
    #    nested differently.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages about each other; weights are checked below
        settings = peft.PeftConfig.from_pretrained(card.location, inference_mode=True)
        adapted = peft.PeftModel(model, settings)
        expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        # Some adapters also contain weights of their base.
        places = {respell(name): name for name in (*adapted.state_dict(), *expected)}
        stored = {places.get(respell(name), name): value for name, value in stored.items()}
        missing, unknown = expected - set(stored), set(stored) - set(places.values())
        _require_whole(card.location, missing=missing, unknown=unknown)
        peft.set_peft_model_state_dict(adapted, stored)
        # 3. Merge.
        return cast("PaliGemmaForConditionalGeneration", adapted.merge_and_unload().eval())


def _read_processor(source: str, revision: str | None) -> Any:
    """Read the tokenizer and the image processor.

    The Pillow processor is named, whatever is installed: torchvision's resizes to other pixels.
    The tokenizer comes from its one file: transformers reads Gemma's 34 MB three times.
    """
    from transformers import PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipImageProcessorPil

    images = SiglipImageProcessorPil.from_pretrained(source, revision=revision)
    tokenizer = read_tokenizer(source, revision)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.table,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **tokenizer.specials,
    )
    return PaliGemmaProcessor(images, fast)


def _check_options(device: str | None, dtype: str | None) -> _How:
    # 1. Type of numbers.
    require_choice("dtype", dtype or "float32", _DTYPES)
    # 2. Device: the best one there is.
    there = ["cuda"] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += ["cpu"]
    if device == "auto":
        return _How(device, dtype)
    try:
        parsed = torch.device(there[0] if device is None else device)
    except RuntimeError as error:
        raise OptionError(f"device: expected cpu, cuda, mps or auto, got {device!r}") from error
    if parsed.type not in there or (parsed.index or 0) >= max(1, torch.cuda.device_count()):
        raise OptionError(f"device: {device!r} is not on this machine; use device='cpu'")
    if parsed.type != "cuda":
        return _How(parsed.type, dtype)
    # One name for one card.
    index = torch.cuda.current_device() if parsed.index is None else parsed.index
    return _How(f"cuda:{index}", dtype)


def _natural_dtype(config: "PaliGemmaConfig", device: str) -> str:
    large = int(config.text_config.hidden_size) >= 1024
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "bfloat16" if large or on_gpu else "float32"


def explain(error: BaseException, card: CheckpointCard) -> Exception:
    """Return the error to raise for a checkpoint that did not load.

    Args:
        error: What was raised; one of ours is returned as it is.
        card: The checkpoint.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # 1. Our own errors have a message.
    if isinstance(error, CheckpointError | DependencyError | OptionError):
        return error
    # 2. Search the chain of causes for known errors.
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    page = f"https://huggingface.co/{card.location}"
    if any(_is_memory(one) for one in chain):
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return CheckpointError(
            f'{card.name}: does not fit into memory ({reason}): try dtype="bfloat16", a smaller '
            f'checkpoint, or device="auto" to spread it over several GPUs'
        )
    if is_any(GatedRepoError):
        return GatedCheckpointError(
            f"{card.name}: gated: accept the licence at {page}, run `hf auth login`, {_OFFLINE}"
        )
    if is_any(RevisionNotFoundError):
        # The repository exists, the branch or tag does not.
        return CheckpointError(f"{card.name}: no such revision; see {page}/refs")
    if is_any(RepositoryNotFoundError):
        return CheckpointError(
            f"{card.name}: no folder here, and not on the hub, or private: check the name at "
            f"{page}, run `hf auth login` if it is yours, {_OFFLINE}"
        )
    is_offline = any("onnect" in str(one) for one in chain)
    if not card.is_local and (is_offline or is_any(LocalEntryNotFoundError, ConnectionError)):
        return CheckpointError(
            f"{card.name}: no folder here, the hub cannot be reached, and its cache lacks it: "
            f"connect, or download {page} to a folder and give its path, {_OFFLINE}"
        )
    return CheckpointError(
        f"{card.name}: cannot be loaded from {card.location} ({type(error).__name__}: {error}); "
        f"a file may be missing or half downloaded: fetch it again, {_OFFLINE}"
    )


def _is_memory(error: BaseException) -> bool:
    # The CPU allocator has no error class, only these words.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(one in str(error) for one in words)
    )
