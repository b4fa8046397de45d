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
_PASSING_BYTES: Final = 32 * 2**20
"""Of pictures that will hardly come again: enough for what a user asks of a frame beside."""
_TOKENS_AT_ONCE: Final = 8192
"""Image tokens that the tower sees in one batch: 32 pictures at 224, 8 at 448, 2 at 896."""


class _Memory:
    """Encoded pictures by their fingerprint; what was longest unused gives way."""

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    def recall(self, key: bytes) -> Tensor | None:
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def keep(self, key: bytes, row: Tensor, most_bytes: int) -> None:
        if key not in self._rows:
            self._rows[key] = row
            self._bytes += row.nbytes
        while self._bytes > most_bytes and len(self._rows) > 1:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes


class Eyes:
    """The vision tower and the projector, with a memory of pictures.

    Pictures that pass (frames of a video) have a small memory of their own, so that a camera
    neither fills this one nor drives out what will be asked about again.

    Args:
        model: The model.
        image_processor: The checkpoint's own.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration", image_processor: Any) -> None:
        self._model, self._processor = model, image_processor
        self._batch = max(1, _TOKENS_AT_ONCE // int(image_processor.image_seq_length))
        self._lock = threading.Lock()
        self.forget()

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
                for memory in (self._lasting, self._passing):
                    if (held := memory.recall(picture.fingerprint)) is not None:
                        known[picture.fingerprint] = held
        fresh = {p.fingerprint: p for p in pictures if p.fingerprint not in known}
        for start in range(0, len(fresh), self._batch):
            part = list(fresh.values())[start : start + self._batch]
            # Rows of their own: a view would keep the whole batch alive.
            rows = [row.clone() for row in self._encode(part)]
            known.update((one.fingerprint, row) for one, row in zip(part, rows, strict=True))
            self._remember(part, rows)
        return torch.stack([known[picture.fingerprint] for picture in pictures])

    def forget(self) -> None:
        """Drop all remembered pictures."""
        with self._lock:
            self._lasting, self._passing = _Memory(), _Memory()

    def _remember(self, pictures: Sequence[Picture], rows: Sequence[Tensor]) -> None:
        with self._lock:
            for picture, row in zip(pictures, rows, strict=True):
                if picture.is_passing:
                    self._passing.keep(picture.fingerprint, row, _PASSING_BYTES)
                else:
                    self._lasting.keep(picture.fingerprint, row, _REMEMBERED_BYTES)

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
