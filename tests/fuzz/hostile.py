"""Hostile requests for the service: right ones with something wrong in them, as bytes."""

import base64
import copy
import io
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from functools import cache
from pathlib import Path

import psutil
import uvicorn
from damage import broken
from PIL import Image

from pgvision.server import ServeSettings, create_app

NUMBERS = ("-1", "0", "1e999", "nan", "-inf", "9" * 400, "0x10", "١", "1_0", "2.5", "true")
TEXTS = (
    "helmet",
    "helmet; head",
    "",
    " ",
    ";;;",
    "zebra",
    "<loc0001>",
    "<image>",
    "a\nb",
    "\0",
    "\u202ehelmet",
    "\ud800",
    "😀" * 50,
    "helmet" * 20_000,
    "; ".join(f"class {number}" for number in range(500)),
    "../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:1/a.png",
    "data:image/png;base64,",
    "data:;base64,aGVsbG8=",
    "http://[::1",
    "{}",
    "null",
    "%00%ff",
    "'; drop table pictures; --",
)
ODD = (
    None,
    True,
    -1,
    10**400,
    1.5,
    [],
    {},
    [[]],
    ["helmet", None],
    {"a": {"b": []}},
    [1, "helmet"],
)
RIGHT = {
    "detect": {"classes": "helmet"},
    "segment": {"classes": "helmet; cone", "masks": "polygons"},
    "caption": {},
    "ask": {"question": "how many cones are there?"},
    "read": {},
}
TASKS = tuple(RIGHT)
FIELDS = (
    *("classes", "question", "conf", "nms", "max_objects", "tile", "form", "masks"),
    *("model", "annotated", "language", "style", "choices", "image", "foo", "\u0000", "a" * 5000),
)
PATHS = ("/", "/v1/models", "/metrics", "/page/page.js", "/page/../../etc/passwd", "/%00", "/v1/é")
CONFIG = (
    '<View><Image name="i" value="$image"/><RectangleLabels name="t" toName="i">'
    '<Label value="helmet"/></RectangleLabels></View>'
)


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(file, "PNG")
    return file.getvalue()


PNG = _png()


def some_text(dice: random.Random) -> str:
    return dice.choice((*TEXTS, *NUMBERS))


def some_values(dice: random.Random, task: str) -> dict[str, object]:
    """A task's fields that are right, and now and then some that are not."""
    values: dict[str, object] = dict(RIGHT.get(task, {}))
    for _ in range(dice.choice((0, 0, 0, 1, 2, 5))):
        values[dice.choice((*FIELDS, *values))] = some_text(dice)
    return values


def json_body(dice: random.Random) -> tuple[str, bytes]:
    """A path and its JSON."""
    coded = base64.b64encode(PNG).decode()
    if dice.random() < 0.3:
        coded = dice.choice((coded[:-7], some_text(dice), "data:image/png;base64," + coded))
    path = dice.choice((*TASKS, "chat", "roboflow", "predict"))
    body: dict[str, object] = some_values(dice, path) | {"image": coded}
    if path in TASKS:
        path = f"/v1/{path}"
    elif path == "chat":
        words = dice.choice(("detect helmet", "caption", "ocr", "", some_text(dice)))
        parts = [
            {"type": "text", "text": words},
            {"type": "image_url", "image_url": {"url": coded}},
        ]
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}
    elif path == "roboflow":
        image = {"type": "base64", "value": coded}
        path, body = "/yolo_world/infer", {"image": image, "text": ["helmet"], "confidence": 0.2}
    elif path == "predict":
        config = CONFIG.replace("helmet", some_text(dice)) if dice.random() < 0.4 else CONFIG
        path = "/predict"
        body = {"tasks": [{"data": {"image": coded}}], "label_config": config}
    for _ in range(dice.choice((0, 0, 0, 1, 2))):
        _spoil(body, dice)
    return path, json.dumps(body).encode()


