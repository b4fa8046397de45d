"""The language model's pass over pictures and text, written out so that it can be compiled."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from transformers import PaliGemmaForConditionalGeneration

from pgvision.training.losses import token_losses
from recipes.batches import Batch
from recipes.dense import AskedHead
from recipes.pointing import PlaceHead, ToldHead, Written

Read = Callable[..., tuple[Tensor, Tensor, Tensor]]


def suffix_loss(logits: Tensor, targets: Tensor, *, first_loc: int, sigma: float = 4.0) -> Tensor:
    """Return the mean of `pgvision.training.losses.token_losses`.

    Args:
        logits: ``(t, v)``, at the positions that predict suffix tokens.
        targets: ``(t,)`` token ids.
        first_loc: Id of ``<loc0000>``.
        sigma: Spread of the target over bins.
    """
    return token_losses(logits, targets, first_loc=first_loc, sigma=sigma).mean()


def prefix_mask(attention: Tensor, types: Tensor, dtype: torch.dtype) -> Tensor:
    """Return PaliGemma's mask: the prefix sees itself whole, the suffix what came before it.

    Args:
        attention: ``(b, t)``: 0 on padding.
        types: ``(b, t)``: 0 on the prefix, 1 on the suffix.
        dtype: Of the result.

    Returns:
        ``(b, 1, t, t)``: 0 where row ``i`` may look at column ``j``, else the least number.
    """
    place = torch.arange(attention.shape[1], device=attention.device)
    before = place[None, None, :] <= place[None, :, None]
    both_prefix = (types[:, None, :] == 0) & (types[:, :, None] == 0)
    seen = (before | both_prefix) & (attention[:, None, :] > 0)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=attention.device)
    return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def read_text(
    text: nn.Module, embedded: Tensor, mask: Tensor, *, middle: int, places: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a Gemma over what `embed_rows` gives.

    Args:
        text: The language model.
        embedded: ``(b, t, d)``.
        mask: Of `prefix_mask`.
        middle: After which layer to look in between.
        places: ``(b, t)`` rotary positions; from 1 on if not given.

    Returns:
        What layer ``middle``, the layer after it, and the last norm give, ``(b, t, d)`` each.
    """
    places = _places(embedded) if places is None else places
    turns = text.rotary_emb(embedded, position_ids=places)  # type: ignore[operator]
    hidden = between = after = embedded
    for number, layer in enumerate(text.layers, start=1):  # type: ignore[arg-type]
        hidden = layer(hidden, attention_mask=mask, position_ids=places, position_embeddings=turns)
        between = hidden if number == middle else between
        after = hidden if number == middle + 1 else after
    return between, after, text.norm(hidden)  # type: ignore[operator]


def _places(hidden: Tensor) -> Tensor:
    """Return positions ``(1, t)``: PaliGemma counts from 1."""
    return torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None]


def look_logits(
    text: nn.Module,
    number: int,
    hidden: Tensor,
    mask: Tensor,
    first: int,
    places: Tensor | None = None,
) -> Tensor:
    """Return where the first head of a layer looks from the positions after the picture.

    Args:
        text: The language model.
        number: Of the layer.
        hidden: ``(b, t, d)``, what goes into that layer.
        mask: Of `prefix_mask`.
        first: The first position to look from.
        places: ``(b, t)`` rotary positions; from 1 on if not given.

    Returns:
        ``(b, t - first, t)`` logits, hidden columns at the least number.
    """
    layer: Any = text.layers[number]  # type: ignore[index]
    normed = layer.input_layernorm(hidden)
    size = layer.self_attn.head_dim
    asks = nn.functional.linear(normed[:, first:], layer.self_attn.q_proj.weight[:size])
    keys = nn.functional.linear(normed, layer.self_attn.k_proj.weight[:size])
    cos, sin = text.rotary_emb(hidden, position_ids=_places(hidden) if places is None else places)  # type: ignore[operator]
    asks, keys = _turned(asks, cos[:, first:], sin[:, first:]), _turned(keys, cos, sin)
    logits: Tensor = (asks @ keys.mT).float() * size**-0.5 + mask[:, 0, first:]
    return logits


def _turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``(b, t, d)`` as Gemma's rotary positions do."""
    one, two = rows.chunk(2, -1)
    return rows * cos + torch.cat([-two, one], -1) * sin


def embed_rows(embed: nn.Module, ids: Tensor, pictures: Tensor) -> Tensor:
    """Return embeddings ``(b, t, d)``: the picture's tokens first, then the text's.

    Args:
        embed: The language model's table.
        ids: ``(b, t)``, image tokens included.
        pictures: ``(b, p, d)`` projected tokens.
    """
    text: Tensor = embed(ids[:, pictures.shape[1] :])
    return torch.cat([pictures.to(text.dtype), text], 1)


