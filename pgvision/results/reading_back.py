"""From a written dict back to the result, whichever kind it was."""

from collections.abc import Mapping

from pgvision.errors import DataError
from pgvision.results.answer import Answer
from pgvision.results.detection import DetectionResult
from pgvision.results.segmentation import SegmentationResult
from pgvision.results.text import TextResult


def result_from_dict(data: Mapping[str, object]) -> Answer:
    """Read back what any result's `to_dict` wrote, such as a line of a JSONL file.

    Args:
        data: The dict; its ``type`` says which class to build.

    Returns:
        A `DetectionResult`, `SegmentationResult` or `TextResult`.

    Raises:
        DataError: If ``type`` is none of these, or a field is missing or broken.

    Example:
        >>> result_from_dict(TextResult(image_hw=(4, 6), text="2").to_dict()).text
        '2'
    """
    kinds = {kind.__name__: kind for kind in (DetectionResult, SegmentationResult, TextResult)}
    name = data.get("type") if isinstance(data, Mapping) else type(data).__name__
    if name not in kinds:
        raise DataError(f"type must be one of {', '.join(kinds)}, got {name!r}")
    return kinds[str(name)].from_dict(data)
