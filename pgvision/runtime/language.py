"""The language model over a cache laid out beforehand: one pass costs arithmetic, not launches.

transformers' own modules hold the weights and multiply by them, so that LoRA and quantised layers
keep working; what lies between them (norms, rotation, masks, cache) is written out here, since in
a pass of one token it costs five times the arithmetic. It knows nothing of text or grammar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgvision.errors import CheckpointError
from pgvision.runtime.products import attend, is_exact, linear
from pgvision.runtime.reach import Part, Reach

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_FAMILIES: Final = ("gemma", "gemma2")


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

    Raises:
        CheckpointError: If its language model is of another family.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration") -> None:
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
        self._layers = [_read_layer(layer) for layer in self._text.layers]
        self._norm = _read_norm(self._text.norm)
        self._rotations: dict[torch.device, tuple[Tensor, Tensor]] = {}

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
        return KeyValueCache(tuple(t[0] for t in tables), tuple(t[1] for t in tables))

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
                fills slots that the row's next pass overwrites, and no token sees it.
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
        return _normed(hidden.to(self._norm[0].device), self._norm)

    def _plan(self, reach: Reach, cache: KeyValueCache, like: Tensor) -> "_Plan":
        slots = reach.slots(like.device)
        cos, sin = self._rotation(cache.slots, like)
        rows = torch.arange(len(reach.firsts) * self._kv_heads, device=like.device) * cache.slots
        into = rows.view(-1, self._kv_heads, 1) + slots[:, None]
        full = reach.mask(slots, 0, like)
        slides = bool(self._window) and reach.end > self._window
        sliding = reach.mask(slots, self._window, like) if slides else full
        return _Plan(
            cos[slots][:, :, None],
            sin[slots][:, :, None],
            into.view(-1),
            reach.parts(full, sliding, self._window, self._kv_heads, apart=is_exact(like)),
        )

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


@dataclass(frozen=True, eq=False)
class _Plan:
    """What all layers of a pass share."""

    cos: Tensor
    sin: Tensor
    into: Tensor
    parts: list[Part]


_Norm = tuple[Tensor, float]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's modules; Gemma 2 has norms behind attention and MLP, Gemma 1 has not."""

    before_attention: _Norm
    after_attention: _Norm | None
    before_mlp: _Norm
    after_mlp: _Norm | None
    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    gate: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    activation: Callable[[Tensor], Tensor]
    head_dim: int
    scale: float
    cap: float
    slides: bool
    dtype: torch.dtype
    device: torch.device

    def step(self, hidden: Tensor, keys: Tensor, values: Tensor, plan: _Plan) -> Tensor:
        """Attend and think: ``(b, t, d)`` in and out."""
        seen = self._attend(_normed(hidden, self.before_attention), keys, values, plan)
        if self.after_attention:
            seen = _normed(seen, self.after_attention)
        hidden = hidden + seen
        normed = _normed(hidden, self.before_mlp)
        thought = self.down(self.activation(self.gate(normed)).mul_(self.up(normed)))
        if self.after_mlp:
            thought = _normed(thought, self.after_mlp)
        return hidden + thought

    def _attend(self, hidden: Tensor, keys: Tensor, values: Tensor, plan: _Plan) -> Tensor:
        b, t, _ = hidden.shape
        kv_heads, size = keys.shape[1], self.head_dim
        both = torch.cat([self.query(hidden), self.key(hidden)], -1).view(b, t, -1, size)
        both = torch.addcmul(both * plan.cos, both.roll(size // 2, -1), plan.sin).transpose(1, 2)
        queries, fresh = both[:, :-kv_heads], both[:, -kv_heads:]
        new = self.value(hidden).view(b, t, kv_heads, size).transpose(1, 2)
        keys.view(-1, size).index_copy_(0, plan.into, fresh.reshape(-1, size))
        values.view(-1, size).index_copy_(0, plan.into, new.reshape(-1, size))
        # Heads that share keys are one batch entry: nothing is repeated in memory.
        queries = queries.reshape(b, kv_heads, -1, t, size)
        found = []
        for part in plan.parts:
            rows, end = slice(part.start, part.stop), part.end
            some = attend(
                queries[rows, :, :, : part.length].flatten(0, 1),
                keys[rows, :, :end].flatten(0, 1)[:, None],
                values[rows, :, :end].flatten(0, 1)[:, None],
                part.sliding if self.slides else part.full,
                scale=self.scale,
                cap=self.cap,
            )
            found.append(F.pad(some, (0, 0, 0, t - part.length)) if part.length < t else some)
        whole = found[0] if len(found) == 1 else torch.cat(found)
        return self.out(whole.view(b, -1, t, size).transpose(1, 2).reshape(b, t, -1))


def _read_layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    has_more_norms = hasattr(layer, "pre_feedforward_layernorm")
    after = layer.post_attention_layernorm
    weight = layer.input_layernorm.weight
    return _Layer(
        before_attention=_read_norm(layer.input_layernorm),
        after_attention=_read_norm(after) if has_more_norms else None,
        before_mlp=_read_norm(layer.pre_feedforward_layernorm if has_more_norms else after),
        after_mlp=_read_norm(layer.post_feedforward_layernorm) if has_more_norms else None,
        query=_lean(attention.q_proj),
        key=_lean(attention.k_proj),
        value=_lean(attention.v_proj),
        out=_lean(attention.o_proj),
        gate=_lean(mlp.gate_proj),
        up=_lean(mlp.up_proj),
        down=_lean(mlp.down_proj),
        activation=mlp.act_fn,
        head_dim=int(attention.head_dim),
        scale=float(attention.scaling),
        cap=float(getattr(attention, "attn_logit_softcapping", None) or 0.0),
        slides=getattr(attention, "sliding_window", None) is not None,
        dtype=weight.dtype,
        device=weight.device,
    )


def _read_norm(norm: Any) -> _Norm:
    # Gemma stores what is to be added to one, and multiplies in float32.
    return norm.weight.detach().float() + 1.0, float(norm.eps)


def _normed(hidden: Tensor, norm: _Norm) -> Tensor:
    weight, eps = norm
    return F.rms_norm(hidden.float(), weight.shape, weight, eps).type_as(hidden)


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module is nothing but a product with its weight.

    LoRA and quantised layers are not, nor are those that accelerate has put on other devices.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    # Exact types: subclasses compute something else.
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and not hooked


def _lean(module: Any) -> Callable[[Tensor], Tensor]:
    if is_plain(module):
        return partial(linear, weight=module.weight, bias=module.bias)
    call: Callable[[Tensor], Tensor] = module
    return call
