"""`Detector`: names in, scored boxes in pixels out."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Unpack

from pgvision.images import Frame
from pgvision.results import DetectionResult
from pgvision.tasks.asking import Answered, Ask
from pgvision.tasks.objects import object_task
from pgvision.tasks.options import ObjectOptions, object_settings, require_known
from pgvision.tasks.predictor import Predictor
from pgvision.tokens import detect_prefix


class Detector(Predictor[DetectionResult]):
    """Finds objects by name.

    Args:
        classes: A name, or several: ``"helmet"``, ``["helmet", "head"]``.
        options: ``model``, ``device``, ``conf``, ``tile``, ``drafts`` and the others of
            `pgvision.tasks.options.ObjectOptions` and ``ModelOptions``, which says what each does.

    Raises:
        PromptError: If a name cannot be asked for.
        OptionError: If an option is unknown or outside its range, or ``revision`` is given with a
            folder.
        CheckpointError: If the model cannot be loaded.

    Example:
        >>> from pgvision import samples
        >>> detector = Detector("helmet", conf=0.3)
        >>> result = detector(samples.load("site-01"))
        >>> result.xyxy.shape[1], set(result.labels) <= {"helmet"}
        (4, True)
    """

    def __init__(self, classes: str | Iterable[str], **options: Unpack[ObjectOptions]) -> None:
        require_known(options, ObjectOptions, "Detector")
        settings = object_settings(options)
        super().__init__(options)
        prefix = partial(detect_prefix, kind=self.kind)
        self._task = object_task(classes, settings, self._runner.card, task="detect", prefix=prefix)
        self.classes = self._task.classes

    def __repr__(self) -> str:
        return f"Detector({list(self.classes)}, {self._runner})"

    def plan(self, frame: Frame) -> list[Ask]:
        """Say what to ask about a frame: each group of names, about the whole and its tiles."""
        return self._task.plan(frame)

    def read(self, frame: Frame, answers: Sequence[Answered]) -> DetectionResult:
        """Make a result of the answers to all that was asked, in the order of the plan."""
        found, rejects = self._task.found(frame, answers)
        return DetectionResult(**self._task.fields(frame, answers, found, rejects))
