"""`pgvision doctor`: tables of checks of this machine and a checkpoint, with fixes."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, TypedDict

import typer
from rich.console import Console

from pgvision.cli.console import DONE, FAILED, Finding, Status, end
from pgvision.errors import PgvisionError

_STYLES: Final[dict[Status, str]] = {"ok": "green", "note": "yellow", "fail": "bold red"}
_TESTED_TRANSFORMERS: Final = "5.23"


def examined(check: Callable[[], Finding]) -> Finding:
    """Run a check; an error is a failure with the error's message."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001  (of a broken package anything may come)
        name = "" if isinstance(error, PgvisionError) else f"{type(error).__name__}: "
        return Finding("fail", f"{name}{error}")


class LoadOptions(TypedDict, total=False):
    """Options of `pgvision.runtime.open_engine`.

    Attributes:
        model: Hub id, folder, "tiny" or "small"; for doctor also the address of a server; None:
            PGVISION_MODEL, else "small".
        revision: Branch, tag or commit of a hub id; None: its main branch.
        kind: Prompt format: pt, mix, ft, refcoco-seg or tiny; None: that of its card or name.
        device: cpu, cuda, cuda:1, mps; None: the best one there is.
        dtype: float32, bfloat16 or float16; None: what suits the device.
        threads: Threads of the CPU; None: what suits the model.
        engine: Library that runs the model; None: onnx for small models on a CPU, else torch.
    """

    model: str | None
    revision: str | None
    kind: str | None
    device: str | None
    dtype: str | None
    threads: int | None
    engine: Literal["auto", "onnx", "torch"] | None


def doctor(*, model: LoadOptions, as_json: bool = False) -> None:
    """Check this machine and a checkpoint, and print a fix for each problem.

    With the URL of a server (--engine), test that instead: does it run PaliGemma as it was trained?
    It must serve the bundled checkpoint 'tiny' for this.

    Examples:
    pgvision doctor
    pgvision doctor --model google/paligemma2-3b-mix-448 --dtype bfloat16
    pgvision doctor --engine http://localhost:8000
    pgvision doctor --json | jq 'select(.status == "fail")'

    Args:
        model: The checkpoint, and how it is run.
        as_json: Print one JSON object per check.
    """
    # 1. Choose the checks: of a served engine, or of this machine.
    address = str(model.get("model", ""))
    if "://" in address:
        from pgvision.cli.conformance import check_engine

        checks = check_engine(address)
    else:
        checks = _all_checks(model)
    # 2. Print each finding at once: some checks take seconds.
    console, statuses = Console(soft_wrap=True, highlight=False, emoji=False), set()
    for name, finding in checks:
        statuses.add(finding.status)
        if as_json:
            typer.echo(json.dumps({"name": name, **finding._asdict()}, ensure_ascii=False))
            continue
        console.print(f"{finding.status:>4}", style=_STYLES[finding.status], end="  ")
        console.print(f"{name}: {finding.found}", markup=False)
        if finding.fix:
            console.print(f"      -> {finding.fix}", markup=False)
    end(FAILED if "fail" in statuses else DONE)


def _all_checks(how: LoadOptions) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of both tables; a checkpoint that cannot be loaded ends them."""
    engines: list[Any] = []

    def load_both() -> Finding:
        # The default engine, and PyTorch.
        from pgvision.runtime import load, open_engine

        shared: Any = {key: value for key, value in how.items() if key not in ("threads", "engine")}
        engines[:] = open_engine(**how), load(**shared)
        return Finding("ok", f"{engines[1].card.name}: {engines[1].card.about}")

    # 1. The machine, and whether the checkpoint loads.
    for name, check in {**_MACHINE, "checkpoint": load_both}.items():
        yield name, examined(check)
    # 2. The checkpoint in both engines.
    for name, look in _CHECKPOINT.items() if engines else ():
        yield name, examined(partial(look, *engines))


# --- this machine ------------------------------------------------------------------------------


def check_python() -> Finding:
    """Name the interpreter and the machine."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("ok", f"{found}, {os.cpu_count()} cores")


def check_transformers() -> Finding:
    """Compare the installed transformers with the one that the suite runs on."""
    version = importlib.metadata.version("transformers")
    if version.startswith(f"{_TESTED_TRANSFORMERS}."):
        return Finding("ok", version)
    fix = "attention masks have changed between releases: trust the leak test below"
    return Finding("note", f"{version}; the suite runs on {_TESTED_TRANSFORMERS}", fix)