def text_losses(
    model: PaliGemmaForConditionalGeneration,
    projected: Tensor,
    batch: Batch,
    *,
    asked: AskedHead,
    first_loc: int,
    told: ToldHead | None = None,
    place: PlaceHead | None = None,
    read: Read = read_text,
    groups: int = 4,
    lengths: Sequence[int] = (),
    kept: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the losses of the language model on a batch, by name.

    ``suffix`` is that of the answers, ``asked`` that of `AskedHead` on the middle layer; with a
    `ToldHead` also its own, ``told``, ``edges`` and ``arrived``, and ``looks``, which is small
    where the positions that write an object's coordinates look at that object.

    Args:
        model: Its language model and output layer are used.
        projected: ``(b, p, d)`` picture tokens.
        batch: The rows.
        asked: The head.
        first_loc: Id of ``<loc0000>``.
        told: The other head.
        place: Measures, as ``placed``, how well the picture tokens of the middle layer still know
            where they are.
        read: `read_text`, compiled or not.
        groups: Rows go through in as many groups of like length.
        lengths: Rows are padded to one of these, so that few shapes need compiling.
        kept: ``(b, k)`` the picture tokens of each image that the language model is given, in
            their order; None: all. Each keeps its rotary position.
    """
    device, all_tokens = projected.device, projected.shape[1]
    if kept is None:
        kept = torch.arange(all_tokens, device=device).expand(len(projected), -1)
    num_tokens = kept.shape[1]
    losses: dict[str, Tensor] = {}
    dense, wanted = batch.dense.to(device), batch.asked.to(device)
    text, total = model.model.language_model, int(batch.is_target.sum())
    middle = len(text.layers) // 2
    for rows in _rows_of_like_length(batch, groups):
        longest = int(batch.attention[rows].sum(1).max())
        end = next((size for size in lengths if size >= longest), longest)
        ids, attention, types, is_target = (
            F.pad(part[rows], (0, max(0, end - part.shape[1])))[:, :end].to(device)
            for part in (batch.ids, batch.attention, batch.types, batch.is_target)
        )
        images = (rows * len(projected) // len(batch.ids)).to(device)
        mine = kept[images]
        pictures = projected[images].gather(1, mine[..., None].expand(-1, -1, projected.shape[2]))
        after_image = torch.arange(all_tokens, end, device=device).expand(len(rows), -1)
        columns = torch.cat([mine, after_image], 1)
        ids, attention, types, is_target = (
            part.gather(1, columns) for part in (ids, attention, types, is_target)
        )
        places = columns + 1
        mask = prefix_mask(attention, types, torch.float32)
        embedded = embed_rows(text.embed_tokens, ids, pictures)
        between, after, hidden = read(text, embedded, mask, middle=middle, places=places)
        # Only the positions before a suffix token predict one; the rest of the output layer would
        # be work for nothing.
        predicts = is_target[:, 1:]
        logits, targets = model.lm_head(hidden[:, :-1][predicts]), ids[:, 1:][predicts]
        share, of_rows = len(targets) / total, len(rows) / len(batch.ids)
        parts = {"suffix": suffix_loss(logits, targets, first_loc=first_loc) * share}
        found = asked(between[:, :num_tokens], dense, wanted, rows.to(device), mine)
        parts["asked"] = found * of_rows
        if place is not None:
            parts["placed"] = place(between[:, :num_tokens], mine) * of_rows
        if told is not None:
            written = Written.of(
                ids, is_target, first_loc=first_loc, kept=mine, grid=round(all_tokens**0.5)
            )
            table = text.embed_tokens.weight[first_loc : first_loc + 1024]
            read_off = _told_losses(text, told, written, table, between, after, mask, places)
            parts |= {name: one * of_rows for name, one in read_off.items()}
        for name, part in parts.items():
            losses[name] = losses.get(name, torch.zeros((), device=device)) + part
    return losses


def _told_losses(
    text: Any,
    told: ToldHead,
    written: Written,
    table: Tensor,
    between: Tensor,
    after: Tensor,
    mask: Tensor,
    places: Tensor,
) -> dict[str, Tensor]:
    """Return what `ToldHead` reads off the middle layer and the one after it, and their looks."""
    middle, num_tokens = len(text.layers) // 2, written.cells.shape[1]
    words, edges = told(between, written, table)
    looks = [
        written.missed(look_logits(text, number, state, mask, num_tokens, places))
        for number, state in ((middle, between), (middle + 1, after))
    ]
    return {
        "told": words,
        "edges": edges,
        "arrived": told.arrived(after, written, num_tokens),
        "looks": torch.stack(looks).mean(),
    }


def _rows_of_like_length(batch: Batch, groups: int) -> Iterable[Tensor]:
    """Yield row numbers, short rows apart from long ones, so that little is padding."""
    return batch.attention.sum(1).argsort(stable=True).chunk(groups)
