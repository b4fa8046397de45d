"""A scripted engine: says what it is told, as tokens with chosen probabilities."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from pgvision.runtime import CheckpointCard, Generation, Request, find_checkpoint
from pgvision.runtime.protocol import ObjectSpan

TOKEN = re.compile(r"<loc\d{4}>|<seg\d{3}>| ?[^<\s]+|\s|<")
CARD = replace(find_checkpoint("google/paligemma-3b-mix-224"), codec="tiny")


def spans(pieces: tuple[str, ...]) -> tuple[ObjectSpan, ...]:
    """Where whole objects are: four locs, perhaps sixteen codes, and words up to a semicolon."""
    found, at = [], 0
    while at + 4 <= len(pieces):
        if not all(piece.startswith("<loc") for piece in pieces[at : at + 4]):
            at += 1
            continue
        box = at + 4
        segs = [piece.startswith("<seg") for piece in pieces[box : box + 16]]
        mask = box + 16 if len(segs) == 16 and all(segs) else box
        stop = mask
        while stop < len(pieces) and not re.match(r" ?;|<loc|<seg|$", pieces[stop]):
            stop += 1
        before = pieces[:at]
        found.append(
            ObjectSpan(
                at,
                box,
                mask,
                stop,
                tuple(int(piece[4:8]) for piece in pieces[at:box]),
                tuple(int(piece[4:7]) for piece in pieces[box:mask]),
                loc_row=sum(piece.startswith("<loc") for piece in before),
            )
        )
        at = stop
    return tuple(found)


def generation(text: str, *, sure: float = 0.9, end: float = 0.1, done: bool = True) -> Generation:
    """Write ``text`` as tokens: each chosen with probability ``sure``, ends passed with ``end``."""
    pieces = tuple(TOKEN.findall(text)) + (("",) if done else ())
    locs = [int(piece[4:8]) for piece in pieces if piece.startswith("<loc")]
    loc_probs = np.full((len(locs), 1024), (1 - sure) / 1023, np.float32)
    loc_probs[np.arange(len(locs)), locs] = sure
    return Generation(
        text=text,
        token_ids=np.arange(len(pieces)),
        pieces=pieces,
        logprobs=np.full(len(pieces), np.log(sure), np.float32),
        eos_logprobs=np.full(len(pieces), np.log(end), np.float32),
        loc_probs=loc_probs,
        spans=spans(pieces),
        finished=done,
        passes=3,
        timings={"answer": 0.5},
    )


class Scripted:
    """Answers by a function of (request number, prefix, image)."""

    def __init__(
        self,
        answer: Callable[[Request], str],
        *,
        done: bool = True,
        write: Callable[..., Generation] = generation,
        card: CheckpointCard = CARD,
    ) -> None:
        self._answer, self._done, self._write, self.card = answer, done, write, card
        self.batches: list[list[str]] = []
        self.requests: list[Request] = []

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        source, number, error = iter(requests), 0, None
        while error is None:
            batch: list[Request] = []
            try:
                for request in islice(source, batch_size or 8):
                    batch.append(request)
            except Exception as raised:  # noqa: BLE001  (raised below, when its turn comes)
                error = raised
            if not batch:
                break
            self.batches.append([request.prefix for request in batch])
            self.requests += batch
            for request in batch:
                yield number, self._write(self._answer(request), done=self._done)
                number += 1
        if error is not None:
            raise error
