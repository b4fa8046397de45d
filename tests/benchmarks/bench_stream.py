"""Where the time of `Detector.stream` goes on a 720p video; memory; two tasks on one picture."""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pgvision import Captioner, Detector
from pgvision.images import Frame, iter_frames
from pgvision.runtime import Engine, load
from recipes.scenes import render_scene, write_scene_video

IMAGE_HW = (720, 1280)
RENDERED = 100  # the video's length; longer runs read it again


def rss_mb() -> float:
    """Resident memory of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def read_seconds(path: Path) -> float:
    """Seconds a frame to read the video alone, without reading ahead."""
    start = time.perf_counter()
    count = sum(1 for _ in iter_frames(path, prefetch=0))
    return (time.perf_counter() - start) / count


def looped(path: Path, num_frames: int) -> Iterator[Frame]:
    """Read the video again and again."""
    count = 0
    while count < num_frames:
        for frame in iter_frames(path):
            if count == num_frames:
                return
            count += 1
            yield frame


def show_speed(path: Path, num_frames: int, batch_size: int) -> None:
    """Stream, draw each frame, and say which part took which share."""
    detector, spent = Detector("helmet", model="tiny", batch_size=batch_size), Counter()
    detector(np.zeros((*IMAGE_HW, 3), np.uint8))  # warm
    num_objects = 0
    start = time.perf_counter()
    for result in detector.stream(path):
        spent.update(result.timings)
        begun = time.perf_counter()
        result.plot()
        spent["draw"] += time.perf_counter() - begun
        num_objects += len(result)
        if result.frame_index + 1 == num_frames:
            break
    total = time.perf_counter() - start
    say(f"stream, batch {batch_size}: {num_frames / total:.2f} frames/s, {num_objects} objects")
    rest = total - sum(spent.values())
    for name, seconds in [*spent.items(), ("waiting for frames and the rest", rest)]:
        say(f"  {name:32s} {1e3 * seconds / num_frames:8.2f} ms/frame {seconds / total:6.1%}")
    say(f"  reading alone, in its own thread  {1e3 * read_seconds(path):7.2f} ms/frame")


def show_memory(path: Path, num_frames: int) -> None:
    """Say the resident memory at frame 100 and at the last frame."""
    detector = Detector("helmet", model="tiny")
    seen: dict[int, float] = {}
    for number, _ in enumerate(detector.stream(looped(path, num_frames)), start=1):
        if number in (min(100, num_frames), num_frames):
            seen[number] = rss_mb()
    marks = ", ".join(f"frame {number}: {size:.0f} MB" for number, size in seen.items())
    say(f"memory (resident): {marks}")


def show_two_tasks(repeats: int) -> None:
    """Time two tasks on one picture against two calls that share nothing, in turns."""
    engine = load("tiny")
    detector, captioner = Detector("helmet", generator=engine), Captioner(generator=engine)
    shared, apart = [], []
    for number in range(repeats):
        image = render_scene(40_000_000 + number, image_hw=IMAGE_HW).image
        shared.append(two_calls(engine, detector, captioner, image, forget=False))
        apart.append(two_calls(engine, detector, captioner, image, forget=True))
    one, two = statistics.median(shared), statistics.median(apart)
    say(
        f"two tasks on one picture: {1e3 * one:.1f} ms, without the shared picture "
        f"{1e3 * two:.1f} ms, ratio {two / one:.3f} (medians of {repeats}, interleaved)"
    )


def two_calls(
    engine: Engine, detector: Detector, captioner: Captioner, image: np.ndarray, *, forget: bool
) -> float:
    """Detect and caption; ``forget`` makes the second call encode the picture again."""
    engine.forget_images()
    start = time.perf_counter()
    detector(image)
    if forget:
        engine.forget_images()
    captioner(image)
    return time.perf_counter() - start


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5000, help="of the memory run")
    parser.add_argument("--speed-frames", type=int, default=RENDERED)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    say(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        count = min(RENDERED, max(options.frames, options.speed_frames))
        path = write_scene_video(
            Path(folder) / "site.mp4", 40_000_000, num_frames=count, image_hw=IMAGE_HW
        )
        show_speed(path, min(count, options.speed_frames), options.batch_size)
        show_two_tasks(options.repeats)
        show_memory(path, options.frames)


if __name__ == "__main__":
    main()
