"""A PaliGemma that somebody else serves: OpenAI's chat completions over HTTP. No torch."""

import base64
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import cv2

from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard, card_of_served, is_address
from pgvision.runtime.completions import read_completion
from pgvision.runtime.drawing import Drawn
from pgvision.runtime.endpoint import KEY_NAME, Endpoint, RefusedError
from pgvision.runtime.protocol import Generation, Request

AT_ONCE: Final = 8
_MAX_TOKENS: Final = 240
_ALTERNATIVES: Final = 20  # the most that OpenAI's form allows

_log = logging.getLogger(__name__)


class Remote:
    """An engine at an address: vLLM, MLX, an own server; anything with chat completions.

    Tasks take it as ``generator=``, or by its address as ``model=``. It is sent the picture as PNG
    and the prompt as text, and must put image tokens, ``<bos>`` and the closing newline around it
    as PaliGemma was trained with: ``pgvision doctor --engine`` tells whether it does.

    Probabilities come from ``logprobs`` and ``top_logprobs`` where the server gives them. What lies
    beyond the 20 most probable tokens is unknown and counts against an object, so that scores are
    lower bounds. Without them, or where tokens do not join to the text, scores are None. Grammar,
    drafts, ``extra_objects`` and closed sets need an engine of ours: answers are not held to a
    grammar, drafts are ignored, and the other two are refused.

    Args:
        address: ``http://host:port``, with ``/v1`` if need be, and ``#name`` to choose among
            several models.
        kind: Which prompts it knows; None: what the served model's name says.
        api_key: Sent as a bearer token; None: ``PGVISION_ENGINE_KEY`` of the environment.
        timeout: Seconds for one answer.

    Raises:
        OptionError: If the address is none.
        CheckpointError: If nobody answers there, or it serves several models and none is named.
    """

    def __init__(
        self,
        address: str,
        *,
        kind: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        if not is_address(address):
            raise OptionError(f"address: expected http://host:port, got {address!r}")
        base, _, self._model = address.partition("#")
        base = base.rstrip("/").removesuffix("/chat/completions")
        self._endpoint = Endpoint(
            base if urlsplit(base).path else f"{base}/v1",
            api_key or os.environ.get(KEY_NAME),
            timeout,
        )
        self._has_logprobs = True
        self._model = self._model or self._only_model()
        card = card_of_served(self._model, base)
        self.card: CheckpointCard = card if kind is None else replace(card, kind=kind)

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests as they come and yield each answer when it ends, with its number.

        Args:
            requests: Drawn lazily. If they raise, what came before is answered first.
            batch_size: Requests under way at a time; None: 8.

        Yields:
            ``(number of the request, its answer)``, in the order in which they end.

        Raises:
            OptionError: If a request asks for what only an engine of ours can do.
            CheckpointError: If the server refuses, fails, or cannot be reached any more.
        """
        size = batch_size or AT_ONCE
        source = Drawn(requests)
        running: dict[Future[Generation], int] = {}
        with ThreadPoolExecutor(size, thread_name_prefix="pgvision-remote") as pool:
            try:
                while True:
                    for index, request in source.take(size - len(running)):
                        running[pool.submit(self.answer, request)] = index
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                for future in running:
                    future.cancel()
        if source.error is not None:
            raise source.error

    def answer(self, request: Request) -> Generation:
        """Answer one request.

        Raises:
            OptionError: See `generate`.
            CheckpointError: See `generate`.
        """
        form = request.form
        if request.num_alternatives > 1:
            raise OptionError("num_alternatives: a server gives one answer; leave it out")
        if form is not None and (form.past_end or form.bans or form.decoy):
            raise OptionError("extra_objects, closed sets: a server cannot; load the checkpoint")
        started = time.perf_counter()
        found = read_completion(self._post(self._body(request)))
        return replace(found, timings={"engine": time.perf_counter() - started})

    def _body(self, request: Request) -> dict[str, Any]:
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
            "temperature": request.temperature,
        }
        if request.temperature > 0:
            body |= {"top_p": request.top_p, "seed": request.seed}
        if self._has_logprobs:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return body

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            return self._endpoint.ask("/chat/completions", body)
        except RefusedError as error:
            if "logprobs" not in body or error.code not in (400, 422):
                raise
            answer = self._endpoint.ask(
                "/chat/completions", {k: v for k, v in body.items() if "logprobs" not in k}
            )
            if self._has_logprobs:
                self._has_logprobs = False
                _log.warning(
                    "%s gives no log-probabilities: no object has a score", self._endpoint.base
                )
            return answer

    def _only_model(self) -> str:
        reply = self._endpoint.ask("/models", None)
        try:
            names = [str(one["id"]) for one in reply["data"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._endpoint.base}/models: expected a list of models"
            ) from error
        if len(names) != 1:
            raise CheckpointError(
                f"{self._endpoint.base} serves {', '.join(names) or 'nothing'}; choose one: "
                f"{self._endpoint.base}#{names[0] if names else 'name'}"
            )
        return names[0]


@lru_cache(maxsize=16)
def find_remote(address: str, kind: str | None) -> Remote:
    """Return the engine at an address, asked once per process what it serves."""
    return Remote(address, kind=kind)
