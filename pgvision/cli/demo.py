"""`make demo`: detection on images and a video that are not in the training data."""

import shutil
from pathlib import Path

import typer

SAMPLES = {"photograph.jpg": "cyclist", "site-1.jpg": "site-01", "site-2.jpg": "site-02"}
NUM_FRAMES = 36
FPS = 12.0
FRAME_HW = (360, 480)


def demo(*, out: Path = Path("demo")) -> None:
    """Find helmets and people in a photograph, two drawings and a video.

    Args:
        out: Where everything goes; default: demo.
    """
    from pgvision import Answerer, Detector, samples
    from pgvision.cli.console import end, say
    from pgvision.cli.outputs import BoxOutput
    from pgvision.cli.runs import choose_outputs, run_outputs

    # 1. Copy the sample images, and make a short video.
    out.mkdir(parents=True, exist_ok=True)
    pictures = [str(out / name) for name in SAMPLES]
    for picture, sample in zip(pictures, SAMPLES.values(), strict=True):
        shutil.copyfile(samples.path(sample), picture)
    video = _write_video(out / "site.mp4")
    sources = [*pictures, str(video)]
    # 2. Detect.
    output = BoxOutput(out=out, coco=out / "coco.json", overwrite=True)
    summary = run_outputs(
        Detector(["helmet", "person"], unknown="ask").stream(sources),
        choose_outputs(output),
        len(pictures) + NUM_FRAMES,
    )
    # 3. Ask a question.
    question = "how many workers wear a helmet?"
    answer = Answerer()(pictures[1], question).text
    say(f"{pictures[1]}: {question} {answer}")
    typer.echo(_where_to_look(out))
    end(summary.exit_code)


def _write_video(path: Path) -> Path:
    """Write a video of a camera that moves across a sample image."""
    from pgvision import samples
    from pgvision.images import VideoWriter

    image = samples.load("site-03")
    height, width = FRAME_HW
    with VideoWriter(path, FPS, FRAME_HW) as video:
        for step in range(NUM_FRAMES):
            share = step / (NUM_FRAMES - 1)
            top, left = (int(share * (a - b)) for a, b in zip(image.shape, FRAME_HW, strict=False))
            video.write(image[top : top + height, left : left + width])
    return path


def _where_to_look(out: Path) -> str:
    # After `make setup` the command is in .venv/bin, and rarely on the path.
    command = "pgvision" if shutil.which("pgvision") else ".venv/bin/pgvision"
    return f"""
In {out}/: photograph.overlay.jpg, site-1.overlay.jpg, site-2.overlay.jpg, site.overlay.mp4;
coco.json (boxes with scores), results.jsonl (every field of each answer).

On a photograph of your own (the bundled checkpoint is weak on small objects):
  {command} detect helmet your-photo.jpg --out found
With Google's weights (accept the terms on their page, then `hf auth login`), add:
  --model google/paligemma2-3b-mix-448
{command} --help has the rest; {command} doctor checks this machine."""
