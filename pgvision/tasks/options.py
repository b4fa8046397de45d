"""Options of the tasks: each written once with its type and range."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from pgvision.errors import Count, Range, Share
from pgvision.evaluation import Calibration
from pgvision.images import Color
from pgvision.runtime import Drafts, Generator

Unknown = Literal["refuse", "ask"]


Conf: TypeAlias = Share | Literal["auto"]


class ImageOptions(TypedDict, total=False):
    """Options of a call with one image.

    Attributes:
        color: "bgr" (OpenCV's order, the default) or "rgb", for arrays.
        conf: `Detector` and `Segmenter` only: replaces the task's ``conf`` for this call.
    """

    color: Color
    conf: Conf | None


class ReadOptions(ImageOptions, total=False):
    """Options of ``predict`` and ``stream``.

    Attributes:
        recursive: Read folders with their subfolders.
        stride: Of a video use each ``stride``-th frame.
    """

    recursive: bool
    stride: Count


class ModelOptions(TypedDict, total=False):
    """Which model runs, and how.

    Attributes:
        model: Hub id, folder, ``"tiny"``, ``"small"`` or the address of an engine that serves one
            (see `pgvision.runtime.Remote`); None: ``PGVISION_MODEL``, else ``"small"``.
        revision: Branch, tag or commit of a hub id; None: its main branch.
        device: "cpu", "cuda", "cuda:1", "mps"; None: the best one there is.
        dtype: "float32", "bfloat16" or "float16"; None: what suits model and device.
        threads: Threads of the CPU; None: what suits the model.
        engine: Library that runs the model: "onnx" (ONNX Runtime, float32), "torch" or "auto";
            None: "onnx" on a CPU for folders of up to 200 million parameters, else "torch".
        batch_size: Prompts that go through the model together; None: 8, or 1 for live sources (a
            camera, an address that is no video file), to keep latency low.
        drafts: "exact" (default): over video the last frame's answer is a speculative draft of the
            next, which saves passes and changes no answer. "off".
        generator: Another engine (`pgvision.runtime.Generator`).
        kind: "pt", "mix", "ft", ...: the kind of prompts; None: that of the checkpoint's card.
        unknown: "refuse" (default): names, questions and images that a model was not trained on
            are refused where its card lists what it was trained on. "ask": ask anyway.
    """

    model: str | Path | None
    revision: str | None
    device: str | None
    dtype: str | None
    threads: Count | None
    engine: Literal["auto", "onnx", "torch"] | None
    batch_size: Count | None
    drafts: Drafts
    generator: Generator | None
    kind: str | None
    unknown: Unknown


class AnswerOptions(ModelOptions, total=False):
    """Options of an `Answerer`.

    Attributes:
        free_text: Send the question as it is, without "answer {language}" in front; mix
            checkpoints take that. Not compared with the questions of the card.
    """

    free_text: bool


class ObjectOptions(ModelOptions, total=False):
    """Which of the objects that a model names are kept.

    Attributes:
        conf: Least score, after calibration. "auto" (default): the thresholds of the checkpoint's
            card, where it has them; 0 keeps everything.
        nms: Of boxes of one class that overlap more than this the best stays; None: only where
            several prompts or tiles are merged.
        max_objects: At most this many per image, the best ones.
        classes_per_prompt: Names in one prompt; None: what suits the kind of checkpoint.
        tile: Side in pixels of square tiles to look at besides the whole image, for small objects
            in large images. "auto": chosen from the image's size and the model's resolution.
        calibrate: File with a fitted `pgvision.evaluation.Calibration` that maps scores.
        constrained: Whether answers follow the grammar while they are written (default): the model
            can write no label but the names asked for. False parses whatever it writes.
        closed_set: Ask for all classes at once, as a checkpoint was trained to be asked if its card
            has a `pgvision.runtime.checkpoints.ClosedSet`: every answer has the same number of
            boxes, and the likelihood of the class is the score. None: where the card has one that
            includes all names asked for. `Detector` only.
    """

    conf: Conf | None
    nms: Share | None
    max_objects: Count | None
    classes_per_prompt: Count | None
    tile: Annotated[int, Range(32)] | Literal["auto"] | None
    calibrate: str | Path | None
    constrained: bool
    closed_set: bool | None


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """Resolved `ObjectOptions`: defaults filled in, the calibration loaded."""

    conf: float | Literal["auto"] = "auto"
    nms: float | None = None
    max_objects: int | None = None
    classes_per_prompt: int | None = None
    tile: int | Literal["auto"] | None = None
    calibration: Calibration | None = None
    constrained: bool = True
    closed_set: bool | None = None
    unknown: Unknown = "refuse"


def object_settings(options: ObjectOptions) -> ObjectSettings:
    """Fill in the defaults; None means the default.

    Raises:
        DataError: If the calibration cannot be read.
    """
    known = {item.name for item in fields(ObjectSettings)}
    given: dict[str, Any] = {
        name: value for name, value in options.items() if name in known and value is not None
    }
    # The file is read once, not for each image.
    calibrate = options.get("calibrate")
    if calibrate is not None:
        given["calibration"] = Calibration.load(calibrate)
    return ObjectSettings(**given)
