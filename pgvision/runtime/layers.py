"""One layer of Gemma or Gemma 2: transformers' modules multiply, what lies between is written out.

So LoRA and quantised layers keep working, and a pass of one token does not cost five times its
arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgvision.runtime.products import attend, linear
from pgvision.runtime.reach import Part


@dataclass(frozen=True, eq=False)
class Plan:
    """What all layers of a pass share."""

    cos: Tensor
    sin: Tensor
    into: Tensor
    parts: list[Part]


Norm: TypeAlias = tuple[Tensor, float]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's modules; Gemma 2 has norms behind attention and MLP, Gemma 1 has not."""

    before_attention: Norm
    after_attention: Norm | None
    before_mlp: Norm
    after_mlp: Norm | None
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

    def step(self, hidden: Tensor, keys: Tensor, values: Tensor, plan: Plan) -> Tensor:
        """Attend and think: ``(b, t, d)`` in and out."""
        seen = self._attend(apply_norm(hidden, self.before_attention), keys, values, plan)
        if self.after_attention:
            seen = apply_norm(seen, self.after_attention)
        hidden = hidden + seen
        normed = apply_norm(hidden, self.before_mlp)
        thought = self.down(self.activation(self.gate(normed)) * self.up(normed))
        if self.after_mlp:
            thought = apply_norm(thought, self.after_mlp)
        return hidden + thought

    def _attend(self, hidden: Tensor, keys: Tensor, values: Tensor, plan: Plan) -> Tensor:
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


def read_layer(layer: Any) -> Layer:
    """Read a decoder layer of transformers; norm weights are copied."""
    attention, mlp = layer.self_attn, layer.mlp
    has_more_norms = hasattr(layer, "pre_feedforward_layernorm")
    after = layer.post_attention_layernorm
    weight = layer.input_layernorm.weight
    return Layer(
        before_attention=read_norm(layer.input_layernorm),
        after_attention=read_norm(after) if has_more_norms else None,
        before_mlp=read_norm(layer.pre_feedforward_layernorm if has_more_norms else after),
        after_mlp=read_norm(layer.post_feedforward_layernorm) if has_more_norms else None,
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


def read_norm(norm: Any) -> Norm:
    """Return a norm's weights, as factors, and its epsilon."""
    # Gemma stores what is to be added to one, and multiplies in float32.
    return norm.weight.detach().float() + 1.0, float(norm.eps)


def apply_norm(hidden: Tensor, norm: Norm) -> Tensor:
    """Normalise ``(..., d)`` in float32."""
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
