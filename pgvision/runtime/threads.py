"""How many threads a model computes with: small ones lose most of their time handing work over."""

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_SMALL: Final = 100_000_000  # parameters
_LOCK: Final = threading.Lock()


class Threads:
    """Compute with so many threads inside ``with``; may be entered again and from any thread.

    PyTorch's count is partly the thread's own and partly the process's, so each thread sets it on
    entering, and the last to leave finds the count as it was before the first came.

    Args:
        count: Threads; None leaves PyTorch's count alone.
    """

    _inside = 0
    _before = 1

    def __init__(self, count: int | None) -> None:
        self.count = count

    def __enter__(self) -> None:
        if self.count is None:
            return
        with _LOCK:
            if Threads._inside == 0:
                Threads._before = torch.get_num_threads()
            Threads._inside += 1
            torch.set_num_threads(self.count)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.count is None:
            return
        with _LOCK:
            Threads._inside -= 1
            torch.set_num_threads(Threads._before)


def is_small(model: "PaliGemmaForConditionalGeneration") -> bool:
    """Whether a model has under 100 million parameters: its work is too little to share out."""
    count: int = sum(each.numel() for each in model.parameters())
    return count < _SMALL


def threads_for(model: "PaliGemmaForConditionalGeneration", wanted: int | None = None) -> Threads:
    """Choose the threads that a model computes with.

    Args:
        model: The model, on its device.
        wanted: What the user asked for. None: one thread for a model under 100 million parameters
            on the processor, where more cost up to ten times as much as soon as the cores are
            busy, unless ``OMP_NUM_THREADS`` says otherwise; PyTorch's count for all others.

    Returns:
        What to compute in, with ``with``.
    """
    if wanted is not None:
        return Threads(wanted)
    told = "OMP_NUM_THREADS" in os.environ
    return Threads(1 if is_small(model) and not told and model.device.type == "cpu" else None)
