"""What cannot be written is told in our words, and what was there before is still there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from pgvision.errors import CheckpointError


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn the errors of safetensors, torch and the system into one.

    Args:
        path: What is being written.

    Raises:
        CheckpointError: If it could not be.
    """
    try:
        yield
    # RuntimeError: torch's archives, on a full disk.
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be written: {str(error).splitlines()[0]}. What was saved before is "
            "whole: make room, and give the same command again"
        ) from error
