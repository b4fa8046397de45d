"""A camera in a process of its own, which can be killed: ``python camera.py PORT FPS COUNT``.

It speaks HTTP; rtsp.py is one that speaks RTSP.

Its pictures tell their number in black and white: 16 squares, the lowest bit first.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from mjpeg import serving

BITS, SIDE = 16, 16


def picture(number: int) -> np.ndarray:
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), SIDE)
    return np.repeat(np.tile(row, (3 * SIDE, 1))[..., None], 3, axis=2)


def number_in(bgr: np.ndarray) -> int:
    row = bgr[SIDE, SIDE // 2 :: SIDE, 0] > 127
    return int(sum(1 << bit for bit, is_set in enumerate(row) if is_set))


def film(handler: object, fps: float, count: int) -> None:
    began = time.monotonic()
    for index in range(count):
        handler.send(cv2.imencode(".jpg", picture(index))[1].tobytes())
        time.sleep(max(0.0, began + (index + 1) / fps - time.monotonic()))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def camera(
    port: int, *, fps: float = 30.0, count: int = 60_000, script: str = "camera.py"
) -> Iterator[subprocess.Popen]:
    """Run the camera until the end of the block; ``kill()`` it before."""
    file = Path(__file__).parent / script
    words = [sys.executable, str(file), str(port), str(fps), str(count)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    port, fps, count = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    with serving(lambda handler: film(handler, fps, count), port=port) as address:
        print(address, flush=True)  # noqa: T201
        time.sleep(3600)
