"""Backend over PyTorch: GPUs, large checkpoints, adapters, training.

Linear layers are transformers' modules; attention and norms are implemented here, over a cache
that is allocated beforehand, so that a pass of one token costs arithmetic and few kernel launches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.errors import CheckpointError
from pgvision.runtime.gemma import Layer, run_layer
from pgvision.runtime.protocol import KeyValueCache, attention_mask

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_FAMILIES: Final = ("gemma", "gemma2")
_SCORES_AT_ONCE: Final = 2**24  # of capped attention, which is 64 MB in float32
# Numbers of the output layer converted at a time by each thread: 4 MB of float32 fit the cache.
_CHUNK: Final = 2**20
_KEPT_ROWS: Final = 2048  # runs as short as those of <loc> and <seg> are kept converted
_KEPT_RUNS: Final = 4


class TorchBackend:
    """A checkpoint loaded by transformers.

    Args:
        model: The model, on its device, in eval mode. Norm weights are copied: build a new backend
            after training the model further.
        processor: Its processor.

    Raises:
        CheckpointError: If the language model is of another family, or the processor belongs to
            another resolution.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration", processor: Any) -> None:
        self.model, self.processor = model, processor
        vision = model.config.vision_config
        self.resolution = int(vision.image_size)
        self.num_image_tokens = (self.resolution // int(vision.patch_size)) ** 2
        # The processor of another resolution would write a wrong number of tokens.
        side, count = processor.image_processor.size["height"], processor.image_seq_length
        if (side, count) != (self.resolution, self.num_image_tokens):
            raise CheckpointError(
                f"processor: expected {self.num_image_tokens} image tokens of {self.resolution} "
                f"pixels, got {count} of {side}; use the processor of this checkpoint"
            )
        self.description = f"torch, {model.device}, {str(model.dtype).removeprefix('torch.')}"
        self._language = LanguageModel(model)
        self._head = OutputHead(model)

    @torch.inference_mode()
    def encode(self, images: Sequence[ByteArray]) -> list[Tensor]:
        """See `Backend.encode`."""
        # The processor reads RGB. The channels are named: an image 1 or 3 pixels high would be
        # taken for channels first.
        pixels = self.processor.image_processor(
            images=[np.ascontiguousarray(image[..., ::-1]) for image in images],
            return_tensors="pt",
            input_data_format="channels_last",
        )["pixel_values"]
        values = pixels.to(self.model.device, self.model.dtype)
        features = self.model.get_image_features(values).pooler_output
        # Rows of their own: a view would keep the whole batch in memory.
        return [row.clone() for row in features]

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """See `Backend.allocate`."""
        # Not in inference mode: rows are moved outside of it.
        return self._language.allocate(rows, slots)

    @torch.inference_mode()
    def run(
        self,
        feeds: Sequence[Sequence[int]],
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        features: Sequence[Tensor] | None,
        wanted: Sequence[Sequence[int]],
    ) -> Tensor:
        """See `Backend.run`."""
        embedded = self._language.embed(feeds, features)
        return self._language.run(embedded, cache, starts=starts, prompts=prompts, wanted=wanted)

    @torch.inference_mode()
    def logits(
        self, hidden: Tensor, positions: Sequence[int], ids: slice | IntArray | None
    ) -> FloatArray:
        """See `Backend.logits`."""
        rows = torch.from_numpy(ids) if isinstance(ids, np.ndarray) else ids
        found: FloatArray = self._head.logits(hidden[list(positions)], rows).cpu().numpy()
        return found

    def synchronise(self) -> None:
        """See `Backend.synchronise`."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True, eq=False)
class _Attention:
    """Attention parameters of one layer, except its projections."""

    head_dim: int
    scale: float
    cap: float
    dtype: torch.dtype
    device: torch.device


class LanguageModel:
    """Gemma or Gemma 2 as PaliGemma uses it, in passes over any number of tokens.

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
        self._text = model.model.language_model
        self._kv_heads = int(text.num_key_value_heads)
        self._window = int(getattr(text, "sliding_window", None) or 0)
        self._layers = [(_read_layer(layer), _read_attention(layer)) for layer in self._text.layers]
        self._norm = _read_norm(self._text.norm)
        self._last_device = self._text.norm.weight.device
        self._turns: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """See `Backend.allocate`."""
        # Zeros: unseen slots are weighted by zero, and zero times garbage may not be a number.
        return KeyValueCache(
            [
                torch.zeros(
                    *(rows, self._kv_heads, slots, part.head_dim),
                    dtype=part.dtype,
                    device=part.device,
                )
                for _ in ("keys", "values")
                for _, part in self._layers
            ]
        )

    def embed(self, feeds: Sequence[Sequence[int]], features: Sequence[Tensor] | None) -> Tensor:
        """Return ``(b, t, d)``: image tokens as they are, others scaled as Gemma does."""
        longest = max(map(len, feeds))
        count = 0 if features is None else len(features[0])
        # Images' ids may lie outside the table.
        ids = [[*[0] * count, *feed[count:], *[0] * (longest - len(feed))] for feed in feeds]
        table = self._text.embed_tokens
        embedded: Tensor = table(torch.tensor(ids, device=table.weight.device))
        if features is not None:
            embedded[:, :count] = torch.stack(list(features)).to(embedded.device, embedded.dtype)
        return embedded

    def run(
        self,
        embedded: Tensor,
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        wanted: Sequence[Sequence[int]],
    ) -> Tensor:
        """See `Backend.run`; ``embedded`` is ``(b, t, d)``, padded on the right."""
        count, t, _ = embedded.shape
        if max(starts) + t > cache.slots:
            raise ValueError(f"cache: expected at least {max(starts) + t} slots, got {cache.slots}")
        # 1. Wanted positions, padded to one number for all rows.
        most = max(map(len, wanted))
        picks = torch.tensor([[*row, *[0] * (most - len(row))] for row in wanted])
        is_wanted = torch.tensor(
            [[*[True] * len(row), *[False] * (most - len(row))] for row in wanted]
        )
        # 2. Layers; those of one device share masks and rotations.
        hidden, plan = embedded, None
        layers = len(self._layers)
        for number, (layer, part) in enumerate(self._layers):
            if plan is None or hidden.device != part.device:
                hidden = hidden.to(part.device)
                plan = self._plan(starts, t, prompts, picks, hidden, cache.slots)
            select = plan.select if number == layers - 1 else None
            attend = partial(
                _attend,
                part=part,
                plan=plan,
                mask=plan.near if layer.slides else plan.mask,
                keys=cache.tables[number],
                values=cache.tables[layers + number],
                selected=select is not None,
            )
            hidden = run_layer(layer, hidden, attend, select)
        hidden = self._norm(hidden.to(self._last_device))
        return hidden[is_wanted.to(hidden.device)]

    def _plan(
        self,
        starts: Sequence[int],
        t: int,
        prompts: Sequence[int] | None,
        picks: Tensor,
        like: Tensor,
        slots: int,
    ) -> "_Plan":
        end = max(starts) + t
        places = torch.tensor(starts)[:, None] + torch.arange(t)
        rows = torch.arange(len(starts) * self._kv_heads) * slots
        cos, sin = self._rotation(slots, like)
        positions = places.to(like.device)
        # Full attention, and a sliding window if it is shorter than the sequence.
        masks = [
            _to_mask(attention_mask(starts, t, end, prompts, window=window), like)
            for window in (0, self._window if 0 < self._window < end else 0)
        ]
        picked = picks.to(like.device)
        return _Plan(
            cos=cos[positions],
            sin=sin[positions],
            into=(rows.view(-1, self._kv_heads, 1) + places[:, None]).view(-1).to(like.device),
            end=end,
            mask=masks[0],
            near=masks[1],
            picks=picked,
        )

    def _rotation(self, slots: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines, and sines signed so that rotating half is a roll, for every slot."""
        table = self._turns.get(like.device)
        if table is None or len(table[0]) < slots:
            # PaliGemma counts positions from 1.
            positions = torch.arange(1, slots + 1, device=like.device)[None]
            cos, sin = self._text.rotary_emb(like, positions)
            sin[..., : sin.shape[-1] // 2].neg_()
            table = self._turns[like.device] = cos[0], sin[0]
        return table


@dataclass(frozen=True, eq=False)
class _Plan:
    """Tensors that the layers of one device share; ``mask`` and ``near`` ``(b, 1, t, end)``."""

    cos: Tensor
    sin: Tensor
    into: Tensor
    end: int
    mask: Tensor | None
    near: Tensor | None
    picks: Tensor

    def select(self, value: Tensor) -> Tensor:
        """Take the wanted positions of ``(b, t, d)``: ``(b, w, d)``."""
        return value.gather(1, self.picks[..., None].expand(-1, -1, value.shape[-1]))


def _to_mask(mask: FloatArray | None, like: Tensor) -> Tensor | None:
    if mask is None:
        return None
    return torch.from_numpy(mask).to(like.device, like.dtype)[:, None]


def _attend(
    queries: Tensor,
    fresh: Tensor,
    new: Tensor,
    *,
    part: _Attention,
    plan: _Plan,
    mask: Tensor | None,
    keys: Tensor,
    values: Tensor,
    selected: bool,
) -> Tensor:
    b, kv_heads, size = len(queries), keys.shape[1], part.head_dim
    # 1. Rotate; keys and values go to their slots.
    fresh = _rotated(fresh, plan.cos, plan.sin, size)
    keys.view(-1, size).index_copy_(0, plan.into, fresh.transpose(1, 2).reshape(-1, size))
    new = new.view(b, -1, kv_heads, size).transpose(1, 2)
    values.view(-1, size).index_copy_(0, plan.into, new.reshape(-1, size))
    cos, sin = (plan.select(plan.cos), plan.select(plan.sin)) if selected else (plan.cos, plan.sin)
    if selected and mask is not None:
        mask = plan.select(mask[:, 0])[:, None]
    # 2. Heads that share keys are one batch entry: nothing is repeated in memory.
    t = queries.shape[1]
    turned = _rotated(queries, cos, sin, size).transpose(1, 2).reshape(b * kv_heads, -1, t, size)
    keys, values = (table[:b, :, : plan.end].flatten(0, 1)[:, None] for table in (keys, values))
    if mask is not None and kv_heads > 1:
        mask = mask.repeat_interleave(kv_heads, 0)
    if part.cap:
        seen = _capped(turned, keys, values, mask, part.scale, part.cap)
    else:
        heads = turned.shape[1]
        keys, values = (table.expand(-1, heads, -1, -1) for table in (keys, values))
        seen = F.scaled_dot_product_attention(
            turned, keys, values, attn_mask=mask, scale=part.scale
        )
    return seen.view(b, -1, t, size).transpose(1, 2).reshape(b, t, -1)


def _rotated(value: Tensor, cos: Tensor, sin: Tensor, size: int) -> Tensor:
    """Rotate ``(b, t, heads * size)`` by position: ``(b, t, heads, size)``."""
    value = value.view(*value.shape[:2], -1, size)
    return torch.addcmul(value * cos[:, :, None], value.roll(size // 2, -1), sin[:, :, None])


def _capped(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    """Attend under Gemma 2's soft cap, which PyTorch's fused attention cannot do; in parts."""
    entries, heads, t, size = queries.shape
    part = max(1, _SCORES_AT_ONCE // (entries * heads * keys.shape[2]))
    seen = torch.empty_like(queries)
    for first in range(0, t, part):
        some = queries[:, :, first : first + part]
        scores = torch.bmm(some.reshape(entries, -1, size), keys[:, 0].transpose(1, 2)).float()
        scores = scores.mul_(scale / cap).tanh_().mul_(cap)
        scores = scores.view(entries, heads, -1, keys.shape[2])
        if mask is not None:
            scores += mask[:, :, first : first + part]
        weights = scores.softmax(-1).to(values.dtype).flatten(1, 2)
        seen[:, :, first : first + part] = torch.bmm(weights, values[:, 0]).view_as(some)
    return seen


def _read_layer(layer: Any) -> Layer[Tensor]:
    """Read a decoder layer of transformers."""
    attention, mlp = layer.self_attn, layer.mlp
    is_gemma2 = hasattr(layer, "pre_feedforward_layernorm")
    after = _read_norm(layer.post_attention_layernorm)
    return Layer(
        before_attention=_read_norm(layer.input_layernorm),
        after_attention=after if is_gemma2 else None,
        before_mlp=_read_norm(layer.pre_feedforward_layernorm) if is_gemma2 else after,
        after_mlp=_read_norm(layer.post_feedforward_layernorm) if is_gemma2 else None,
        query=_read_linear(attention.q_proj),
        key=_read_linear(attention.k_proj),
        value=_read_linear(attention.v_proj),
        out=_read_linear(attention.o_proj),
        gate=_read_linear(mlp.gate_proj),
        up=_read_linear(mlp.up_proj),
        down=_read_linear(mlp.down_proj),
        activation=mlp.act_fn,
        slides=getattr(attention, "sliding_window", None) is not None,
    )


def _read_attention(layer: Any) -> _Attention:
    attention, weight = layer.self_attn, layer.input_layernorm.weight
    return _Attention(
        head_dim=int(attention.head_dim),
        scale=float(attention.scaling),
        cap=float(getattr(attention, "attn_logit_softcapping", None) or 0.0),
        dtype=weight.dtype,
        device=weight.device,
    )


def _read_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    # Gemma stores what is to be added to one, and multiplies in float32.
    factors, eps = norm.weight.detach().float() + 1.0, float(norm.eps)

    def apply(hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.float(), factors.shape, factors, eps).type_as(hidden)

    return apply


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module is nothing but a product with its weight.

    LoRA and quantised layers are not, nor are those that accelerate has put on other devices.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    # Exact types: subclasses compute something else.
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and not hooked


def _read_linear(module: Any) -> Callable[[Tensor], Tensor]:
    call: Callable[[Tensor], Tensor] = module
    if not is_plain(module) or module.bias is not None or module.weight.device.type != "cpu":
        return call
    weight = module.weight

    def multiply(hidden: Tensor) -> Tensor:
        if hidden.dtype == torch.bfloat16 and hidden.numel() == hidden.shape[-1]:
            # One token of one answer: `mv` reads weights 1.3x as fast.
            return torch.mv(weight, hidden.reshape(-1)).view(*hidden.shape[:-1], -1)
        return F.linear(hidden, weight)

    return multiply


class OutputHead:
    """The output layer in float32, over the rows that are asked for.

    bfloat16 has eight bits of precision: its logits tie at 38% of location steps, arg-max then
    takes the lowest bin, and boxes drift up and left. The weights may be small; the sums may not.
    PaliGemma 2 gets no soft cap on its final logits: big_vision sets none, transformers keeps
    Gemma 2's 30, which changes no order and makes every probability flatter.

    Args:
        model: The loaded checkpoint. Build a new head after training it further.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration") -> None:
        self._module = model.lm_head
        is_weight = is_plain(self._module) and self._module.bias is None
        self._weight = self._module.weight.detach() if is_weight else None
        self._kept: dict[tuple[int, int], Tensor] = {}

    def logits(self, hidden: Tensor, rows: slice | Tensor | None = None) -> Tensor:
        """Return ``(b, r)`` float32 logits of ``(b, d)`` hidden states.

        Args:
            hidden: In the model's own type.
            rows: Token ids: a run (a slice without step), a tensor of them, or None for all.
        """
        weight = self._weight
        if weight is None:
            whole: Tensor = self._module(hidden).float()
            return whole if rows is None else whole[:, rows]
        hidden = hidden.to(weight.device)
        if isinstance(rows, slice):
            return _product(hidden, self._run(rows, weight))
        return _product(hidden, weight if rows is None else weight[rows.to(weight.device)])

    def _run(self, rows: slice, weight: Tensor) -> Tensor:
        first, last, _ = rows.indices(len(weight))
        if weight.dtype == torch.float32 or last - first > _KEPT_ROWS:
            return weight[first:last]
        kept = self._kept.get((first, last))
        if kept is None:
            kept = weight[first:last].float()
            if len(self._kept) < _KEPT_RUNS:
                self._kept[first, last] = kept
        return kept


def _product(hidden: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype == torch.float32:
        return F.linear(hidden.float(), weight)
    if weight.is_cuda and hidden.dtype == weight.dtype:
        try:
            return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        except (TypeError, RuntimeError):  # an older PyTorch, or a GPU that cannot
            pass
    hidden = hidden.float()
    count = max(1, _CHUNK * min(4, torch.get_num_threads()) // weight.shape[1])
    parts = [
        F.linear(hidden, weight[first : first + count].float())
        for first in range(0, len(weight), count)
    ]
    return torch.cat(parts, 1)
