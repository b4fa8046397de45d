"""Requests a second and waiting times of `pgvision serve`, against the detector in a loop.

    python tests/benchmarks/bench_serve.py --seconds 60 --clients 1 8 32 200
    python tests/benchmarks/bench_serve.py --soak 10 --clients 32

The service is a process of its own. Every picture comes once, so that none is known by its bytes.
Clients that are answered 429 wait as Retry-After says, and ask again. ``--soak`` mixes all tasks
and one hostile request in four (cut, hung up, a bomb, no picture, wrong words), and gives the
service's memory each minute and its slope over the last five.
"""

import argparse
import asyncio
import json
import os
import random
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from itertools import count
from urllib.request import urlopen

import cv2
import numpy as np

from pgvision import Detector
from pgvision.images import decode_image
from recipes.scenes import render_scene

NUM_SCENES = 40
BOUNDARY = "pgvision"


class Pictures:
    """JPEGs of rendered sites, shifted so that no two are alike; made before they are needed."""

    def __init__(self):
        self.scenes = [render_scene(40_000_000 + seed).image for seed in range(NUM_SCENES)]
        self.number = count()
        self.ready = []

    def make(self, how_many):
        while len(self.ready) < how_many:
            shift, which = divmod(next(self.number), NUM_SCENES)
            moved = np.roll(self.scenes[which], shift * 3, axis=1)
            self.ready.append(bytes(cv2.imencode(".jpg", moved)[1]))

    def take(self):
        if not self.ready:
            self.make(1)
        return self.ready.pop()


def loop(pictures, seconds, model):
    detector = Detector("helmet", model=model)
    detector(decode_image(pictures.take(), "warm up"))
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        detector(decode_image(pictures.take(), "picture"))
        done += 1
    return done / spent


