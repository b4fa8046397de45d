"""One family of errors, and checks of options that raise them.

Each error is a `PgvisionError` and the builtin that fits.

A message names the input, what was expected, what was found, and the fix. What a model
writes is data and never raises; what a user passes is a contract and always does.
"""

import collections.abc
import difflib
import math
from collections.abc import Collection, Mapping
from importlib import import_module
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)


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


def require_count(name: str, value: object, least: int = 0) -> int:
    """Return a whole number, numpy's included, as an int.

    Raises:
        OptionError: If it is anything else, or below ``least``.

    Example:
        >>> require_count("batch_size", 8, least=1)
        8
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        kind = type(value).__name__
        raise OptionError(
            f"{name}: expected a whole number of at least {least}, got {value!r:.80} ({kind})"
        )
    return int(value)


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


class Range(NamedTuple):
    """Least and greatest value of a number, both included."""

    low: float
    high: float = math.inf


Count: TypeAlias = Annotated[int, Range(1)]
Share: TypeAlias = Annotated[float, Range(0, 1)]


def check_options(given: Mapping[str, object], options: type, task: str) -> None:
    """Raise unless every keyword exists and has the type and range that a class declares for it.

    Args:
        given: The keywords.
        options: A TypedDict or dataclass; ranges are annotations, such as `Count`.
        task: What has these options, for the message.

    Raises:
        OptionError: With the nearest existing name, or with what was expected.

    Example:
        >>> from typing import TypedDict
        >>> class Options(TypedDict):
        ...     conf: Share | Literal["auto"]
        >>> check_options({"conf": "0.3"}, Options, "Detector")
        Traceback (most recent call last):
        pgvision.errors.OptionError: conf: expected a number in [0, 1] or 'auto', got '0.3' (str)
    """
    hints = get_type_hints(options, include_extras=True)
    for name, value in given.items():
        # 1. The name: suggest the nearest one.
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(hints)}"
            raise OptionError(f"{name}: {task} has no such option; {hint}")
        # 2. The value: one of the alternatives; None is the default of each.
        choices = [part for part in _alternatives(hints[name]) if part is not NoneType]
        if value is not None and not any(_fits(value, part) for part in choices):
            expected = " or ".join(_describe(part) for part in choices)
            raise OptionError(
                f"{name}: expected {expected}, got {value!r:.80} ({type(value).__name__})"
            )


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for each in get_args(hint) for part in _alternatives(each))
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        base, allowed = get_args(hint)
        return _fits(value, base) and bool(allowed.low <= value <= allowed.high)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:  # of any length
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is collections.abc.Mapping:
        items = value.values() if isinstance(value, Mapping) else [None]
        return all(_fits(item, get_args(hint)[1]) for item in items)
    if getattr(hint, "_is_protocol", False):  # looked at by its members
        return all(hasattr(value, name) for name in vars(hint) if not name.startswith("_"))
    if hint in (int, float):  # numpy's numbers included, True excluded; a range excludes NaN
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    if get_origin(hint) is Annotated:
        base, (low, high) = get_args(hint)
        return f"{names[base]} " + (
            f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        )
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {_describe(get_args(hint)[0])}"
    if get_origin(hint) is collections.abc.Mapping:
        return f"an object, each value {_describe(get_args(hint)[1])}"
    return names.get(hint, f"a {hint.__name__}")
