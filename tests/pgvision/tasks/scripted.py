"""A scripted engine: says what it is told, as tokens with chosen probabilities."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from pgvision.runtime import GenerateOptions, Generation, Request

TOKEN = re.compile(r"<loc\d{4}>|<seg\d{3}>| ?[^<\s]+|\s|<")


def generation(text: str, *, sure: float = 0.9, end: float = 0.1, done: bool = True) -> Generation:
    """Write ``text`` as tokens: each chosen with probability ``sure``, ends passed with ``end``."""
    pieces = tuple(TOKEN.findall(text)) + (("",) if done else ())
    locs = [int(piece[4:8]) for piece in pieces if piece.startswith("<loc")]
    segs = [int(piece[4:7]) for piece in pieces if piece.startswith("<seg")]
    loc_probs = np.full((len(locs), 1024), (1 - sure) / 1023, np.float32)
    loc_probs[np.arange(len(locs)), locs] = sure
    seg_probs = np.full((len(segs), 128), (1 - sure) / 127, np.float32)
    seg_probs[np.arange(len(segs)), segs] = sure
    return Generation(
        text=text,
        token_ids=np.arange(len(pieces)),
        pieces=pieces,
        logprobs=np.full(len(pieces), np.log(sure), np.float32),
        eos_logprobs=np.full(len(pieces), np.log(end), np.float32),
        loc_probs=loc_probs,
        seg_probs=seg_probs,
        finished=done,
        timings={"language": 0.5},
    )


class Scripted:
    """Answers by a function of (request number, prefix, image)."""

    def __init__(self, answer: Callable[[Request], str], *, done: bool = True) -> None:
        self._answer, self._done = answer, done
        self.batches: list[list[str]] = []

    def generate(
        self, requests: Sequence[Request], options: GenerateOptions | None = None
    ) -> list[Generation]:
        self.batches.append([request.prefix for request in requests])
        return [generation(self._answer(request), done=self._done) for request in requests]
