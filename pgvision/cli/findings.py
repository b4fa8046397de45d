"""Results of checks, and the options of commands that work without OpenCV until they load."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

from pgvision.errors import PgvisionError

Status = Literal["ok", "note", "fail"]


class Finding(NamedTuple):
    """Result of one check.

    Attributes:
        status: ``"ok"``, ``"note"`` (works, but worth knowing) or ``"fail"``.
        found: What is there.
        fix: What to do about it; empty if nothing.
    """

    status: Status
    found: str
    fix: str = ""


def examined(check: Callable[[], Finding | None]) -> Finding | None:
    """Run a check; an error is a failure with the error's message."""
    try:
        return check()
    except (PgvisionError, ImportError) as error:
        return Finding("fail", str(error))
    except Exception as error:  # noqa: BLE001  (of a broken package anything may come)
        return Finding("fail", f"{type(error).__name__}: {error}")


class LoadOptions(TypedDict, total=False):
    """Options of `pgvision.runtime.open_engine`.

    Attributes:
        model: Hub id, folder, "tiny", "small" or the address of an engine that serves one; None:
            PGVISION_MODEL, else "small".
        revision: Branch, tag or commit of a hub id; None: its main branch.
        kind: Prompt format: pt, mix, ft, refcoco-seg or tiny; None: that of its card or name.
        device: cpu, cuda, cuda:1, mps; None: the best one there is.
        dtype: float32, bfloat16 or float16; None: what suits the device.
        quantize: "int8" or "int4" weights: less memory, slower on CPUs, other boxes. Needs the
            extra quant.
        threads: Threads of the CPU; None: what suits the model.
        engine: Library that runs the model; None: onnx for small models on a CPU, else torch.
    """

    model: str | None
    revision: str | None
    kind: str | None
    device: str | None
    dtype: str | None
    quantize: Literal["int8", "int4"] | None
    threads: int | None
    engine: Literal["auto", "onnx", "torch"] | None
