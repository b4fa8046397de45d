"""`Segmenter`: names in, scored masks out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.errors import CodecError
from pgvision.images import Frame
from pgvision.results import SegmentationResult
from pgvision.runtime import Engine, Generation, Generator
from pgvision.tasks.adapter import Ask
from pgvision.tasks.detector import Detector
from pgvision.tasks.objects import Found
from pgvision.tokens import Reject, segment_prefix
from pgvision.tokens.scoring import DEFAULT_SCORE

if TYPE_CHECKING:
    from vqvae import MaskCodec

NO_MASK = "no mask"


class Segmenter(Detector):
    """Finds objects by name and draws their masks. The surface is `Detector`'s.

    Args:
        classes: A name, a referring phrase, or several names.
        codec: The mask codec; None: the one that belongs to the checkpoint. A path or a loaded
            `vqvae.MaskCodec` may be given; another codec's codes would draw nonsense and are
            refused.
        soft: Probability-weighted edges and masks instead of the most probable tokens.

    The other arguments are those of `Detector`.

    Raises:
        CodecError: If the codec is not the checkpoint's.

    Example:
        >>> from pgvision.scenes import render_scene
        >>> result = Segmenter("helmet")(render_scene(20_000_000).image)
        >>> result.masks.shape[1:]
        (480, 640)
    """

    def __init__(
        self,
        classes: str | Iterable[str],
        *,
        model: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        codec: "MaskCodec | str | Path | None" = None,
        conf: float | None = None,
        nms: float | None = None,
        max_objects: int | None = None,
        score: str = DEFAULT_SCORE,
        soft: bool = False,
        classes_per_prompt: int | None = None,
        tile: int | None = None,
        calibrate: str | Path | None = None,
        convention: str = "1024",
        batch_size: int | None = None,
        generator: Generator | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(
            classes,
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            conf=conf,
            nms=nms,
            max_objects=max_objects,
            score=score,
            soft=soft,
            classes_per_prompt=classes_per_prompt,
            tile=tile,
            calibrate=calibrate,
            convention=convention,
            batch_size=batch_size,
            generator=generator,
            kind=kind,
        )
        self.codec = self._require_codec(codec)

    def _require_codec(self, codec: "MaskCodec | str | Path | None") -> "MaskCodec":
        from vqvae import MaskCodec

        card = self.generator.card if isinstance(self.generator, Engine) else None
        wanted = card.codec if card else "tiny"
        loaded = codec if isinstance(codec, MaskCodec) else MaskCodec.load(codec or wanted)
        if card is not None and loaded.name != wanted:
            raise CodecError(
                f"codec: {card.name} writes the codes of the {wanted!r} codec, got "
                f"{loaded.name!r}; leave codec= out, or name a checkpoint of that codec"
            )
        return loaded

    def _prefix(self, names: Sequence[str]) -> str:
        return segment_prefix(names, kind=self.kind)

    def _make(
        self,
        frame: Frame,
        answered: Sequence[tuple[Ask, Generation]],
        found: Sequence[Found],
        rejects: Sequence[Reject],
    ) -> SegmentationResult:
        drawn = [item for item in found if item.parsed.codes is not None]
        bare = [
            Reject(item.parsed.label or "", NO_MASK, item.parsed.start, item.parsed.end)
            for item in found
            if item.parsed.codes is None
        ]
        fields: dict[str, Any] = self._fields(frame, answered, drawn, (*rejects, *bare))
        codes = np.array([item.parsed.codes for item in drawn], np.int64).reshape(-1, 16)
        return SegmentationResult(**fields, codes=codes, mask_logits=self._logits(drawn))

    def _logits(self, found: Sequence[Found]) -> FloatArray:
        if not found:
            return np.zeros((0, 64, 64), np.float32)
        probs = [item.seg_probs for item in found]
        if self.options.soft and all(one is not None for one in probs):
            return self.codec.decode_soft(np.array(probs, np.float32))
        return self.codec.decode(np.array([item.parsed.codes for item in found], np.int64))
