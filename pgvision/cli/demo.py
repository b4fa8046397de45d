"""`make demo`: the main job on pictures and a video that training never saw."""

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

# Training takes seeds below 10,000,000, held-out figures from 20,000,000 on.
PICTURE_SEEDS = (30_000_006, 30_000_005)
VIDEO_SEED = 30_000_011
NUM_FRAMES = 36
PHOTOGRAPH = Path(__file__).with_name("photograph.jpg")  # CC BY 2.0; README, "Sources and licence"
FPS = 12.0


def demo(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")
    ] = Path("demo"),
) -> None:
    """Find helmets and people in a photograph, rendered pictures and a rendered video."""
    from pgvision import Answerer, Detector
    from pgvision.cli.console import say
    from pgvision.cli.exit_codes import end
    from pgvision.cli.jobs import choose_outputs, run_job
    from pgvision.cli.options import BoxOptions

    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    drawn, video = _render(out)
    say(f"drew {len(drawn)} pictures and a video of {NUM_FRAMES} frames")
    shutil.copyfile(PHOTOGRAPH, out / PHOTOGRAPH.name)
    pictures = [str(out / PHOTOGRAPH.name), *drawn]
    sources = [*pictures, str(video)]
    options = BoxOptions(sources=sources, out=out, coco=out / "coco.json", overwrite=True)
    failed = run_job(
        Detector(["helmet", "person"], conf=0.25).stream(sources),
        options,
        choose_outputs(options),
    )
    question = "how many workers wear a helmet?"
    answer = Answerer()(drawn[0], question).text
    say(f"{drawn[0]}: {question} {answer}")
    say(f"done in {time.monotonic() - start:.0f} s")
    typer.echo(_where_to_look(out))
    end(failed)


def _render(out: Path) -> tuple[list[str], Path]:
    import cv2

    from pgvision.scenes import render_scene, write_scene_video

    pictures = []
    for number, seed in enumerate(PICTURE_SEEDS, start=1):
        path = out / f"site-{number}.png"
        cv2.imwrite(str(path), render_scene(seed).image)
        pictures.append(str(path))
    video = write_scene_video(
        out / "site.mp4", VIDEO_SEED, num_frames=NUM_FRAMES, fps=FPS, camera="moving"
    )
    return pictures, video


def _where_to_look(out: Path) -> str:
    # After `make setup` the command is in .venv/bin, and rarely on the path.
    command = "pgvision" if shutil.which("pgvision") else ".venv/bin/pgvision"
    return f"""
Look at
  {out}/photograph.overlay.jpg                       what was found, with scores
  {out}/site-1.overlay.jpg, {out}/site-2.overlay.jpg   the same in drawings
  {out}/site.overlay.mp4                             and frame by frame
  {out}/coco.json                                    images, categories, boxes with scores
  {out}/results.jsonl                                all that is known of each answer

On a photograph of your own (the carried checkpoint is weak where objects are small):
  {command} detect helmet your-photo.jpg --out found

With Google's weights (accept the terms on their page, then `hf auth login`):
  {command} detect helmet your-photo.jpg --out found \\
      --model google/paligemma2-3b-mix-448

{command} --help has the rest; {command} doctor checks this machine."""
