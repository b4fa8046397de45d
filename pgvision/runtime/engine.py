"""The engine: pictures and prefixes in, greedy answers with their probabilities out.

It does not sample, constrain or draft. One picture is encoded once, however much is asked about
it; the language model's prefill cannot be shared, since image positions attend to the prefix.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pgvision.arrays import ByteArray
from pgvision.errors import CheckpointError
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.runtime.protocol import GenerateOptions, Generation, Request
from pgvision.runtime.recording import Recorder
from pgvision.runtime.threads import threads_for
from pgvision.runtime.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_CACHED_PICTURES: Final = 16


class Engine:
    """A loaded checkpoint.

    Args:
        model: The model, on its device, in eval mode.
        processor: Its processor.
        card: What the checkpoint is.
        threads: See `threads_for`.

    Raises:
        CheckpointError: If the tokenizer splits ``<loc>`` or ``<seg>`` tokens.
    """

    def __init__(
        self,
        model: "PaliGemmaForConditionalGeneration",
        processor: Any,
        card: CheckpointCard,
        *,
        threads: int | None = None,
    ) -> None:
        self.model, self.processor, self.card = model, processor, card
        self.vocabulary = read_vocabulary(processor.tokenizer, card.name)
        self.resolution = int(model.config.vision_config.image_size)
        self.num_image_tokens = int(processor.image_seq_length)
        self.threads = threads_for(model, threads)
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        expected = (self.resolution // int(model.config.vision_config.patch_size)) ** 2
        if expected != self.num_image_tokens:
            raise CheckpointError(
                f"{card.name}: the processor writes {self.num_image_tokens} image tokens, the "
                f"vision tower {expected}; use the processor of this checkpoint"
            )

    @property
    def max_new_tokens(self) -> int:
        """Longest answer by default: the text budget that PaliGemma was trained with."""
        if self.card.max_new_tokens is not None:
            return self.card.max_new_tokens
        budget = 512 if self.resolution > 224 else (256 if self.card.kind == "mix" else 128)
        return budget - 16  # the prefix needs room as well

    def generate(
        self, requests: Sequence[Request], options: GenerateOptions | None = None
    ) -> list[Generation]:
        """Answer each request, in order, as one batch.

        Tokens equal transformers' own greedy ``generate``, alone and in mixed batches.

        Args:
            requests: Pictures with prefixes; the same picture may come many times.
            options: Length and number of answers.

        Returns:
            One generation for each request.
        """
        if not requests:
            return []
        options = options or GenerateOptions()
        started = time.perf_counter()
        with torch.inference_mode(), self.threads:
            features = self._encode(requests)
            encoded = time.perf_counter()
            inputs = self._inputs([request.prefix for request in requests])
            recorder = Recorder(len(requests), self.vocabulary, self.processor.tokenizer)
            self._decode(inputs, features, options.max_new_tokens or self.max_new_tokens, recorder)
            timings = {
                "vision": (encoded - started) / len(requests),
                "language": (time.perf_counter() - encoded) / len(requests),
            }
            best: list[tuple[tuple[str, float], ...]] = [()] * len(requests)
            if options.num_alternatives > 1:
                best = self._beams(inputs, features, options)
        return recorder.generations(timings, best)

    def input_ids(self, prefix: str) -> list[int]:
        """Return the prompt's token ids: image tokens, ``<bos>``, prefix, newline."""
        tokenizer = self.processor.tokenizer
        text = f"{tokenizer.bos_token}{prefix}\n"
        tail = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.vocabulary.image] * self.num_image_tokens + list(tail)

    def _inputs(self, prefixes: Sequence[str]) -> dict[str, Tensor]:
        rows = [self.input_ids(prefix) for prefix in prefixes]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.vocabulary.pad)
        attention = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, length - len(row) :] = torch.tensor(row)
            attention[index, length - len(row) :] = 1
        # Zeros mark the prefix, which attends in both directions; without them transformers
        # silently builds another mask (a trap that differs between PaliGemma 1 and 2).
        named = {"input_ids": ids, "attention_mask": attention, "token_type_ids": ids * 0}
        return {name: tensor.to(self.model.device) for name, tensor in named.items()}

    def _encode(self, requests: Sequence[Request]) -> Tensor:
        keys = [_fingerprint(request.image) for request in requests]
        missing = {
            key: request.image
            for key, request in zip(keys, requests, strict=True)
            if key not in self._features
        }
        if missing:
            # The processor reads RGB; our pictures are BGR.
            pictures = [np.ascontiguousarray(image[..., ::-1]) for image in missing.values()]
            # Said, not guessed: a picture 1 or 3 pixels high would be taken for channels first.
            pixels = self.processor.image_processor(
                images=pictures, return_tensors="pt", input_data_format="channels_last"
            )
            values = pixels["pixel_values"].to(self.model.device, self.model.dtype)
            fresh = self.model.get_image_features(values).pooler_output
            self._features.update(zip(missing, fresh, strict=True))
        features = torch.stack([self._features[key] for key in keys])
        for key in keys:
            self._features.move_to_end(key)
        while len(self._features) > _CACHED_PICTURES:
            self._features.popitem(last=False)
        return features

    def _decode(
        self, inputs: dict[str, Tensor], features: Tensor, limit: int, recorder: Recorder
    ) -> None:
        attention = inputs["attention_mask"]
        # Counted from 1 over what is not padding, as PaliGemma was trained.
        positions = attention.cumsum(1).clamp(min=1)
        cache = DynamicCache(config=self.model.config.get_text_config())
        output = self.model(
            **inputs,
            position_ids=positions,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        position = positions[:, -1:]
        for _ in range(limit):
            tokens = recorder.record(output.logits[:, -1])
            if recorder.is_done:
                return
            position = position + 1
            attention = torch.cat([attention, torch.ones_like(tokens)[:, None]], 1)
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=attention,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )

    def _beams(
        self, inputs: dict[str, Tensor], features: Tensor, options: GenerateOptions
    ) -> list[tuple[tuple[str, float], ...]]:
        count = options.num_alternatives
        found: Any = self.model.generate(
            **inputs,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
            num_beams=count,
            num_return_sequences=count,
            do_sample=False,
            max_new_tokens=options.max_new_tokens or self.max_new_tokens,
            length_penalty=0.0,  # plain log-probability of the whole answer
            return_dict_in_generate=True,
            output_scores=True,
        )
        written = found.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        pairs = list(zip(texts, found.sequences_scores.tolist(), strict=True))
        return [tuple(pairs[i : i + count]) for i in range(0, len(pairs), count)]


def _fingerprint(image: ByteArray) -> bytes:
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(repr(image.shape).encode())
    return digest.digest()
