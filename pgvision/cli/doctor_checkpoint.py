"""Checks of a checkpoint by `pgvision doctor`: loading, end of answers, attention mask."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from pgvision.cli.checks import Check, guarded
from pgvision.cli.model_options import LoadKeywords
from pgvision.errors import PgvisionError

if TYPE_CHECKING:
    from pgvision.runtime import Engine


def check_checkpoint(how: LoadKeywords) -> Iterator[Check]:
    """Load a checkpoint and look at it.

    Args:
        how: Which one, and how it is run; as for the tasks.

    Yields:
        Loading first; if that fails, nothing after it.
    """
    from pgvision.runtime import load, open_engine

    try:
        # 1. Load in the default engine and in PyTorch.
        default = open_engine(**how)
        engine = load(
            how["model"],
            revision=how["revision"],
            kind=how["kind"],
            device=how["device"],
            dtype=how["dtype"],
            quantize=how["quantize"],
        )
    except PgvisionError as error:
        yield Check("checkpoint", "fail", str(error))
        return
    # 2. Compare both, then check numbers, tokens, mask, cache and codec.
    yield Check("checkpoint", "ok", f"{engine.card.name}: {engine.card.about}")
    yield guarded("engine", lambda: check_engines(cast("Engine", default), engine))
    yield check_numbers(engine)
    yield check_tokens(engine)
    yield check_end(engine)
    yield guarded("attention mask", lambda: check_mask(engine))
    yield guarded("language model", lambda: check_passes(engine))
    yield guarded("mask codec", lambda: check_codec(engine))


def check_engines(default: "Engine", torch: "Engine") -> Check:
    """Compare the answers of the default engine with those of torch on a gray image.

    Returns:
        A failure if they differ.
    """
    import numpy as np

    from pgvision.runtime import Picture, Request

    request = Request(picture=Picture(np.full((64, 96, 3), 127, np.uint8)), prefix="caption en")
    texts = [next(iter(engine.generate([request])))[1].text for engine in (default, torch)]
    used = default.backend.description
    if texts[0] == texts[1]:
        return Check("engine", "ok", f"{used}; 'caption en' of a gray image: {texts[0]!r}")
    return Check(
        "engine", "fail", f"{used}: {texts[0]!r}, torch: {texts[1]!r}", "use --engine torch"
    )


def check_numbers(engine: "Engine") -> Check:
    """Name device, number format and size.

    Returns:
        A note where a large model runs in a format that costs memory or time.
    """
    model = engine.model
    dtype = str(model.dtype).removeprefix("torch.")
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    found = (
        f"{dtype} on {model.device}, {millions:,.0f} M parameters, {engine.resolution} px, "
        f"{engine.num_image_tokens} image tokens"
    )
    if model.device.type == "cpu" and dtype == "float16":
        return Check("dtype", "note", found, "processors are slow at float16: --dtype bfloat16")
    if millions > 1000 and dtype == "float32":
        return Check("dtype", "note", found, "half the memory and about as good: --dtype bfloat16")
    return Check("dtype", "ok", found)


def check_tokens(engine: "Engine") -> Check:
    """Name the ids of the tokens for places and masks; loading has proved that each is one token.

    Returns:
        The first ids of both runs.
    """
    words = engine.vocabulary
    found = (
        f"<loc0000> = {words.first_loc}, <seg000> = {words.first_seg}: 1024 and 128 single tokens"
    )
    return Check("token ids", "ok", found)


def check_end(engine: "Engine") -> Check:
    """Compare the tokenizer's end token with the one at which generation stops.

    Returns:
        A failure if they differ: such a model never stops.
    """
    wanted = engine.vocabulary.eos
    stops = engine.model.generation_config.eos_token_id
    listed = list(stops) if isinstance(stops, list | tuple) else [stops]
    if wanted in listed:
        return Check("eos", "ok", f"answers end at token {wanted}")
    fix = f"set eos_token_id to {wanted} in the checkpoint's generation_config.json"
    return Check("eos", "fail", f"generation stops at {stops}, the tokenizer ends at {wanted}", fix)


def check_mask(engine: "Engine") -> Check:
    """Run the leak test on the loaded model.

    Returns:
        A failure if a suffix token sees what follows it, or the prefix does not see all of itself.
    """
    from pgvision.runtime import check_leaks

    report = check_leaks(engine.model)
    found = (
        f"change of earlier suffix logits {report.suffix_leak:.1e} (right: 0), "
        f"of earlier prefix positions {report.prefix_sight:.1e} (right: more)"
    )
    if report.ok:
        return Check("attention mask", "ok", found)
    return Check("attention mask", "fail", found, "pip install 'transformers>=5.23,<5.24'")


def check_passes(engine: "Engine") -> Check:
    """Compare our passes over the language model with transformers' own.

    Returns:
        A failure if they differ by more than rounding.
    """
    from pgvision.runtime import check_language

    report = check_language(engine.model)
    found = f"differs from transformers by {report.difference:.1e} (allowed: {report.allowed:.0e})"
    if report.ok:
        return Check("language model", "ok", found)
    return Check("language model", "fail", found, "pip install 'transformers>=5.23,<5.24'")


def check_codec(engine: "Engine") -> Check:
    """Load the mask codec that belongs to the checkpoint.

    Returns:
        A note if it is not there: only masks need it.
    """
    from vqvae import MaskCodec

    name = engine.card.codec
    try:
        MaskCodec.load(name)
    except PgvisionError as error:
        return Check("mask codec", "note", f"{name}: {error}", "only `pgvision segment` needs it")
    return Check("mask codec", "ok", name)
