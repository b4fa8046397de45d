"""The engine: requests in, answers with their probabilities out.

It owns batching: rows that end leave, the next ones enter. One picture is encoded once, however
much is asked about it; the language model's prefill cannot be shared, since image positions attend
to the prefix. Any number of threads may use one engine: what a call needs is its own, and what is
shared is locked.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pgvision.errors import CheckpointError
from pgvision.runtime.beams import find_beams
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.runtime.drawing import Drawn
from pgvision.runtime.eyes import Eyes
from pgvision.runtime.protocol import Generation, Request
from pgvision.runtime.recording import Scribe
from pgvision.runtime.rows import Row
from pgvision.runtime.session import Machine, Session
from pgvision.runtime.threads import threads_for
from pgvision.runtime.token_grammar import TokenGrammar
from pgvision.runtime.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

BATCH_SIZE: Final = 8


class Engine:
    """A loaded checkpoint.

    Args:
        model: The model, on its device, in eval mode.
        processor: Its processor.
        card: What the checkpoint is.
        threads: See `threads_for`.
        compiled: See `pgvision.runtime.load`.

    Raises:
        CheckpointError: If the tokenizer splits ``<loc>`` or ``<seg>`` tokens, or the processor
            belongs to another resolution.
    """

    def __init__(
        self,
        model: "PaliGemmaForConditionalGeneration",
        processor: Any,
        card: CheckpointCard,
        *,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.model, self.processor, self.card = model, processor, card
        self.vocabulary = read_vocabulary(processor.tokenizer, card.name)
        self.resolution = int(model.config.vision_config.image_size)
        self.num_image_tokens = int(processor.image_seq_length)
        expected = (self.resolution // int(model.config.vision_config.patch_size)) ** 2
        if expected != self.num_image_tokens:
            raise CheckpointError(
                f"{card.name}: the processor writes {self.num_image_tokens} image tokens, the "
                f"vision tower {expected}; use the processor of this checkpoint"
            )
        self.eyes = Eyes(model, processor.image_processor)
        self.scribe = Scribe(self.vocabulary, processor.tokenizer)
        self.machine = Machine(
            model, self.vocabulary, threads_for(model, threads), compiled=compiled
        )
        self._tail = lru_cache(1024)(self._tail_ids)

    @property
    def max_new_tokens(self) -> int:
        """Longest answer by default: the text budget that PaliGemma was trained with."""
        return self.card.longest_answer(self.resolution)

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests as they come and yield each answer when it ends, with its number.

        Without a grammar, tokens equal those of transformers' greedy ``generate`` with an output
        layer in float32, alone and in mixed batches.

        Args:
            requests: Drawn lazily, as rows have room. If they raise, what came before is answered
                first, and then the exception comes.
            batch_size: Rows that go through the model together; None: 8.

        Yields:
            ``(number of the request, its answer)``, in the order in which they end.
        """
        session = Session(self.machine, batch_size or BATCH_SIZE)
        source = Drawn(requests)
        while True:
            rows: list[Row] = []
            for index, request in source.take(session.room):
                if request.num_alternatives > 1:
                    yield index, self._best(request)
                else:
                    rows.append(self._row(index, request))
            if rows:
                self._enter(session, rows)
            elif session.rows:
                with self.machine.threads:
                    session.step()
            elif source.is_empty:
                break
            for row in session.leave():
                yield row.index, self.scribe.generation(row)
        if source.error is not None:
            raise source.error

    def replayed(self, request: Request, answers: Iterable[list[int]]) -> list[Generation]:
        """Give the probabilities of given answers to one request, in one pass.

        Args:
            request: The request.
            answers: Token ids of each answer.
        """
        rows = [
            self._row(
                index,
                replace(request, draft=ids, max_new_tokens=len(ids), num_alternatives=1),
                replay=True,
            )
            for index, ids in enumerate(answers)
        ]
        # The whole answer is the guess of the prompt's pass, so that this one pass is all.
        self._enter(Session(self.machine, len(rows)), rows)
        return [self.scribe.generation(row) for row in rows]

    def _best(self, request: Request) -> Generation:
        with self.machine.threads:
            answers = find_beams(
                self.model,
                self.input_ids(request.prefix),
                self.eyes.see([request.picture]),
                count=request.num_alternatives,
                limit=request.max_new_tokens or self.max_new_tokens,
                pad=self.vocabulary.pad,
            )
        pairs = [
            (float(one.logprobs.sum()), one)
            for one in self.replayed(request, answers)
            if one.logprobs is not None
        ]
        pairs.sort(key=lambda pair: -pair[0])
        found = tuple((one.text, logprob) for logprob, one in pairs)
        return replace(pairs[0][1], alternatives=found)

    def input_ids(self, prefix: str) -> list[int]:
        """Return the prompt's token ids: image tokens, ``<bos>``, prefix, newline."""
        return [self.vocabulary.image] * self.num_image_tokens + list(self._tail(prefix))

    def _tail_ids(self, prefix: str) -> tuple[int, ...]:
        tokenizer = self.processor.tokenizer
        text = f"{tokenizer.bos_token}{prefix}\n"
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _row(self, index: int, request: Request, *, replay: bool = False) -> Row:
        grammar = request.form and TokenGrammar.compile(
            self.processor.tokenizer, self.vocabulary, request.form
        )
        return Row(
            index,
            request,
            self.input_ids(request.prefix),
            limit=request.max_new_tokens or self.max_new_tokens,
            vocabulary=self.vocabulary,
            grammar=grammar or None,
            replay=replay,
        )

    def _enter(self, session: Session, rows: list[Row]) -> None:
        with self.machine.threads:
            started = time.perf_counter()
            features = self.eyes.see([row.request.picture for row in rows])
            self.machine.synchronise()
            share = (time.perf_counter() - started) / len(rows)
            for row in rows:
                row.timings["vision"] = share
            session.enter(rows, features)
