"""Type aliases of arrays, used in every signature of pgvision; and records as plain values."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
ByteArray: TypeAlias = NDArray[np.uint8]


def to_plain(value: Any, *, without: frozenset[str] = frozenset()) -> Any:
    """Return a value as ``json.loads`` would: arrays and tuples as lists, dataclasses as dicts.

    Args:
        value: The value.
        without: Fields of the outermost dataclass that are left out.

    Example:
        >>> to_plain({"xyxy": np.zeros((1, 2)), "classes": ("helmet",)})
        {'xyxy': [[0.0, 0.0]], 'classes': ['helmet']}
    """
    if isinstance(value, np.ndarray):
        return value.tolist()
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in without]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: to_plain(part) for key, part in value.items()}
    return [to_plain(part) for part in value] if isinstance(value, tuple | list) else value