def body_of(jpeg, fields):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    texts = "".join(f'{head}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    file = f'{head}image"; filename="a.jpg"\r\n\r\n'
    return f"{texts}{file}".encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()


def request_of(jpeg, fields, task="detect"):
    body = body_of(jpeg, fields)
    head = (
        f"POST /v1/{task} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(reader, writer, request):
    """Send one request on a connection that stays open; return status and seconds to wait."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
    wait = re.search(r"retry-after: (\d+)", head)
    return int(head.split()[1]), int(wait[1]) if wait else 0


async def client(port, pictures, until, statuses, waited):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        start = time.perf_counter()
        status, pause = await ask(
            reader, writer, request_of(pictures.take(), {"classes": "helmet"})
        )
        statuses[status] += 1
        if status == 200:
            waited.append(time.perf_counter() - start)
        if pause:  # the service closes connections that are idle for five seconds
            writer.close()
            await asyncio.sleep(pause)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def level(port, pictures, clients, seconds):
    statuses, waited = Counter(), []
    before, start = metrics(port), time.perf_counter()
    until = start + seconds
    callers = [client(port, pictures, until, statuses, waited) for _ in range(clients)]
    await asyncio.gather(*callers)
    spent, after = time.perf_counter() - start, metrics(port)
    rows = after["rows_sum"] - before["rows_sum"]
    p50, p95, p99 = (round(1e3 * part) for part in np.percentile(waited, [50, 95, 99]))
    return {
        "clients": clients,
        "requests/s": round(len(waited) / spent, 2),
        **{"p50 ms": p50, "p95 ms": p95, "p99 ms": p99},
        "statuses": dict(statuses),
        "prompts together": round(rows / max(after["rows_count"] - before["rows_count"], 1), 1),
        "memory MB": [round(each["memory"] / 1e6) for each in (before, after)],
    }


QUESTIONS = (
    ("detect", {"classes": "helmet"}),
    ("detect", {"classes": "helmet; head; cone; vest"}),
    ("segment", {"classes": "helmet", "masks": "polygons"}),
    ("caption", {}),
    ("ask", {"question": "how many workers wear a helmet?"}),
    ("read", {}),
)


def bomb():
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        chunks += struct.pack(">I", len(data)) + kind + data + crc
    return chunks


def hostile(jpeg, dice):
    """Return a request that cannot be answered, and how much of it is sent before hanging up."""
    kind = dice.choice(("cut", "gone", "half", "bomb", "empty", "class", "model", "text"))
    fields = {"classes": "zebra" if kind == "class" else "helmet"}
    fields |= {"model": "huge"} if kind == "model" else {}
    pictures = {"half": jpeg[: len(jpeg) // 2], "bomb": bomb(), "empty": b"", "text": b"hello" * 9}
    request = request_of(pictures.get(kind, jpeg), fields)
    sent = {"cut": dice.randrange(len(request)), "gone": len(request)}
    return request, sent.get(kind)


async def soaking(port, pictures, until, statuses, dice):
    while time.perf_counter() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pause = 0
        for _ in range(dice.randrange(1, 20)):
            jpeg = pictures.take()
            task, fields = dice.choice(QUESTIONS)
            request, sent = request_of(jpeg, fields, task), None
            if dice.random() < 0.25:
                request, sent = hostile(jpeg, dice)
            if sent is not None:
                writer.write(request[:sent])
                await asyncio.sleep(dice.random())
                statuses["hung up"] += 1
                break
            status, pause = await ask(reader, writer, request)
            statuses[status] += 1
            await asyncio.sleep(pause)
        writer.close()


async def soak(port, pictures, clients, minutes):
    statuses, start = Counter(), time.perf_counter()
    until = start + 60 * minutes
    callers = [
        asyncio.create_task(soaking(port, pictures, until, statuses, random.Random(number)))
        for number in range(clients)
    ]
    seen = []
    while not all(caller.done() for caller in callers):
        at = (time.perf_counter() - start) / 60
        seen.append((at, (await asyncio.to_thread(metrics, port))["memory"] / 1e6))
        if len(seen) % 12 == 1:
            say = {
                "minute": round(at, 1),
                "memory MB": round(seen[-1][1]),
                "load": os.getloadavg()[0],
            }
            print(json.dumps(say | {"statuses": dict(statuses)}), flush=True)
        await asyncio.sleep(5)
    await asyncio.gather(*callers)
    late = np.array([one for one in seen if one[0] >= minutes - 5])
    return {
        "clients": clients,
        "minutes": minutes,
        "memory MB, start, most, end": [
            round(seen[0][1]),
            round(max(size for _, size in seen)),
            round(seen[-1][1]),
        ],
        "slope of the last 5 minutes, MB/min": round(float(np.polyfit(*late.T, 1)[0]), 2),
        "statuses": dict(statuses),
    }


def metrics(port):
    text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    names = {
        "rows_sum": r"pgvision_rows_together_sum\S*",
        "rows_count": r"pgvision_rows_together_count\S*",
        "memory": "process_resident_memory_bytes",
    }
    return {
        key: float((re.search(rf"^{name} (\S+)$", text, re.M) or [0, 0])[1])
        for key, name in names.items()
    }


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 200])
    options.add_argument("--model", default="tiny")
    options.add_argument("--soak", type=float, metavar="MINUTES")
    options = options.parse_args()
    pictures, alone = Pictures(), 0.0
    if options.soak is None:
        pictures.make(int(40 * options.seconds))
        alone = loop(pictures, options.seconds, options.model)
        print(json.dumps({"loop, pictures/s": round(alone, 2)}), flush=True)
    words = [sys.executable, "-m", "pgvision", "serve", "--port", "0"]
    with subprocess.Popen(
        [*words, "--model", options.model], stderr=subprocess.PIPE, text=True
    ) as service:
        port = int(next(re.search(r":(\d+) \(", line)[1] for line in service.stderr if ":" in line))
        # Its log must not fill the pipe.
        threading.Thread(target=service.stderr.read, daemon=True).start()
        try:
            asyncio.run(levels(port, pictures, options, alone))
        finally:
            service.terminate()


async def levels(port, pictures, options, alone):
    while not is_ready(port):
        await asyncio.sleep(0.2)
    for clients in options.clients:
        if options.soak is not None:
            print(json.dumps(await soak(port, pictures, clients, options.soak)), flush=True)
            continue
        pictures.make(int(60 * options.seconds))
        found = await level(port, pictures, clients, options.seconds)
        found["against the loop"] = round(found["requests/s"] / alone, 2)
        print(json.dumps(found), flush=True)


def is_ready(port):
    try:
        return urlopen(f"http://127.0.0.1:{port}/readyz").status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
