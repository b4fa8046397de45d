"""`pgvision doctor`: checks of this machine and a checkpoint, with a fix for each problem."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from pgvision.cli.checks import Check, Status
from pgvision.cli.doctor_checkpoint import check_checkpoint
from pgvision.cli.exit_codes import DONE, FAILED, end
from pgvision.cli.model_options import LoadKeywords, ModelOptions
from pgvision.cli.options import takes

_STYLES: dict[Status, str] = {"ok": "green", "note": "yellow", "fail": "bold red"}
_TESTED_TRANSFORMERS = (5, 23)
_OPENCV_FLAVOURS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@takes(ModelOptions)
def doctor(
    *,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Test a server instead: does it run PaliGemma as it was trained? It must serve "
            "the bundled checkpoint 'tiny' for this.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per check.")
    ] = False,
    options: ModelOptions,
) -> None:
    """Check this machine and a checkpoint, and print a fix for each problem.

    [bold]Examples[/bold]

    pgvision doctor
    pgvision doctor --model google/paligemma2-3b-mix-448 --dtype bfloat16
    pgvision doctor --engine http://localhost:8000
    pgvision doctor --json | jq 'select(.status == "fail")'
    """
    checks = []
    for check in _all_checks(options.for_load) if engine is None else _engine_checks(engine):
        checks.append(check)
        _show(check, as_json)
    end(FAILED if any(check.status == "fail" for check in checks) else DONE)


def _all_checks(how: LoadKeywords) -> Iterator[Check]:
    for look in (check_python, check_transformers, check_torch, check_opencv, check_hub):
        yield look()
    yield from check_extras()
    yield from check_checkpoint(how)


def _engine_checks(address: str) -> Iterator[Check]:
    from pgvision.cli.conformance import check_engine

    return check_engine(address)


def _show(check: Check, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(check), ensure_ascii=False))
        return
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    console.print(f"{check.status:>4}", style=_STYLES[check.status], end="  ")
    console.print(f"{check.name}: {check.found}", markup=False)
    if check.fix:
        console.print(f"      -> {check.fix}", markup=False)


def check_python() -> Check:
    """Name the interpreter and the machine.

    Returns:
        A note without judgement: pip refuses a Python that is too old.
    """
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", f"{found}, {os.cpu_count()} cores")


def check_transformers() -> Check:
    """Compare the installed transformers with the one that the suite runs on.

    Returns:
        A failure outside 5.x, a note on releases that were not tested.
    """
    version = importlib.metadata.version("transformers")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers[0] != _TESTED_TRANSFORMERS[0] or numbers < _TESTED_TRANSFORMERS:
        return Check("transformers", "fail", version, "pip install 'transformers>=5.23,<6'")
    if numbers == _TESTED_TRANSFORMERS:
        return Check("transformers", "ok", version)
    return Check(
        "transformers",
        "note",
        f"{version}; the suite runs on 5.23",
        "attention masks have changed between releases: trust the leak test below",
    )


def check_torch() -> Check:
    """Name torch and what it can compute on.

    Returns:
        A note where only the processor is left.
    """
    try:
        import torch
    except ImportError as error:
        return Check("torch", "fail", str(error), "pip install torch")
    if torch.cuda.is_available():
        return Check("torch", "ok", f"{torch.__version__}, {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Check("torch", "ok", f"{torch.__version__}, Apple GPU (mps)")
    found = f"{torch.__version__}, CPU only, threads: {torch.get_num_threads()}"
    fix = "fine for the bundled models; a 3B checkpoint takes a minute or more per image here"
    return Check("torch", "note", found, fix)


def check_opencv() -> Check:
    """Import OpenCV and look for two flavours of it in one place.

    Returns:
        A failure if it cannot be imported, a note if flavours overwrite each other.
    """
    flavours = [f"{name} {version}" for name in _OPENCV_FLAVOURS if (version := _version(name))]
    named = ", ".join(flavours) or "no OpenCV package"
    try:
        import cv2
    except ImportError as error:
        fix = "apt-get install -y libgl1 libglib2.0-0 libxcb1, or use opencv-python-headless"
        return Check("opencv", "fail", f"{named}: {error}", fix)
    # All flavours install into the same folder cv2/.
    if len(flavours) > 1:
        fix = (
            "they share one folder, and removing one breaks the other: pip uninstall all of them, "
            "then pip install one"
        )
        return Check("opencv", "note", f"{named}: the last one installed wins", fix)
    return Check("opencv", "ok", f"{named}, imports as {cv2.__version__}")


def check_hub() -> Check:
    """Look for a token of the Hugging Face hub; nothing is asked over the network.

    Returns:
        A note if there is none: only Google's gated checkpoints need it.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "note", "HF_HUB_OFFLINE is set: nothing will be downloaded")
    if get_token():
        return Check("hub", "ok", "a token is present")
    fix = "for Google's checkpoints: accept the terms on the model's page, then hf auth login"
    return Check("hub", "note", "not logged in (the bundled models need no login)", fix)


def check_extras() -> Iterator[Check]:
    """List the optional packages that are not installed.

    Yields:
        A note for each missing extra.
    """
    for package, extra, use in (
        ("trackers", "track", "--track"),
        ("pandas", "pandas", "to_pandas()"),
    ):
        if _version(package) is None:
            yield Check(package, "note", f"absent: no {use}", f"pip install '.[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
