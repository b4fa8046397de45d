"""Backend of an engine: the model on a device, and its cache of keys and values."""

from collections.abc import Sequence
from typing import Any, Protocol

from pgvision.arrays import ByteArray, FloatArray, IntArray


class KeyValueCache:
    """Keys and values of every layer; a row is one answer, a slot one token of it.

    Args:
        tables: Arrays or tensors ``(rows, kv_heads, slots, head_dim)``, the keys of all layers and
            then the values of all layers.
    """

    def __init__(self, tables: Sequence[Any]) -> None:
        self.tables = tuple(tables)
        self.rows, _, self.slots, _ = self.tables[0].shape

    def part(self, start: int, stop: int) -> "KeyValueCache":
        """Return the rows ``[start, stop)`` as a cache over the same memory."""
        return KeyValueCache([table[start:stop] for table in self.tables])

    def copy_from(self, smaller: "KeyValueCache") -> None:
        """Copy the contents of a cache with no more rows and slots."""
        for mine, theirs in zip(self.tables, smaller.tables, strict=True):
            mine[: smaller.rows, :, : smaller.slots] = theirs

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` slots to a free row."""
        for table in self.tables:
            table[target, :, :length] = table[source, :, :length]


class Backend(Protocol):
    """A model on a device: the only part of an engine that differs between libraries."""

    @property
    def description(self) -> str:
        """Library, device, number type and threads, for logs and errors."""
        ...

    @property
    def resolution(self) -> int:
        """Image resolution of the model: pixels of a side."""
        ...

    @property
    def num_image_tokens(self) -> int:
        """Tokens of an image in the prompt."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Rows of the output layer."""
        ...

    def encode(self, images: Sequence[ByteArray]) -> Sequence[Any]:
        """Return ``(n, d)`` image tokens of each ``(h, w, 3)`` uint8 BGR image."""
        ...

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """Return an empty cache, filled with zeros."""
        ...

    def run(
        self,
        feeds: Sequence[Sequence[int]],
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        features: Sequence[Any] | None,
        wanted: Sequence[Sequence[int]],
    ) -> Any:
        """Read tokens into the cache and return hidden states.

        Token i of row r goes to slot ``starts[r] + i``. It sees the slots before it and itself, and
        in a prompt the whole prompt. To take tokens back, start lower at the next pass.

        Args:
            feeds: Token ids of each row; rows 0 to b - 1 of the cache.
            cache: Of `allocate`.
            starts: Slots that are filled already.
            prompts: Lengths of the prompts that the feeds begin with; None: no prompts.
            features: Image tokens that replace the first ids of each prompt; None: no prompts.
            wanted: For each row the positions in its feed that need hidden states.

        Returns:
            Hidden states of all wanted positions in order, for `logits`.
        """
        ...

    def logits(
        self, hidden: Any, positions: Sequence[int], ids: "slice | IntArray | None"
    ) -> FloatArray:
        """Return ``(len(positions), len(ids))`` float32 logits; None: of the whole vocabulary."""
        ...

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next is right."""
        ...

    def find_beams(
        self, prompt: Sequence[int], features: Any, *, count: int, limit: int, pad: int
    ) -> list[list[int]]:
        """Return the ids of the best answers to one prompt, as transformers' beam search does.

        Args:
            prompt: Ids of image, prefix and newline.
            features: Image tokens.
            count: How many answers, and how wide the beam.
            limit: Most tokens of an answer.
            pad: Id of the padding after short answers.
        """
        ...