def _spoil(body: object, dice: random.Random) -> None:
    """Put something odd somewhere into nested JSON."""
    at = body
    while isinstance(at, dict | list) and at:
        key = dice.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if dice.random() < 0.5 or not isinstance(at[key], dict | list):
            at[key] = copy.deepcopy(dice.choice((*ODD, some_text(dice))))
            return
        at = at[key]


def form_body(dice: random.Random) -> tuple[str, str, bytes]:
    """A path, a content type and a multipart form."""
    mark, task = "pgvision", dice.choice(TASKS)
    name = dice.choice(("a.png", "", "ü.png", "../a", "\udc80", "a" * 3000, '"; x="'))
    parts = [
        f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode(
            errors="surrogatepass"
        )
        for key, value in some_values(dice, task).items()
    ]
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    picture = dice.choice((PNG, PNG, PNG, PNG[: dice.randrange(len(PNG))], b"", b"hello"))
    parts.append(head.encode(errors="surrogatepass") + picture)
    dice.shuffle(parts)
    if dice.random() < 0.1:
        parts *= dice.choice((2, 30))
    body = b"".join(f"--{mark}\r\n".encode() + part + b"\r\n" for part in parts)
    kind = f"multipart/form-data; boundary={mark if dice.random() < 0.95 else some_text(dice)}"
    return f"/v1/{task}", kind, body + f"--{mark}--\r\n".encode()


def some_request(dice: random.Random) -> tuple[bytes, bool]:
    """Bytes to send, and whether they are a whole request, so that an answer must come."""
    method, kind = "POST", "application/json"
    if dice.random() < 0.5:
        path, body = json_body(dice)
    else:
        path, kind, body = form_body(dice)
    if dice.random() < 0.05:
        method, path = dice.choice(("GET", "PUT", "HEAD", "OPTIONS", "X")), dice.choice(PATHS)
    if dice.random() < 0.3:
        body = broken(body, dice)
    if dice.random() < 0.05:
        kind = dice.choice(
            ("", "text/plain", "multipart/form-data", "application/json; x=\xff", "/")
        )
    length = (
        len(body) if dice.random() < 0.97 else dice.choice((0, 10**12, "-1", "x", len(body) - 1))
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head += f"Content-Type: {kind}\r\n"
    head += f"Content-Length: {length}\r\n\r\n"
    request = head.encode(errors="replace") + body
    is_whole = length == len(body)
    if dice.random() < 0.15:
        request, is_whole = request[: dice.randrange(len(request))], False
    return request, is_whole


def status_of(port: int, request: bytes, *, wait: bool) -> int | None:
    """Send a request; return its status, or None if there is none."""
    with socket.create_connection(("127.0.0.1", port), 60) as wire:
        try:
            wire.sendall(request)
            if not wait:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            answer = b""
            while piece := wire.recv(65536):
                answer += piece
        except ConnectionError:
            return None
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    return int(found[1]) if found else None


@cache
def served() -> int:
    """Serve the drawings' checkpoint in this process; return the port."""
    app = create_app(ServeSettings(models=("tiny",), max_mb=1.0, deadline=60.0))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    threading.Thread(target=server.run, daemon=True).start()
    deadline = time.monotonic() + 120
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    port = int(server.servers[0].sockets[0].getsockname()[1])
    ready = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    while status_of(port, ready, wait=True) != 200:
        if time.monotonic() > deadline:
            raise TimeoutError("the service is not ready after 120 s")
        time.sleep(0.05)
    return port


def service(folder: Path, dice: random.Random) -> None:
    """Whatever is sent, a whole request gets an answer, and none blames the service for it."""
    port = served()
    request, is_whole = some_request(dice)
    status = status_of(port, request, wait=is_whole)
    if is_whole and status is None:
        raise AssertionError(f"no answer to {request[:300]!r}")
    if status == 403:
        raise AssertionError(f"not looked at, for its Host: {request[:300]!r}")
    if status is not None and status >= 500 and status not in (503, 504):
        raise AssertionError(f"{status} for {request[:600]!r}")
    if dice.random() < 0.001:
        memory = psutil.Process().memory_info().rss
        sys.stderr.write(f"memory {memory / 1e6:.0f} MB\n")
