"""Batches of a run and their loss: cross-entropy of the answer, with soft location targets.

Image and prompt attend to each other, the answer to what precedes it (``token_type_ids``); labels
cover the answer and its ``<eos>``. Logits are computed in chunks of tokens, and again in the
backward pass: those of 2,000 tokens over Google's 257,152 pieces would take 2 GB in float32,
several times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from torch.utils.checkpoint import checkpoint

from pgvision.errors import DataError
from pgvision.runtime.checkpoint_files import wrap_tokenizer
from pgvision.runtime.protocol import Vocabulary
from pgvision.tokens import NUM_BINS, SEPARATOR
from pgvision.training.config import TrainConfig
from pgvision.training.samples import Sample

IGNORED: Final = -100
"""Label of tokens that are not learnt."""
_CHUNK: Final = 1 << 26  # logits in memory at a time: 256 MB of float32


class Collator:
    """Makes batches of samples.

    Args:
        processor: The checkpoint's.
        max_length: Longest sequence of the model in tokens, image included.

    Attributes:
        separator: Ids of the separator between the objects of an answer.

    Example:
        >>> from pgvision.runtime import load
        >>> collator = Collator(load("tiny").processor, max_length=1024)
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> batch = collator([Sample("a.jpg", image, "detect helmet", "")])
        >>> (batch["labels"] >= 0).sum().item()  # <eos>
        1
    """

    def __init__(self, processor: Any, *, max_length: int) -> None:
        self.processor, self.max_length = processor, max_length
        self.vocabulary: Vocabulary = wrap_tokenizer(
            processor.tokenizer, "the processor"
        ).vocabulary
        between = self._ids(f"<loc0000>{SEPARATOR}<loc0000>")[1:-1]
        self.separator = torch.tensor(between)

    @property
    def text_places(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return self.max_length - int(self.processor.image_seq_length)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a batch.

        Returns:
            The processor's ``input_ids``, ``attention_mask``, ``token_type_ids`` ``(b, t)`` and
            ``pixel_values``; ``labels`` ``(b, t)``, -100 where nothing is learnt; ``names`` of the
            images, and ``unread``, images that could not be read.

        Raises:
            DataError: If a row is longer than the model allows, or lacks its ``<eos>``.
        """
        batch = self.processor(
            images=[Image.fromarray(np.ascontiguousarray(one.bgr[..., ::-1])) for one in samples],
            text=[f"<image>{one.prefix}" for one in samples],
            suffix=[one.suffix for one in samples],
            padding="longest",
            padding_side="right",  # positions are counted from the first token
            return_tensors="pt",
        )
        found: dict[str, Any] = dict(batch)
        found["labels"] = self._labels(found, samples)
        found["names"] = [one.name for one in samples]
        found["unread"] = [pair for one in samples for pair in one.unread.items()]
        return found

    def _labels(self, batch: dict[str, Tensor], samples: Sequence[Sample]) -> Tensor:
        # 1. Refuse what the model would cut off.
        ids, types = batch["input_ids"], batch["token_type_ids"]
        if ids.shape[1] > self.max_length:
            row = int(batch["attention_mask"].sum(1).argmax())
            raise DataError(
                f"{samples[row].name}: prompt and answer have {ids.shape[1]} tokens, the model "
                f"takes {self.max_length}; cut the image into tiles, or use max_objects"
            )
        # 2. Train on the suffix only.
        learnt = (types == 1) & (batch["attention_mask"] == 1)
        labels = ids.masked_fill(~learnt, IGNORED)
        for row, sample in enumerate(samples):
            places = learnt[row].nonzero()[:, 0]
            if len(places) == 0 or int(ids[row, places[-1]]) != self.vocabulary.eos:
                raise DataError(
                    f"{sample.name}: the answer {sample.suffix[:60]!r} does not end in <eos>"
                )
            # 3. A cut-off answer must not teach the end token.
            if not sample.is_whole:
                labels[row, places[-1]] = IGNORED
            # 4. Of added noise objects only the noise token is trained.
            if sample.noise_from is not None:
                true = sample.suffix[: sample.noise_from]
                filled = places[len(self._ids(true)) if true else 0 :]
                labels[row, filled[~self._is_noise(ids[row, filled])]] = IGNORED
        return labels

    def _is_noise(self, ids: Tensor) -> Tensor:
        """Return which tokens of noise boxes are their class; the others are not learnt."""
        first = self.vocabulary.first_loc
        is_loc = (ids >= first) & (ids < first + 1024)
        return ~is_loc & ~torch.isin(ids, self.separator) & (ids != self.vocabulary.eos)

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def token_losses(logits: Tensor, targets: Tensor, *, first_loc: int, sigma: float) -> Tensor:
    """Return the cross-entropy of each token; a coordinate's neighbouring bins share its target.

    Args:
        logits: ``(t, v)``, at the positions that predict ``targets``.
        targets: ``(t,)`` token ids.
        first_loc: Id of ``<loc0000>``; the 1,024 bins follow it.
        sigma: Spread of a coordinate's target over bins; 0: none.

    Returns:
        ``(t,)`` float32.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, reduction="none")
    if sigma == 0:
        return loss
    is_loc = (targets >= first_loc) & (targets < first_loc + NUM_BINS)
    spread = soft_bins(targets[is_loc] - first_loc, sigma=sigma)
    log_probs = logits[is_loc].log_softmax(-1)[:, first_loc : first_loc + NUM_BINS]
    return loss.masked_scatter(is_loc, -(spread * log_probs).sum(1))


def soft_bins(bins: Tensor, *, sigma: float = 4.0) -> Tensor:
    """Return ``(..., 1024)`` probabilities: a bell over the bins around each of ``bins``."""
    distance = torch.arange(NUM_BINS, device=bins.device) - bins[..., None]
    spread = torch.exp(-0.5 * (distance / sigma) ** 2)
    return spread / spread.sum(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch, from the hidden states of the language model.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        vocabulary_size: Number of logits of a token, which bounds the tokens of a chunk.
        sigma: Spread of a coordinate's target over neighbouring bins.
        mean_length: Tokens of a mean answer: every token has equal weight, also in a batch of long
            answers. 0: mean over tokens, then samples.
    """

    first_loc: int
    vocabulary_size: int = 1
    sigma: float = 0.0
    mean_length: float = 0.0

    def __call__(self, hidden: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            hidden: ``(b, t, d)`` states at all positions.
            head: Maps states ``(n, d)`` to logits ``(n, v)``.
            labels: ``(b, t)`` token ids, -100 where nothing is learnt.
        """
        # 1. The state at a position predicts the next token; only learnt ones need logits.
        states, targets = hidden[:, :-1], labels[:, 1:]
        learnt = targets != IGNORED
        each = self._token_losses(states[learnt], targets[learnt], head)
        # 2. Sum over each row, and divide by its length or by the mean one.
        spread = torch.zeros(targets.shape, dtype=each.dtype, device=each.device)
        in_row = learnt.sum(1)
        shares = self.mean_length or in_row.clamp(min=1)
        sums = spread.masked_scatter(learnt, each).sum(1)
        # 3. Mean over the rows in which anything is learnt.
        return (sums / shares).sum() / (in_row > 0).sum().clamp(min=1)

    def _token_losses(
        self, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def chunk_loss(states: Tensor, targets: Tensor) -> Tensor:
            return token_losses(head(states), targets, first_loc=self.first_loc, sigma=self.sigma)

        size = max(64, _CHUNK // self.vocabulary_size)
        if len(states) <= size:
            return chunk_loss(states, targets)
        # A chunk's logits are computed again in the backward pass instead of being stored.
        parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
        return torch.cat([checkpoint(chunk_loss, *part, use_reentrant=False) for part in parts])


def make_objective(
    config: TrainConfig, collator: Collator, *, mean_length: float = 0.0
) -> Objective:
    """Return the objective of a run.

    Args:
        config: The run.
        collator: Of the run.
        mean_length: See `Objective`.
    """
    return Objective(
        first_loc=collator.vocabulary.first_loc,
        vocabulary_size=len(collator.processor.tokenizer),
        sigma=config.loc_sigma,
        mean_length=mean_length,
    )


def add_objective(model: Any, objective: Objective) -> None:
    """Let a PaliGemma's ``forward`` return a loss where it is given ``labels``.

    The loss is computed inside ``forward``, so that DDP and autocast see all of it; without labels
    ``forward`` is transformers' own.

    Args:
        model: A ``PaliGemmaForConditionalGeneration``, with or without adapters inside.
        objective: The loss.
    """
    plain = type(model).forward
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    # Logits are computed in parts by the objective: all at once would need gigabytes.
    def head(states: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(states)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def _forward(*args: Any, labels: Tensor | None = None, **more: Any) -> Any:
        # Generation uses the original forward.
        if labels is None:
            return plain(model, *args, **more)
        states = model.model(*args, **more, use_cache=False).last_hidden_state
        return {"loss": objective(states, head, labels)}

    model.forward = _forward


def remove_objective(model: Any) -> None:
    """Give a model its own ``forward`` back."""
    model.__dict__.pop("forward", None)
