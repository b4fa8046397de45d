"""The language model over a cache laid out beforehand: one pass costs arithmetic, not launches.

It knows nothing of text or grammar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pgvision.errors import CheckpointError
from pgvision.runtime.layers import Plan, apply_norm, read_layer, read_norm
from pgvision.runtime.products import is_exact
from pgvision.runtime.reach import Part, Reach, hiding, repeated

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_FAMILIES: Final = ("gemma", "gemma2")
_WIDTHS: Final = (1, 4, 8)  # tokens of a compiled pass; longer guesses go the other way


@dataclass(frozen=True, eq=False)
class KeyValueCache:
    """Keys and values of every layer; a row is one answer, a slot one token of it.

    Attributes:
        keys: For each layer ``(rows, kv_heads, slots, head_dim)``.
        values: The same.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        """How many answers it holds at most."""
        return self.keys[0].shape[0]

    @property
    def slots(self) -> int:
        """How many tokens of an answer it holds at most, image and prefix included."""
        return self.keys[0].shape[2]

    def part(self, start: int, stop: int) -> "KeyValueCache":
        """Return the rows ``[start, stop)`` as a cache; it is the same memory."""
        return KeyValueCache(
            tuple(table[start:stop] for table in self.keys),
            tuple(table[start:stop] for table in self.values),
        )

    @torch.inference_mode()
    def take_over(self, smaller: "KeyValueCache") -> None:
        """Copy what a cache of as many rows and fewer slots holds."""
        for mine, theirs in zip(
            (*self.keys, *self.values), (*smaller.keys, *smaller.values), strict=True
        ):
            mine[:, :, : theirs.shape[2]] = theirs

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` slots onto another row, where an answer has ended."""
        for table in (*self.keys, *self.values):
            table[target, :, :length] = table[source, :, :length]


class LanguageModel:
    """Gemma or Gemma 2 as PaliGemma uses it, in passes over any number of tokens.

    Norm weights are copied when this is built: build it anew after training the model further.

    Args:
        model: The loaded checkpoint, in eval mode.
        compiled: Compile passes of a few tokens at fixed shapes: every row and slot of the cache
            takes part, so that a GPU replays one recorded graph instead of launching kernels.

    Raises:
        CheckpointError: If its language model is of another family.
    """

    def __init__(
        self, model: "PaliGemmaForConditionalGeneration", *, compiled: bool = False
    ) -> None:
        text = model.config.text_config
        if text.model_type not in _FAMILIES:
            raise CheckpointError(
                f"language model: {text.model_type!r} is not supported, expected one of "
                f"{', '.join(_FAMILIES)}: PaliGemma 1 and 2"
            )
        self._inner = model.model
        self._text = model.model.language_model
        self._image, self._vocabulary = int(model.config.image_token_id), int(text.vocab_size)
        self._heads, self._kv_heads = text.num_attention_heads, text.num_key_value_heads
        self._window = getattr(text, "sliding_window", None) or 0
        self._layers = [read_layer(layer) for layer in self._text.layers]
        self._norm = read_norm(self._text.norm)
        self._rotations: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._fixed: Callable[..., Tensor] | None = None
        if compiled and len({layer.device for layer in self._layers}) == 1:
            self._fixed = torch.compile(
                self._fixed_pass, dynamic=False, fullgraph=True, mode="reduce-overhead"
            )

    @torch.inference_mode()
    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """Lay out an empty cache.

        Args:
            rows: Answers written at a time.
            slots: Longest answer with its prompt, and as many more as a pass is long: the padding
                behind a row's own tokens is written as well.
        """
        # Zeros: what nobody sees is weighted by zero, and zero times garbage may not be a number.
        tables = [
            torch.zeros(
                2, rows, self._kv_heads, slots, each.head_dim, dtype=each.dtype, device=each.device
            )
            for each in self._layers
        ]
        cache = KeyValueCache(tuple(t[0] for t in tables), tuple(t[1] for t in tables))
        if self._fixed is not None:
            for table in (*cache.keys, *cache.values):
                torch._dynamo.mark_static_address(table)  # a recorded graph writes where it lies
        return cache

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Return ``(b, t, d)`` embeddings of ``(b, t)`` ids, scaled as the family does."""
        embedded: Tensor = self._text.embed_tokens(ids)
        return embedded

    @torch.inference_mode()
    def embed_prompt(self, ids: Tensor, features: Tensor) -> Tensor:
        """Embed prompts and put the pictures in, unscaled, as transformers does.

        Args:
            ids: ``(b, t)`` prompts, padded on the right.
            features: ``(b, n, d)`` of the projector; n image tokens stand in each prompt.

        Returns:
            ``(b, t, d)``.
        """
        places = ids == self._image
        known = ids.masked_fill(places, 0) if self._image >= self._vocabulary else ids
        embedded = self.embed(known)
        features = features.to(embedded.device, embedded.dtype)
        return embedded.masked_scatter(places[..., None], features)

    @torch.inference_mode()
    def run(
        self,
        embedded: Tensor,
        cache: KeyValueCache,
        *,
        starts: Tensor | Sequence[int],
        prefix: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Read tokens into the cache and return what the model thinks at each.

        Token i of row r goes to slot ``starts[r] + i``, and sees the slots before it, itself, and
        in a prompt the whole prefix. To take tokens back, start lower at the next pass.

        Args:
            embedded: ``(b, t, d)`` for rows 0 to b - 1 of the cache, padded on the right: padding
                fills slots that the row's next pass overwrites, and no token sees it. (Compiled
                passes write into free rows as well, which a prompt overwrites.)
            cache: Of `allocate`.
            starts: ``b`` slots at which the rows go on.
            prefix: For prompts ``b`` numbers of image and prefix tokens; what follows them (a
                draft) is causal. None where all prefixes lie in the cache already.
            lengths: Of each row without its padding; None: no row has any.

        Returns:
            ``(b, t, d)`` after the last norm.

        Raises:
            ValueError: If the cache has too few slots.
        """
        firsts = starts.tolist() if isinstance(starts, Tensor) else list(starts)
        end = max(firsts) + embedded.shape[1]
        if end > cache.slots:
            raise ValueError(f"cache: expected at least {end} slots, got {cache.slots}")
        count, longest = len(firsts), embedded.shape[1]
        if self._fixed is not None and not prefix:
            width = next((width for width in _WIDTHS if width >= longest), cache.slots + 1)
            if max(firsts) + width <= cache.slots:
                return self._run_fixed(embedded, cache, firsts, width)
        reach = Reach(
            firsts,
            list(prefix) if prefix else [0] * count,
            longest,
            list(lengths) if lengths else [longest] * count,
        )
        hidden, plan = embedded, None
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            if plan is None or hidden.device != layer.device:
                hidden = hidden.to(layer.device)
                plan = self._plan(reach, cache, hidden)
            hidden = layer.step(hidden, keys, values, plan)
        return apply_norm(hidden.to(self._norm[0].device), self._norm)

    def _run_fixed(
        self, embedded: Tensor, cache: KeyValueCache, firsts: list[int], width: int
    ) -> Tensor:
        count, longest, size = embedded.shape
        padded = embedded.new_zeros(cache.rows, width, size)
        padded[:count, :longest] = embedded
        starts = torch.tensor([*firsts, *[0] * (cache.rows - count)], device=padded.device)
        turns = self._rotation(cache.slots, padded)
        found = self._fixed(padded, starts, cache.keys, cache.values, *turns)  # type: ignore[misc]
        return found[:count, :longest].clone()  # the next pass writes there

    def _fixed_pass(
        self,
        hidden: Tensor,
        starts: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        """Do what `run` does behind prompts, with every shape known beforehand."""
        rows, kv_heads, end, _ = keys[0].shape
        slots = starts[:, None] + torch.arange(hidden.shape[1], device=hidden.device)
        places = torch.arange(end, device=hidden.device)
        seen = places <= slots[..., None]
        full = repeated(hiding(seen, hidden), kv_heads)
        sliding = full
        if 0 < self._window < end:
            near = seen & (places > slots[..., None] - self._window)
            sliding = repeated(hiding(near, hidden), kv_heads)
        part = Part(0, rows, hidden.shape[1], end, full, sliding)
        plan = self._plan_of(slots, end, (cos, sin), [part])
        for layer, mine, theirs in zip(self._layers, keys, values, strict=True):
            hidden = layer.step(hidden, mine, theirs, plan)
        return apply_norm(hidden, self._norm)

    def _plan(self, reach: Reach, cache: KeyValueCache, like: Tensor) -> Plan:
        slots = reach.slots(like.device)
        full = reach.mask(slots, 0, like)
        slides = bool(self._window) and reach.end > self._window
        sliding = reach.mask(slots, self._window, like) if slides else full
        parts = reach.parts(full, sliding, self._window, self._kv_heads, apart=is_exact(like))
        return self._plan_of(slots, cache.slots, self._rotation(cache.slots, like), parts)

    def _plan_of(
        self, slots: Tensor, end: int, turns: tuple[Tensor, Tensor], parts: list[Part]
    ) -> Plan:
        """Turn tokens that go to ``(b, t)`` slots, of ``end`` in a row, and place them."""
        firsts = torch.arange(len(slots) * self._kv_heads, device=slots.device) * end
        into = firsts.view(-1, self._kv_heads, 1) + slots[:, None]
        cos, sin = turns
        return Plan(cos[slots][:, :, None], sin[slots][:, :, None], into.view(-1), parts)

    def _rotation(self, slots: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines signed so that rotating half is a roll, for every slot."""
        table = self._rotations.get(like.device)
        if table is None or len(table[0]) < slots:
            # PaliGemma counts positions from 1.
            positions = torch.arange(1, slots + 1, device=like.device)[None]
            cos, sin = self._text.rotary_emb(like, positions)
            sin[..., : sin.shape[-1] // 2].neg_()
            table = self._rotations[like.device] = cos[0], sin[0]
        return table
