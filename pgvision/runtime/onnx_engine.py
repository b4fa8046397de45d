"""An engine over onnxruntime: exported checkpoints, no torch."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from pgvision.arrays import FloatArray, IntArray
from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.runtime.drawing import Drawn
from pgvision.runtime.label_trie import Allowed
from pgvision.runtime.onnx_files import DECODER, EMBEDDINGS, SETTINGS, VISION
from pgvision.runtime.protocol import Generation, Picture, Request
from pgvision.runtime.recording import Scribe
from pgvision.runtime.rows import Chances, Look, Row
from pgvision.runtime.token_grammar import TokenGrammar
from pgvision.runtime.tokenizer_files import read_tokenizer
from pgvision.runtime.vocabulary import read_vocabulary

_SLOTS: Final = 2048  # for prompt and answer, behind the picture's


class OnnxEngine:
    """An exported checkpoint (`pgvision export`), one request at a time.

    Grammar, drafts, scores and answers are those of `Engine` over the same weights in float32. On a
    processor small models are two to three times faster here; large batches and GPUs are torch's.

    Args:
        card: Of the exported folder.
        threads: Of onnxruntime; None: one, the fastest for models as small.

    Raises:
        DependencyError: If onnxruntime is missing.
        CheckpointError: If the folder's files cannot be read.
    """

    def __init__(self, card: CheckpointCard, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                f"{card.name} needs onnxruntime: pip install 'pgvision[onnx]'"
            ) from error
        self.card, folder = card, Path(card.location)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 1
        try:
            self._told = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self._table = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
            self._vision, self._decoder = (
                onnxruntime.InferenceSession(str(folder / name), options, ["CPUExecutionProvider"])
                for name in (VISION, DECODER)
            )
            slots = int(self._told["num_image_tokens"]) + _SLOTS
            angles = np.outer(np.arange(1, slots + 1), self._told["frequencies"])
        except Exception as error:  # onnxruntime's own errors are many
            raise CheckpointError(f"{card.name}: cannot be read ({error}); export again") from error
        self._cos = np.cos(np.hstack([angles, angles])).astype(np.float32)
        self._sin = np.sin(np.hstack([-angles, angles])).astype(np.float32)
        tokenizer = read_tokenizer(card.location, None)
        self._tokenizer, self.vocabulary = tokenizer, read_vocabulary(tokenizer, card.name)
        self._scribe = Scribe(self.vocabulary, tokenizer)
        self._seen: tuple[bytes, FloatArray] | None = None

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests one after the other.

        Args:
            requests: Drawn lazily. If they raise, what came before is answered first.
            batch_size: Has no meaning here.

        Yields:
            ``(number of the request, its answer)``.

        Raises:
            OptionError: If several best answers are asked for.
        """
        source = Drawn(requests)
        while not source.is_empty:
            for index, request in source.take(1):
                if request.num_alternatives > 1:
                    raise OptionError("num_alternatives: exported checkpoints give one answer")
                yield index, self._answer(index, request)
        if source.error is not None:
            raise source.error

    def _answer(self, index: int, request: Request) -> Generation:
        grammar = request.form and TokenGrammar.compile(
            self._tokenizer, self.vocabulary, request.form
        )
        text = f"{self._tokenizer.bos_token}{request.prefix}\n"
        tail = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        count = int(self._told["num_image_tokens"])
        row = Row(
            index,
            request,
            [self.vocabulary.image] * count + tail,
            limit=request.max_new_tokens or self.card.longest_answer(self._told["resolution"]),
            vocabulary=self.vocabulary,
            grammar=grammar or None,
        )
        started = time.perf_counter()
        features = self._see(request.picture)
        row.timings["vision"] = time.perf_counter() - started
        self._write(row, features)
        return self._scribe.generation(row)

    def _write(self, row: Row, features: FloatArray) -> None:
        """Pass after pass until the row ends."""
        prefix = len(row.prompt)
        shape = tuple(int(self._told[name]) for name in ("layers", "kv_heads"))
        shape = (*shape, 0, int(self._told["head_dim"]))
        keys = values = np.zeros(shape, np.float32)
        while not row.is_done:
            started, first = time.perf_counter(), row.passes == 0
            feed = row.plan()
            start, base = 0 if first else prefix + row.cached, len(feed) - len(row.guess) - 1
            embedded = self._embedded(feed)
            if first:
                words = self._embedded(row.prompt[len(features) :])
                embedded, base = np.concatenate([features, words, embedded]), prefix - 1
            wanted = np.array([base + look.after for look in row.looks], np.int64)
            stop = start + len(embedded)
            logits, keys, values = self._decoder.run(
                None,
                {
                    "embedded": embedded[None],
                    "cos": self._cos[start:stop],
                    "sin": self._sin[start:stop],
                    "mask": _mask(start, stop, prefix),
                    "near": _mask(start, stop, prefix, window=int(self._told["window"])),
                    "keys": keys[:, :, :start],
                    "values": values[:, :, :start],
                    "wanted": wanted,
                },
            )
            row.settle(self._chances(row, logits))
            phase = "prompt" if first else "answer"
            row.timings[phase] = row.timings.get(phase, 0.0) + time.perf_counter() - started

    def _embedded(self, ids: Sequence[int]) -> FloatArray:
        """Look tokens up, scaled as the family does."""
        rows = self._table[list(ids)]
        if rows.dtype == np.uint16:  # bfloat16's bits
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        scaled: FloatArray = rows.astype(np.float32) * np.float32(self._told["embed_scale"])
        return scaled

    def _see(self, picture: Picture) -> FloatArray:
        """Return ``(n, d)`` image tokens; the last picture's are kept for its next prompts."""
        if self._seen is not None and self._seen[0] == picture.fingerprint:
            return self._seen[1]
        told, side = self._told, int(self._told["resolution"])
        image = Image.fromarray(np.ascontiguousarray(picture.bgr[..., ::-1]))
        small = np.asarray(image.resize((side, side), told["resample"]), np.float32)
        mean, std = (np.array(told[name], np.float32) for name in ("mean", "std"))
        pixels = ((small * np.float32(told["rescale"]) - mean) / std).transpose(2, 0, 1)[None]
        found: FloatArray = self._vision.run(None, {"pixels": np.ascontiguousarray(pixels)})[0]
        found = found.reshape(-1, found.shape[-1])
        self._seen = picture.fingerprint, found
        return found

    def _chances(self, row: Row, logits: FloatArray) -> list[Chances]:
        sampled = row.request.temperature > 0
        return [
            self._open(one, look, row.guess, all_of_them=sampled)
            if look.is_open
            else self._held(one, look)
            for one, look in zip(logits.astype(np.float64), row.looks, strict=True)
        ]

    def _held(self, logits: FloatArray, look: Look) -> Chances:
        """Normalise over what the grammar allows."""
        allowed = look.allowed or Allowed()
        first, stop = allowed.span
        ids = [*allowed.ids, *allowed.weighed]
        run, base = np.zeros(0), -1
        if stop:
            whole = self.vocabulary.run_of(first)
            base = whole.start
            run = np.full(whole.stop - base, -np.inf)
            run[first - base : stop - base] = logits[first:stop]
            run[[one - base for one in allowed.banned]] = -np.inf
        both = np.concatenate([logits[ids], run])
        top = both.max()
        weights = np.exp(both - top)
        total = weights.sum()
        weights /= total
        outside = float("nan")
        if look.may_end(self.vocabulary.eos):
            everything = np.exp(logits - logits.max()).sum()
            inside = np.exp(top + np.log(total) - logits.max() - np.log(everything))
            outside = float(np.clip(1.0 - inside, 0.0, 1.0))
        # What is weighed and may not come stands behind what may.
        singles = dict(zip(allowed.ids, weights[: len(ids)].tolist(), strict=False))
        return Chances(singles, base, weights[len(ids) :] if stop else None, outside)

    def _open(
        self, logits: FloatArray, look: Look, guess: Sequence[int], *, all_of_them: bool
    ) -> Chances:
        """Normalise over the whole vocabulary; keep the best token, the end and the guess."""
        if look.allowed is not None and look.allowed.shut is not None:
            logits[look.allowed.shut] = -np.inf
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        if all_of_them:
            return Chances({}, 0, chances)
        ids = [int(chances.argmax()), self.vocabulary.eos]
        with suppress(IndexError):
            ids.append(guess[look.after])
        singles = {token: float(chances[token]) for token in ids}
        for token in ids:
            if self.vocabulary.is_loc(token) or self.vocabulary.is_seg(token):
                run = self.vocabulary.run_of(token)
                return Chances(singles, run.start, chances[run])
        return Chances(singles)


def _mask(start: int, stop: int, prefix: int, *, window: int = 0) -> FloatArray:
    """Return ``(stop - start, stop)``: what each new token sees; a prompt's prefix sees itself."""
    places: IntArray = np.arange(start, stop)
    last = np.where(places < prefix, max(prefix - 1, 0), places)
    keys = np.arange(stop)
    seen = keys <= last[:, None]
    if window:
        seen &= (keys > places[:, None] - window) | (places < prefix)[:, None]
    return np.where(seen, np.float32(0.0), np.float32(-np.inf))
