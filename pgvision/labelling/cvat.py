"""A detection function for CVAT: ``cvat-cli task auto-annotate`` and agents load this module.

``cvat-cli task auto-annotate 137 --function-module pgvision.labelling.cvat -p "classes=str:helmet;
head" -p task=str:segment -p model=str:small``
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pgvision.errors import OptionError, require_module
from pgvision.labelling.label_studio import outer_rings
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.tasks import Detector, Segmenter
from pgvision.tokens import require_classes

if TYPE_CHECKING:
    from cvat_sdk.auto_annotation import DetectionFunctionContext, DetectionFunctionSpec
    from PIL.Image import Image


class CvatFunction:
    """What CVAT's drivers call.

    Args:
        find: Finds the objects.
        classes: The labels, as they are called in the CVAT project.

    Raises:
        DependencyError: If cvat-sdk is not installed.
    """

    def __init__(self, find: Detector | Segmenter, classes: Sequence[str]) -> None:
        message = "CVAT functions need cvat-sdk: pip install cvat-sdk"
        cvat = require_module("cvat_sdk.auto_annotation", message)
        self._find, self._cvat = find, cvat
        self._encode = require_module("cvat_sdk.masks", message).encode_mask
        self.spec: DetectionFunctionSpec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(name, at) for at, name in enumerate(classes)]
        )

    def detect(self, context: "DetectionFunctionContext", image: "Image") -> list[Any]:
        """Find the objects of one picture.

        Args:
            context: CVAT's wishes: ``conf_threshold``, ``conv_mask_to_poly``.
            image: The picture.

        Returns:
            Rectangles; of a segmenter masks, or polygons where CVAT wants those.
        """
        # CVAT's threshold replaces those of the model's card, which may be higher.
        result: DetectionResult = self._find(image, conf=context.conf_threshold)
        result = result[result.class_ids >= 0]  # CVAT's drivers refuse any other label
        # Boxes, polygons for each ring of a mask, or masks; an empty mask is no shape.
        shapes: list[Any] = []
        for one in result:
            how = {} if one.scores is None else {"score": float(one.scores[0])}
            label = int(one.class_ids[0])
            if not isinstance(one, SegmentationResult):
                shapes.append(self._cvat.rectangle(label, one.xyxy[0].tolist(), **how))
            elif context.conv_mask_to_poly:
                rings = [ring.ravel().tolist() for ring in outer_rings(one)]
                shapes += [self._cvat.polygon(label, ring, **how) for ring in rings]
            elif one.masks.any():
                shapes.append(self._cvat.mask(label, self._encode(one.masks[0]), **how))
        return shapes


def create(
    classes: str,
    task: Literal["detect", "segment"] = "detect",
    model: str | None = None,
    conf: float | None = None,
) -> CvatFunction:
    """Make the function; CVAT's tools call this with the values of ``-p``.

    Args:
        classes: What to find, with ``;`` between; the project's labels are called so.
        task: Boxes, or masks.
        model: See `pgvision.runtime.load`.
        conf: Least score where CVAT names none.

    Raises:
        OptionError: If ``task`` is another.
        DependencyError: If cvat-sdk is not installed.

    Example:
        >>> [label.name for label in create("helmet; head").spec.labels]
        ['helmet', 'head']
    """
    if task not in ("detect", "segment"):
        raise OptionError(f"task: expected detect or segment, got {task!r}")
    names = require_classes([name.strip() for name in classes.split(";")])
    make = Detector if task == "detect" else Segmenter
    return CvatFunction(make(names, model=model, conf=conf), names)
