"""The language model's pass over pictures and text, written out so that it can be compiled."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from transformers import PaliGemmaForConditionalGeneration

from pgvision.training.batches import Batch
from pgvision.training.losses import AskedHead, suffix_loss

Read = Callable[..., tuple[Tensor, Tensor]]


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
    text: nn.Module, embedded: Tensor, mask: Tensor, *, middle: int
) -> tuple[Tensor, Tensor]:
    """Run a Gemma over what `embed_rows` gives.

    Args:
        text: The language model.
        embedded: ``(b, t, d)``.
        mask: Of `prefix_mask`.
        middle: After which layer to look in between.

    Returns:
        What layer ``middle`` and the last norm give, ``(b, t, d)`` each.
    """
    # PaliGemma counts positions from 1.
    places = torch.arange(1, embedded.shape[1] + 1, device=embedded.device)[None]
    turns = text.rotary_emb(embedded, position_ids=places)  # type: ignore[operator]
    hidden, between = embedded, embedded
    for number, layer in enumerate(text.layers, start=1):  # type: ignore[arg-type]
        hidden = layer(hidden, attention_mask=mask, position_ids=places, position_embeddings=turns)
        if number == middle:
            between = hidden
    return between, text.norm(hidden)  # type: ignore[operator]


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
    read: Read = read_text,
    groups: int = 4,
    lengths: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Return the suffix loss of a batch, and the loss of `AskedHead` on the middle layer.

    Args:
        model: Its language model and output layer are used.
        projected: ``(b, p, d)`` picture tokens.
        batch: The rows.
        asked: The head.
        first_loc: Id of ``<loc0000>``.
        read: `read_text`, compiled or not.
        groups: Rows go through in as many groups of like length.
        lengths: Rows are padded to one of these, so that few shapes need compiling.
    """
    device, num_tokens = projected.device, projected.shape[1]
    suffix = found = torch.zeros((), device=device)
    dense, wanted = batch.dense.to(device), batch.asked.to(device)
    text, total = model.model.language_model, int(batch.is_target.sum())
    for rows in _rows_of_like_length(batch, groups):
        longest = int(batch.attention[rows].sum(1).max())
        end = next((size for size in lengths if size >= longest), longest)
        ids, attention, types, is_target = (
            F.pad(part[rows], (0, max(0, end - part.shape[1])))[:, :end].to(device)
            for part in (batch.ids, batch.attention, batch.types, batch.is_target)
        )
        middle, hidden = read(
            text,
            embed_rows(text.embed_tokens, ids, projected[rows * len(projected) // len(batch.ids)]),
            prefix_mask(attention, types, torch.float32),
            middle=len(text.layers) // 2,
        )
        # Only the positions before a suffix token predict one; the rest of the output layer would
        # be work for nothing.
        predicts = is_target[:, 1:]
        logits, targets = model.lm_head(hidden[:, :-1][predicts]), ids[:, 1:][predicts]
        loss = suffix_loss(logits, targets, first_loc=first_loc)
        suffix = suffix + loss * (len(targets) / total)
        part = asked(middle[:, :num_tokens], dense, wanted, rows.to(device))
        found = found + part * (len(rows) / len(batch.ids))
    return suffix, found


def _rows_of_like_length(batch: Batch, groups: int) -> Iterable[Tensor]:
    """Yield row numbers, short rows apart from long ones, so that little is padding."""
    return batch.attention.sum(1).argsort(stable=True).chunk(groups)