def check_torch() -> Finding:
    """Name torch and what it can compute on."""
    import torch

    if torch.cuda.is_available():
        return Finding("ok", f"{torch.__version__}, {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Finding("ok", f"{torch.__version__}, Apple GPU (mps)")
    found = f"{torch.__version__}, CPU only, threads: {torch.get_num_threads()}"
    fix = "fine for the bundled models; a 3B checkpoint takes a minute or more per image here"
    return Finding("note", found, fix)


def check_opencv() -> Finding:
    """Import OpenCV, which needs libraries of the system."""
    try:
        import cv2
    except ImportError as error:
        fix = "apt-get install -y libgl1 libglib2.0-0 libxcb1, or use opencv-python-headless"
        return Finding("fail", str(error), fix)
    return Finding("ok", cv2.__version__)


def check_hub() -> Finding:
    """Look for a token of the Hugging Face hub; nothing is asked over the network."""
    from huggingface_hub import get_token

    if get_token():
        return Finding("ok", "a token is present")
    fix = "for Google's checkpoints: accept the terms on the model's page, then hf auth login"
    return Finding("note", "not logged in (the bundled models need no login)", fix)


# --- a checkpoint: in the default engine, and in torch -----------------------------------------


def _check_engines(default: Any, torch: Any) -> Finding:
    """Compare the answers of the default engine with those of torch on a gray image."""
    import numpy as np

    from pgvision.runtime import Picture, Request

    request = Request(picture=Picture(np.full((64, 96, 3), 127, np.uint8)), prefix="caption en")
    ours, other = (next(iter(engine.generate([request])))[1].text for engine in (default, torch))
    used = default.backend.description
    if ours == other:
        return Finding("ok", f"{used}; 'caption en' of a gray image: {ours!r}")
    return Finding("fail", f"{used}: {ours!r}, torch: {other!r}", "use --backend torch")


def _check_numbers(_: Any, engine: Any) -> Finding:
    """Name device, number format and size; large models have better formats than some."""
    model = engine.model
    dtype = str(model.dtype).removeprefix("torch.")
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    found = (
        f"{dtype} on {model.device}, {millions:,.0f} M parameters, {engine.resolution} px, "
        f"{engine.num_image_tokens} image tokens"
    )
    if millions > 1000 and dtype == "float32":
        return Finding("note", found, "half the memory and about as good: --dtype bfloat16")
    return Finding("ok", found)


def _check_end(_: Any, engine: Any) -> Finding:
    """Compare the tokenizer's end token with those at which generation stops."""
    wanted, stops = engine.vocabulary.eos, engine.model.generation_config.eos_token_id
    if wanted in (stops if isinstance(stops, list | tuple) else [stops]):
        return Finding("ok", f"answers end at token {wanted}")
    fix = f"set eos_token_id to {wanted} in the checkpoint's generation_config.json"
    return Finding("fail", f"generation stops at {stops}, the tokenizer ends at {wanted}", fix)


def _check_mask(_: Any, engine: Any) -> Finding:
    """Run the leak test: no suffix token sees what follows it, the prefix sees all of itself."""
    from pgvision.runtime import check_leaks

    report = check_leaks(engine.model)
    found = (
        f"change of earlier suffix logits {report.suffix_leak:.1e} (right: 0), "
        f"of earlier prefix positions {report.prefix_sight:.1e} (right: more)"
    )
    return _as_transformers(report.ok, found)


def _check_passes(_: Any, engine: Any) -> Finding:
    """Compare our passes over the language model with transformers' own."""
    from pgvision.runtime import check_language

    report = check_language(engine.model)
    found = f"differs from transformers by {report.difference:.1e} (allowed: {report.allowed:.0e})"
    return _as_transformers(report.ok, found)


def _as_transformers(is_right: bool, found: str) -> Finding:
    fix = "pip install 'transformers>=5.23,<5.24'"
    return Finding("ok", found) if is_right else Finding("fail", found, fix)


def _check_codec(_: Any, engine: Any) -> Finding:
    """Load the mask codec that belongs to the checkpoint."""
    from vqvae import MaskCodec

    try:
        MaskCodec.load(engine.card.codec)
    except PgvisionError as error:
        return Finding("note", str(error), "only `pgvision segment` needs it")
    return Finding("ok", engine.card.codec)


_MACHINE: Final[dict[str, Callable[[], Finding]]] = {
    "python": check_python,
    "transformers": check_transformers,
    "torch": check_torch,
    "opencv": check_opencv,
    "hub": check_hub,
}
_CHECKPOINT: Final[dict[str, Callable[[Any, Any], Finding]]] = {
    "engine": _check_engines,
    "dtype": _check_numbers,
    "eos": _check_end,
    "attention mask": _check_mask,
    "language model": _check_passes,
    "mask codec": _check_codec,
}
