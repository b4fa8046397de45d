"""One family of errors: each is a `PgvisionError` and the builtin that fits.

A message names the input, what was expected, what was found, and the fix. What a model
writes is data and never raises; what a user passes is a contract and always does.
"""

from collections.abc import Collection
from importlib import import_module
from typing import Any


class PgvisionError(Exception):
    """Base of everything that pgvision raises on purpose."""


class ShapeError(PgvisionError, ValueError):
    """An array has another shape, dtype or value range than its name promises."""


class OptionError(PgvisionError, ValueError):
    """An option is outside what it may be (``conf=2``, an unknown ``dtype``)."""


class PromptError(PgvisionError, ValueError):
    """A phrase, class list, question or language that cannot be put into a prompt."""


class UnknownNameError(PromptError):
    """A class or question that the model was not trained on; ``unknown="ask"`` asks anyway."""


class ImageError(PgvisionError, ValueError):
    """Bytes or an array that cannot be read as an image."""


class SourceError(PgvisionError, FileNotFoundError):
    """A path, folder, glob, video, camera or address that does not exist or is empty."""


class CheckpointError(PgvisionError, OSError):
    """A model checkpoint that cannot be found, reached, read or used."""


class GatedCheckpointError(CheckpointError, PermissionError):
    """The hub refuses the weights until the licence is accepted and a token is present."""


class DataError(PgvisionError, ValueError):
    """A file of examples or annotations that is broken or contradicts itself."""


class EvaluationError(PgvisionError, ValueError):
    """Predictions or ground truth that cannot be scored honestly."""


class CodecError(PgvisionError, ValueError):
    """Masks, codes or codec weights that the mask codec cannot take."""


class DependencyError(PgvisionError, ImportError):
    """An optional package or a system library is missing."""


def require_choice(name: str, value: object, known: Collection[str]) -> None:
    """Check an option that has a few values.

    Raises:
        OptionError: If ``value`` is none of the known ones; they are listed.

    Example:
        >>> require_choice("color", "rgb", ("bgr", "rgb"))
    """
    if value not in known:
        raise OptionError(
            f"{name}: expected one of {', '.join(known)}, got {value!r}. Fix: choose one."
        )


def require_module(name: str, message: str) -> Any:
    """Import an optional module.

    Args:
        name: Dotted name.
        message: What needs it, and how to install it.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(message) from error
