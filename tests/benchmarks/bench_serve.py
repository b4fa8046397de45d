"""Requests a second and waiting times of `pgvision serve`, against the detector in a loop.

    python tests/benchmarks/bench_serve.py --seconds 60 --clients 1 8 32 200

The service is a process of its own. Every picture comes once, so that none is known by its bytes.
Clients that are answered 429 wait as Retry-After says, and ask again.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from urllib.request import urlopen

import cv2
import numpy as np

from pgvision import Detector
from pgvision.images import decode_image
from pgvision.scenes import render_scene

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


def body_of(jpeg):
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="classes"\r\n\r\nhelmet\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    )
    return parts.encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()


async def ask(reader, writer, jpeg):
    """Send one request on a connection that stays open; return status and seconds to wait."""
    body = body_of(jpeg)
    writer.write(
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n"
        + f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
    wait = re.search(r"retry-after: (\d+)", head)
    return int(head.split()[1]), int(wait[1]) if wait else 0


async def client(port, pictures, until, statuses, waited):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        start = time.perf_counter()
        status, pause = await ask(reader, writer, pictures.take())
        statuses[status] += 1
        if status == 200:
            waited.append(time.perf_counter() - start)
        await asyncio.sleep(pause)
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
    options = options.parse_args()
    pictures = Pictures()
    pictures.make(int(40 * options.seconds))
    alone = loop(pictures, options.seconds, options.model)
    print(json.dumps({"loop, pictures/s": round(alone, 2)}))
    words = [sys.executable, "-m", "pgvision.cli.app", "serve", "--port", "0"]
    with subprocess.Popen(
        [*words, "--model", options.model], stderr=subprocess.PIPE, text=True
    ) as service:
        port = int(next(re.search(r":(\d+) \(", line)[1] for line in service.stderr if ":" in line))
        # Its log must not fill the pipe.
        drained = asyncio.to_thread(service.stderr.read)
        try:
            asyncio.run(levels(port, pictures, options, alone, drained))
        finally:
            service.terminate()


async def levels(port, pictures, options, alone, drained):
    reading = asyncio.create_task(drained)
    while not is_ready(port):
        await asyncio.sleep(0.2)
    for clients in options.clients:
        pictures.make(int(60 * options.seconds))
        found = await level(port, pictures, clients, options.seconds)
        found["against the loop"] = round(found["requests/s"] / alone, 2)
        print(json.dumps(found), flush=True)
    reading.cancel()


def is_ready(port):
    try:
        return urlopen(f"http://127.0.0.1:{port}/readyz").status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
