"""Pictures to image tokens: squeezed as the processor does, encoded once, remembered by bytes."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from pgvision.runtime.protocol import Picture

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_REMEMBERED_BYTES: Final = 256 * 2**20
_TOKENS_AT_ONCE: Final = 8192
"""Image tokens that the tower sees in one batch: 32 pictures at 224, 8 at 448, 2 at 896."""


class Eyes:
    """The vision tower and the projector, with a memory of pictures.

    Args:
        model: The model.
        image_processor: The checkpoint's own.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration", image_processor: Any) -> None:
        self._model, self._processor = model, image_processor
        self._batch = max(1, _TOKENS_AT_ONCE // int(image_processor.image_seq_length))
        self._memory: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @torch.inference_mode()
    def see(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the image tokens of pictures, from memory where they were seen before.

        Args:
            pictures: The same one may come many times.

        Returns:
            ``(len(pictures), n, d)``.
        """
        known: dict[bytes, Tensor] = {}
        with self._lock:
            for picture in pictures:
                held = self._memory.get(picture.fingerprint)
                if held is not None:
                    self._memory.move_to_end(picture.fingerprint)
                    known[picture.fingerprint] = held
        fresh = {p.fingerprint: p for p in pictures if p.fingerprint not in known}
        for start in range(0, len(fresh), self._batch):
            keys = list(fresh)[start : start + self._batch]
            # Rows of their own: a view would keep the whole batch alive.
            rows = [row.clone() for row in self._encode([fresh[key] for key in keys])]
            known.update(zip(keys, rows, strict=True))
            self._remember(keys, rows)
        return torch.stack([known[picture.fingerprint] for picture in pictures])

    def forget(self) -> None:
        """Drop all remembered pictures."""
        with self._lock:
            self._memory.clear()
            self._bytes = 0

    def _remember(self, keys: Sequence[bytes], rows: Sequence[Tensor]) -> None:
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if key not in self._memory:
                    self._memory[key] = row
                    self._bytes += row.nbytes
            while self._bytes > _REMEMBERED_BYTES and len(self._memory) > 1:
                self._bytes -= self._memory.popitem(last=False)[1].nbytes

    def _encode(self, pictures: Sequence[Picture]) -> Tensor:
        # The processor reads RGB; our pictures are BGR.
        images = [np.ascontiguousarray(picture.bgr[..., ::-1]) for picture in pictures]
        # Said, not guessed: a picture 1 or 3 pixels high would be taken for channels first.
        pixels = self._processor(
            images=images, return_tensors="pt", input_data_format="channels_last"
        )
        values = pixels["pixel_values"].to(self._model.device, self._model.dtype)
        seen: Tensor = self._model.get_image_features(values).pooler_output
        return seen
