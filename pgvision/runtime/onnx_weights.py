"""Weights of ONNX files made as small as the checkpoint's own: halves that are cast when loaded.

onnxruntime folds the casts away when it opens a file: in memory, and in arithmetic, weights are the
float32 numbers that the halves stand for. int8 stays int8, and its products are rounded.
"""

import warnings
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from pgvision.errors import DependencyError, OptionError

WeightForm = Literal["float32", "float16", "bfloat16", "int8"]
_LEAST: Final = 1024  # numbers; what is smaller stays as it is
_MOST_IN_ONE_FILE: Final = 2**31 - 2**24  # bytes that protobuf holds


def require_form(form: str) -> None:
    """Check the name of a form.

    Raises:
        OptionError: If there is no such form.
    """
    if form not in get_args(WeightForm):
        expected = ", ".join(get_args(WeightForm))
        raise OptionError(f"weights: expected one of {expected}, got {form!r}")


def pack(path: Path, form: WeightForm) -> None:
    """Write an ONNX file's weights anew, aside and then renamed; large ones into ``NAME.data``.

    Args:
        path: The file, its weights in float32.
        form: What they become.

    Raises:
        DependencyError: If onnxruntime is missing, which makes int8.
    """
    import onnx

    if form == "int8":
        _round_products(path)
    model = onnx.load(path)
    if form in ("float16", "bfloat16"):
        _halve(model.graph, form)
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    onnx.save(
        model,
        path,
        save_as_external_data=size > _MOST_IN_ONE_FILE,
        location=data.name,
        size_threshold=_LEAST,
    )


def _round_products(path: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise DependencyError("int8 needs onnxruntime: pip install 'pgvision[onnx]'") from error
    rounded = path.with_name(f"int8-{path.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(
            path,
            rounded,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            use_external_data_format=path.with_name(f"{path.name}.data").exists(),
        )
    rounded.replace(path)
    beside = rounded.with_name(f"{rounded.name}.data")
    if beside.exists():  # the file names it
        beside.replace(path.with_name(beside.name))


def _halve(graph: Any, form: str) -> None:
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if form == "float16" else TensorProto.BFLOAT16
    casts = []
    for one in graph.initializer:
        if one.data_type != TensorProto.FLOAT or np.prod(one.dims) < _LEAST:
            continue
        numbers = numpy_helper.to_array(one)
        name, small = one.name, f"{one.name}.{form}"
        one.CopyFrom(
            helper.make_tensor(small, kind, numbers.shape, half_bytes(numbers, form), raw=True)
        )
        casts.append(helper.make_node("Cast", [small], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def half_bytes(numbers: np.ndarray[Any, Any], form: str) -> bytes:
    """Return float32 numbers as float16 or bfloat16, rounded to the nearest.

    Example:
        >>> half_bytes(np.array([1.0], np.float32), "bfloat16").hex()
        '803f'
    """
    if form == "float16":
        return numbers.astype(np.float16).tobytes()
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1  # ties go to even
    return ((bits + 0x7FFF + odd) >> 16).astype(np.uint16).tobytes()
