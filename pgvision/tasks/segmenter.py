"""`Segmenter`: names in, scored masks out."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.errors import CodecError
from pgvision.images import Frame
from pgvision.results import SegmentationResult
from pgvision.runtime import CheckpointCard
from pgvision.tasks.asking import Answered, Ask
from pgvision.tasks.objects import object_task
from pgvision.tasks.options import ObjectOptions, object_settings, require_known
from pgvision.tasks.predictor import Predictor
from pgvision.tasks.reading import Found
from pgvision.tasks.running import card_of
from pgvision.tokens import segment_prefix

if TYPE_CHECKING:
    from vqvae import MaskCodec


class Segmenter(Predictor[SegmentationResult]):
    """Finds objects by name and draws their masks.

    Args:
        classes: A name, a referring phrase, or several names.
        codec: The mask codec; None: the one that belongs to the checkpoint. A path or a loaded
            `vqvae.MaskCodec` may be given; another codec's codes would draw nonsense and are
            refused.
        options: As for `pgvision.Detector`; ``soft`` also decodes probability-weighted masks.

    Raises:
        CodecError: If the codec is not the checkpoint's; it is looked for before weights are read.
        PromptError, OptionError, CheckpointError: As for `pgvision.Detector`.

    Example:
        >>> from pgvision import samples
        >>> result = Segmenter("helmet")(samples.load("site-01"))
        >>> result.masks.shape[1:]
        (480, 640)
    """

    def __init__(
        self,
        classes: str | Iterable[str],
        *,
        codec: "MaskCodec | str | Path | None" = None,
        **options: Unpack[ObjectOptions],
    ) -> None:
        require_known(options, ObjectOptions, "Segmenter")
        self._settings = object_settings(options)
        self.codec = _require_codec(codec, card_of(options))
        super().__init__(options)
        prefix = partial(segment_prefix, kind=self.kind)
        self._task = object_task(
            classes, self._settings, self._runner.card, task="segment", prefix=prefix
        )
        self.classes = self._task.classes

    def __repr__(self) -> str:
        return f"Segmenter({list(self.classes)}, {self._runner})"

    def plan(self, frame: Frame) -> list[Ask]:
        """Say what to ask about a frame: each group of names, about the whole and its tiles."""
        return self._task.plan(frame)

    def read(self, frame: Frame, answers: Sequence[Answered]) -> SegmentationResult:
        """Make a result of the answers; an object without a mask becomes a reject."""
        found, rejects = self._task.found(frame, answers, masks=True)
        codes = np.array([item.parsed.codes for item in found], np.int64).reshape(-1, 16)
        return SegmentationResult(
            **self._task.fields(frame, answers, found, rejects),
            codes=codes,
            mask_logits=self._logits(found),
        )

    def _logits(self, found: Sequence[Found]) -> FloatArray:
        if not found:
            return np.zeros((0, 64, 64), np.float32)
        probs = [item.seg_probs for item in found]
        if self._settings.soft and all(one is not None for one in probs):
            return self.codec.decode_soft(np.array(probs, np.float32))
        return self.codec.decode(np.array([item.parsed.codes for item in found], np.int64))


def _require_codec(codec: "MaskCodec | str | Path | None", card: CheckpointCard) -> "MaskCodec":
    from vqvae import MaskCodec

    loaded = codec if isinstance(codec, MaskCodec) else MaskCodec.load(codec or card.codec)
    if loaded.name != card.codec:
        raise CodecError(
            f"codec: {card.name} writes the codes of the {card.codec!r} codec, got "
            f"{loaded.name!r}; leave codec= out, or name a checkpoint of that codec"
        )
    return loaded
