"""Engine at an address: OpenAI's chat completions over HTTP."""

import base64
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import cv2
import numpy as np

from pgvision.arrays import FloatArray
from pgvision.errors import CheckpointError, OptionError, require_count
from pgvision.http import HttpError, HttpPolicy, fetch
from pgvision.runtime.checkpoints import CheckpointCard, card_of_served, is_address
from pgvision.runtime.engine import BATCH_SIZE
from pgvision.runtime.protocol import Generation, Request, find_spans
from pgvision.tokens import NUM_BINS

KEY_NAME: Final = "PGVISION_ENGINE_KEY"
_MAX_TOKENS: Final = 240
_ALTERNATIVES: Final = 20  # the most that OpenAI's form allows
_TRIES: Final = 4
_BUSY: Final = frozenset({429, 502, 503, 504})
_HINTS: Final = {None: ": is the server running there?"} | dict.fromkeys(
    (401, 403), f"; set {KEY_NAME}"
)
_TOKEN: Final = re.compile(r"<(?:loc(?P<bin>\d{4})|seg(?P<code>\d{3}))>")
_EOS: Final = frozenset({"<eos>", "</s>", "<end_of_turn>"})

_log = logging.getLogger(__name__)


class Remote:
    """An engine at an address: vLLM, MLX, `pgvision serve`; anything with chat completions.

    Tasks take it as ``generator=``, or by its address as ``model=``. It gets the image as PNG and
    the prompt as text, and must put image tokens, ``<bos>`` and the closing newline around it as
    PaliGemma was trained with: ``pgvision doctor --engine`` checks whether it does.

    Probabilities come from ``logprobs`` and ``top_logprobs`` where the server gives them. What is
    beyond the 20 most probable tokens is unknown and counts against an object, so scores are lower
    bounds. Without them, or where tokens do not join to the text, scores are None. Answers are not
    constrained to a grammar and drafts are ignored; closed sets are refused.

    Args:
        address: ``http://host:port``, with ``/v1`` if need be, and ``#name`` to choose among
            several models.
        kind: Prompt format of the model; None: from its name.
        api_key: Sent as a bearer token; None: ``PGVISION_ENGINE_KEY`` of the environment.
        timeout: Seconds for one answer.

    Raises:
        OptionError: If the address is not an http(s) URL.
        CheckpointError: If there is no server, or it serves several models and none is named.
    """

    def __init__(
        self,
        address: str,
        *,
        kind: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        # 1. The address; servers of OpenAI's API have a path, /v1 by default.
        if not is_address(address):
            raise OptionError(f"address: expected http://host:port, got {address!r}")
        base, _, self._model = address.partition("#")
        base = base.rstrip("/").removesuffix("/chat/completions")
        self._base = base if urlsplit(base).path else f"{base}/v1"
        # 2. Limits and key of each request.
        self._policy = HttpPolicy(seconds=timeout, max_bytes=1 << 26, max_redirects=0)
        key = api_key or os.environ.get(KEY_NAME)
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        # 3. Ask which model is served, if none is named.
        self._has_logprobs = True
        self._model = self._model or self._only_model()
        card = card_of_served(self._model, base)
        self.card: CheckpointCard = card if kind is None else replace(card, kind=kind)

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests as they come and yield each answer when it ends, with its number.

        Args:
            requests: Drawn lazily.
            batch_size: Requests under way at a time; None: 8.

        Yields:
            ``(number of the request, its answer)``, in the order in which they end.

        Raises:
            OptionError: If a request asks for what only an engine of ours can do, or ``batch_size``
                is not a whole number above 0.
            CheckpointError: If the server refuses, fails, or cannot be reached any more.
        """
        size = BATCH_SIZE if batch_size is None else require_count("batch_size", batch_size, 1)
        numbered = enumerate(requests)
        running: dict[Future[Generation], int] = {}
        pool = ThreadPoolExecutor(size, thread_name_prefix="pgvision-remote")
        try:
            while True:
                # 1. Fill the free places.
                for index, request in islice(numbered, size - len(running)):
                    running[pool.submit(self.answer, request)] = index
                if not running:
                    break
                # 2. Yield what has ended.
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            # A caller that leaves early does not wait for requests that the server has.
            pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, request: Request) -> Generation:
        """Answer one request.

        Raises:
            OptionError: See `generate`.
            CheckpointError: See `generate`.
        """
        # Servers ignore what they do not support, so it is refused here.
        form = request.form
        if form is not None and form.decoy:
            raise OptionError("closed_set: a server cannot; load the checkpoint")
        started = time.perf_counter()
        found = read_completion(self._complete(self._body(request)))
        return replace(found, timings={"engine": time.perf_counter() - started})

    def _body(self, request: Request) -> dict[str, Any]:
        # PNG: JPEG would change the pixels, and so the answer.
        png = cv2.imencode(".png", request.picture.bgr)[1].tobytes()
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": request.prefix},
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": request.max_new_tokens or self.card.max_new_tokens or _MAX_TOKENS,
            "temperature": 0.0,
        }
        if self._has_logprobs:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return body

    def _complete(self, body: dict[str, Any]) -> Any:
        try:
            return self._ask("/chat/completions", body)
        except HttpError as error:
            if "logprobs" not in body or error.status not in (400, 422):
                raise CheckpointError(str(error)) from error
        # Some servers refuse logprobs: ask again without.
        plain = {key: value for key, value in body.items() if "logprobs" not in key}
        answer = self._complete(plain)
        if self._has_logprobs:
            self._has_logprobs = False
            _log.warning("%s gives no log-probabilities: no object has a score", self._base)
        return answer

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """Return the JSON of a reply; ask again while the server is busy.

        Raises:
            HttpError: If the server refuses.
            CheckpointError: If it cannot be reached, or replies with something else.
        """
        # A server that is loading or full answers later: wait twice as long each time.
        data, pause_s = None if body is None else json.dumps(body).encode(), 0.5
        for tries_left in reversed(range(_TRIES)):
            try:
                reply = fetch(
                    f"{self._base}{path}", policy=self._policy, headers=self._headers, body=data
                )
                return json.loads(reply)
            except HttpError as error:
                # Retry a busy server, or a lost connection of a request with a body.
                is_busy = error.status in _BUSY or (error.status is None and body is not None)
                if not is_busy or not tries_left:
                    if error.status in _HINTS:
                        raise CheckpointError(f"{error}{_HINTS[error.status]}") from error
                    raise
                pause_s = max(pause_s, min(error.retry_after, 30.0))
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"{self._base}{path}: no answer in JSON ({error})") from error
            time.sleep(pause_s)
            pause_s *= 2
        raise CheckpointError(f"{self._base}{path}: no answer")

    def _only_model(self) -> str:
        try:
            names = [str(item["id"]) for item in self._ask("/models", None)["data"]]
        except HttpError as error:
            raise CheckpointError(str(error)) from error
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{self._base}/models: expected a list of models") from error
        if len(names) != 1:
            raise CheckpointError(
                f"{self._base} serves {', '.join(names) or 'nothing'}; choose one: "
                f"{self._base}#{names[0] if names else 'name'}"
            )
        return names[0]


def read_completion(reply: Any) -> Generation:
    """Read a chat completion's text and, where they fit it, its tokens.

    Args:
        reply: The parsed JSON.

    Raises:
        CheckpointError: If it is not a chat completion.
    """
    try:
        # 1. Read text and log probabilities.
        choice = reply["choices"][0]
        text = choice["message"]["content"] or ""
        finished = choice.get("finish_reason") != "length"
        listed = (choice.get("logprobs") or {}).get("content") or []
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"expected a chat completion, got {str(reply)[:200]}") from error
    if not isinstance(text, str):
        raise CheckpointError(f"expected a text as content, got {str(text)[:200]}")
    try:
        pieces = tuple("" if each["token"] in _EOS else str(each["token"]) for each in listed)
        tables = [_table(each) for each in listed]
        logprobs = np.array([float(each["logprob"]) for each in listed], np.float32)
    except (KeyError, TypeError, ValueError, AttributeError):
        pieces = ()
    # 2. Without them, or if they do not match the text, return the text alone.
    if not pieces or "".join(pieces) != text:
        whole = (text,) if text else ()
        ids = np.full(len(whole), -1, np.int64)
        return Generation(text=text, token_ids=ids, pieces=whole, finished=finished)
    # 3. Find location and mask tokens, and their distributions.
    matches = [_TOKEN.fullmatch(piece) for piece in pieces]
    values = [0 if match is None else int(match["bin"] or match["code"]) for match in matches]
    kinds = "".join(map(_kind, pieces, matches))
    return Generation(
        text=text,
        token_ids=np.full(len(pieces), -1, np.int64),
        pieces=pieces,
        finished=finished,
        logprobs=logprobs,
        eos_logprobs=np.array([_end_logprob(table) for table in tables], np.float32),
        loc_probs=_location_rows(kinds, tables),
        spans=find_spans(kinds, values),
    )


def _kind(piece: str, match: re.Match[str] | None) -> str:
    if match is not None:
        return "L" if match["bin"] else "S"
    return "E" if not piece else (";" if piece.strip() == ";" else "T")


def _table(listed: Mapping[str, Any]) -> dict[str, float]:
    """Return log-probabilities by token, the written one among them."""
    table = {
        str(other["token"]): float(other["logprob"]) for other in listed.get("top_logprobs") or ()
    }
    return table | {str(listed["token"]): float(listed["logprob"])}


def _end_logprob(table: Mapping[str, float]) -> float:
    """Return an upper bound of the probability that the answer ended here."""
    # The end is among the most probable tokens, or at most as probable as the last of them.
    if known := [value for token, value in table.items() if token in _EOS]:
        return max(known)
    rest = float(np.log(max(1.0 - float(np.exp(list(table.values())).sum()), 1e-9)))
    return min(rest, *table.values()) if len(table) > 1 else rest


def _location_rows(kinds: str, tables: Sequence[Mapping[str, float]]) -> FloatArray:
    """Return one row for each location written; what is not listed is 0."""
    rows = np.zeros((kinds.count("L"), NUM_BINS), np.float32)
    written = [table for letter, table in zip(kinds, tables, strict=True) if letter == "L"]
    for row, table in zip(rows, written, strict=True):
        for token, value in table.items():
            match = _TOKEN.fullmatch(token)
            if match is not None and match["bin"] and int(match["bin"]) < NUM_BINS:
                row[int(match["bin"])] = np.exp(value)
    return rows
