"""`pgvision live` on a camera of 30 frames a second: rate, latency, drops, memory, reconnections.

    python tests/benchmarks/bench_live.py --minutes 10 --kills 3
    python tests/benchmarks/bench_live.py --minutes 10 --kills 3 --rtsp

The camera is a process of its own that really serves a rendered site over HTTP (MJPEG), or test
pictures over RTSP (H.264), and is killed and started again. `pgvision live` is another process,
started as users start it; what it says at its end is printed with what was seen from outside.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import psutil

from recipes.scenes import render_video

sys.path.insert(0, str(Path(__file__).parents[1] / "pgvision" / "images"))
from camera import camera, free_port
from mjpeg import serving

AWAY = 5.0  # seconds


def film(port, fps):
    """Be the camera: 48 rendered frames, there and back for ever."""
    frames = [scene.image for scene in render_video(40_000_000)]
    sent = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames + frames[::-1]]

    def send(handler):
        began = time.monotonic()
        for index in range(1_000_000):
            handler.send(sent[index % len(sent)])
            time.sleep(max(0.0, began + (index + 1) / fps - time.monotonic()))

    with serving(send, port=port) as address:
        print(address, flush=True)
        time.sleep(1e6)


def serve(port, script, fps, minutes, kills, is_up, stop):
    """Run the camera; kill it at even intervals, and bring it back after 5 s."""
    began = time.monotonic()
    for part in range(1, kills + 2):
        with camera(port, fps=fps, count=1_000_000, script=script):
            is_up.set()
            stop.wait(began + 60 * minutes * part / (kills + 1) - time.monotonic())
            if part > kills:
                stop.wait()
        stop.wait(AWAY)


def watch(address, options):
    words = [sys.executable, "-m", "pgvision", "live", options.phrase, "--source", address]
    words += ["--model", options.model, "--json", "--seconds", str(60 * options.minutes)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("phrase", nargs="?", default="helmet")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument("--fps", type=float, default=30.0)
    options.add_argument("--model", default="tiny")
    options.add_argument("--rtsp", action="store_true")
    options = options.parse_args()
    port, is_up, stop = free_port(), threading.Event(), threading.Event()
    scheme, script = (
        ("rtsp", "rtsp.py") if options.rtsp else ("http", str(Path(__file__).resolve()))
    )
    address = f"{scheme}://127.0.0.1:{port}/live"
    with ExitStack() as stack:
        told = (port, script, options.fps, options.minutes, options.kills, is_up, stop)
        filming = threading.Thread(target=serve, args=told)
        filming.start()
        stack.callback(filming.join)
        stack.callback(stop.set)
        is_up.wait()
        watching = stack.enter_context(watch(address, options))
        stack.callback(watching.kill)
        report(watching, options.minutes)


def report(watching, minutes):
    """Print memory every minute, and what the command says at its end."""
    process, began, seen = psutil.Process(watching.pid), time.monotonic(), []
    events, said = [], []
    readers = [
        threading.Thread(target=kept.extend, args=(pipe,), daemon=True)
        for kept, pipe in ((events, watching.stdout), (said, watching.stderr))
    ]
    for reader in readers:
        reader.start()
    while watching.poll() is None:
        at = (time.monotonic() - began) / 60
        seen.append((at, process.memory_info().rss / 1e6))
        if len(seen) % 12 == 1:
            line = {"minute": round(at, 1), "memory MB": round(seen[-1][1])}
            print(json.dumps(line | {"load": round(os.getloadavg()[0], 1)}), flush=True)
        time.sleep(5)
    for reader in readers:
        reader.join()
    late = np.array([one for one in seen if one[0] >= minutes / 2])
    slope = round(float(np.polyfit(*late.T, 1)[0]), 2) if len(late) > 2 else None
    print(json.dumps({"slope of the second half, MB/min": slope}))
    print(json.dumps({"reconnected": sum('"reconnected"' in event for event in events)}))
    print("".join(said))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].isdecimal():
        film(int(sys.argv[1]), float(sys.argv[2]))
    main()
