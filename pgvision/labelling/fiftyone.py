"""A model for FiftyOne: ``dataset.apply_model(fiftyone_model(Detector("helmet")), "found")``."""

from collections.abc import Iterable
from typing import Any

from pgvision.errors import DependencyError, OptionError
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter


def fiftyone_model(
    task: Detector | Segmenter | Captioner | Answerer | Reader, question: str | None = None
) -> Any:
    """Make a model that FiftyOne can apply to a data set.

    Args:
        task: What to ask of each picture.
        question: For an `Answerer`: the question.

    Returns:
        A ``fiftyone.core.models.Model`` for pictures. Of a detector or segmenter it gives
        ``Detections``, of the others a ``Classification``: see `DetectionResult.to_fiftyone` and
        `TextResult.to_fiftyone`.

    Raises:
        DependencyError: If fiftyone is not installed.
        OptionError: If an `Answerer` has no question, or another task has one.
    """
    try:
        from fiftyone.core.models import Model
    except ImportError as error:
        raise DependencyError("this needs fiftyone: pip install '.[fiftyone]'") from error
    asked = () if question is None else (question,)
    if bool(asked) != isinstance(task, Answerer):
        raise OptionError("question: an Answerer needs one, and no other task takes one")

    class PgvisionModel(Model):  # type: ignore[misc]
        """Defined in a function: FiftyOne requires a subclass, and importing it takes seconds."""

        media_type = "image"
        ragged_batches = False  # pictures of any size may share a batch
        transforms = None
        preprocess = False

        def predict(self, arg: Any) -> Any:
            """Run the task on one image, (h, w, 3) uint8 RGB as FiftyOne reads it."""
            return self.predict_all([arg])[0]

        def predict_all(self, args: Iterable[Any]) -> list[Any]:
            """Answer about several."""
            answers = task.predict(list(args), *asked, color="rgb")
            return [answer.to_fiftyone() for answer in answers]

    return PgvisionModel()
