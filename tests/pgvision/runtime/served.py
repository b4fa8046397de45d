"""The carried checkpoint behind a real HTTP server, right or broken in one way.

It shares no code with our engine: transformers' own passes and cache, an attention
mask by ``token_type_ids``. ``python served.py PORT FAULT`` serves by hand; ``python served.py
record`` writes down anew, for `pgvision doctor --engine`, what it answers with each fault.
"""

import base64
import inspect
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Literal, get_args

import torch
from PIL import Image, ImageOps
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

from pgvision.runtime.checkpoints import TINY_FOLDER

Fault = Literal[
    "none", "image-only mask", "causal mask", "BGR", "letterbox", "double newline", "no newline",
    "missing bos", "split loc tokens", "dropped loc tokens", "half-precision output",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = get_args(Fault)
# transformers renames it from 5.24 on.
FORWARD = inspect.signature(PaliGemmaForConditionalGeneration.forward).parameters
CACHE = "cache" if "cache" in FORWARD else "past_key_values"


class Answering:
    """The checkpoint with a fault."""

    def __init__(self, fault: Fault = "none") -> None:
        self.fault = fault
        torch.set_num_threads(1)  # the fastest for a model as small
        self.model = PaliGemmaForConditionalGeneration.from_pretrained(
            TINY_FOLDER, dtype=torch.float32
        ).eval()
        self.processor = AutoProcessor.from_pretrained(TINY_FOLDER)
        self.tokenizer = self.processor.tokenizer
        self.lock = threading.Lock()

    def pixels(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        if self.fault == "BGR":
            image = Image.merge("RGB", image.split()[::-1])
        if self.fault == "letterbox":
            side = max(image.size)
            image = ImageOps.pad(image, (side, side), color=(114, 114, 114))
        return self.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]

    def prompt(self, text: str) -> list[int]:
        bos = "" if self.fault == "missing bos" else self.tokenizer.bos_token
        end = {"double newline": "\n\n", "no newline": ""}.get(self.fault, "\n")
        image = [self.model.config.image_token_id] * self.processor.image_seq_length
        return image + self.tokenizer(f"{bos}{text}{end}", add_special_tokens=False)["input_ids"]

    def types(self, num_image: int, num_prompt: int) -> torch.Tensor:
        """0 where tokens see each other, 1 from where each sees what came before alone."""
        types = torch.ones(1, num_prompt, dtype=torch.long)
        if self.fault == "image-only mask":
            types[:, :num_image] = 0
        elif self.fault != "causal mask":
            types[:] = 0
        return types

    @torch.inference_mode()
    def answer(self, image: Image.Image, text: str, limit: int) -> tuple[list[int], list, bool]:
        prompt = self.prompt(text)
        types = self.types(self.processor.image_seq_length, len(prompt))
        given = {"input_ids": torch.tensor([prompt]), "pixel_values": self.pixels(image)}
        ids, steps, cache = [], [], None
        for _ in range(limit):
            done = self.model(**given, token_type_ids=types, use_cache=True, **{CACHE: cache})
            logits, cache = done.logits[0, -1], done[CACHE]
            if self.fault == "half-precision output":
                logits = logits.bfloat16()
            best = int(logits.argmax())
            steps.append(logits.float().log_softmax(-1))
            if best == self.tokenizer.eos_token_id:
                return ids, steps, True
            ids.append(best)
            given, types = {"input_ids": torch.tensor([[best]])}, torch.ones(1, 1).long()
        return ids, steps, False

    def word(self, token: int) -> str:
        word = self.tokenizer.decode([int(token)])
        return "" if self.fault == "dropped loc tokens" and word.startswith("<loc") else word

    def completion(self, body: dict, *, logprobs: bool) -> dict:
        parts = body["messages"][-1]["content"]
        (text,) = [part["text"] for part in parts if part["type"] == "text"]
        (url,) = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        image = Image.open(BytesIO(base64.b64decode(url.partition("base64,")[2])))
        with self.lock:
            ids, steps, ended = self.answer(image, text, body["max_tokens"])
        tokens = [
            self.listed(*pair, body.get("top_logprobs", 0))
            for pair in zip(ids, steps, strict=False)
        ]
        if self.fault == "split loc tokens":
            tokens = [part for token in tokens for part in in_letters(token)]
        content = "".join(token["token"] for token in tokens)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "stop" if ended else "length",
            "logprobs": {"content": tokens} if logprobs and body.get("logprobs") else None,
        }
        return {"object": "chat.completion", "model": "tiny", "choices": [choice]}

    def listed(self, token: int, logprobs: torch.Tensor, count: int) -> dict:
        values, ids = logprobs.topk(max(count, 1))
        others = [
            self.one(other, value)
            for other, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        return {**self.one(token, float(logprobs[token])), "top_logprobs": others[:count]}

    def one(self, token: int, logprob: float) -> dict:
        word = self.word(token)
        return {"token": word, "logprob": logprob, "bytes": list(word.encode())}


def in_letters(token: dict) -> list[dict]:
    word = token["token"]
    if not word.startswith("<loc"):
        return [token]
    parts = ["<", "loc", *word[4:8], ">"]
    share = token["logprob"] / len(parts)
    return [{"token": part, "logprob": share, "top_logprobs": []} for part in parts]


class Desk:
    """How a server behaves around its model: what came, and how it is received."""

    def __init__(self, answering: object, *, logprobs: str = "given", key: str | None = None):
        self.answering, self.logprobs, self.key = answering, logprobs, key
        self.names = ["tiny"]
        self.bodies: list[dict] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.under_way = self.most_under_way = 0


@contextmanager
def serving_model(desk: Desk, port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/v1/models":
                self.reply(404, {"error": "no such page"})
            elif self.may_enter():
                self.reply(200, {"data": [{"id": name} for name in desk.names]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self.reply(404, {"error": "no such page"})
                return
            if not self.may_enter():
                return
            desk.bodies.append(body)
            if desk.refusals:
                code, head = desk.refusals.pop(0)
                self.reply(code, {"error": {"message": "not now"}}, head)
                return
            if desk.logprobs == "refused" and body.get("logprobs"):
                self.reply(400, {"error": {"message": "logprobs is not supported"}})
                return
            desk.under_way += 1
            desk.most_under_way = max(desk.most_under_way, desk.under_way)
            try:
                answer = desk.answering.completion(body, logprobs=desk.logprobs == "given")
            finally:
                desk.under_way -= 1
            self.reply(200, answer)

        def may_enter(self) -> bool:
            if desk.key is None or self.headers["Authorization"] == f"Bearer {desk.key}":
                return True
            self.reply(401, {"error": "who are you?"})
            return False

        def reply(self, code: int, content: object, head: dict[str, str] | None = None) -> None:
            data = json.dumps(content).encode() if not isinstance(content, bytes) else content
            self.send_response(code)
            for name, value in {"Content-Length": str(len(data)), **(head or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Nothing: pytest's output is for tests."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def record() -> None:
    """Write the answers of each fault; one that shows in tokens alone has none of its own."""
    from pgvision.cli.conformance import ANSWERS, MAX_NEW_TOKENS, requests
    from pgvision.files import write_text

    one, answers = Answering(), {}
    for fault in (each for each in FAULTS if each != "split loc tokens"):
        one.fault, texts = fault, []
        for request in requests():
            image = Image.fromarray(request.picture.bgr[..., ::-1].copy())
            ids, _, _ = one.answer(image, request.prefix, MAX_NEW_TOKENS)
            texts.append("".join(map(one.word, ids)))
        answers[fault] = texts
    write_text(ANSWERS, json.dumps({"answers": answers}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__" and sys.argv[1] == "record":
    record()
elif __name__ == "__main__":
    with serving_model(Desk(Answering(sys.argv[2])), int(sys.argv[1])) as address:
        print(address, flush=True)  # noqa: T201
        time.sleep(3600)
