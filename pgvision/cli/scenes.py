"""`pgvision scenes`: rendered construction sites, with everything known about them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from pgvision.cli.options import OUTPUT_PANEL

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object per picture and video; progress stays on stderr.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


def scenes(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.", show_default=False)
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures to draw.")] = 100,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            help="Of the first picture; the others follow one by one. The carried checkpoint was "
            "trained on seeds below 10,000,000; take larger ones to test it.",
        ),
    ] = 20_000_000,
    height: Annotated[int, typer.Option(min=64, max=4096, help="In pixels.")] = 480,
    width: Annotated[int, typer.Option(min=64, max=4096, help="In pixels.")] = 640,
    videos: Annotated[
        int, typer.Option(min=0, help="Short videos to draw too, every other with a moving camera.")
    ] = 0,
    codec: Annotated[
        str | None,
        typer.Option(
            help="Mask codec ('tiny', 'google' or a file): write 'segment' examples too.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw construction sites: images/, instances.json (COCO) and examples.jsonl (every task).

    [bold]Examples[/bold]

    pgvision scenes --count 500 --seed 20000000 --out heldout
    pgvision scenes --count 20 --videos 2 --codec tiny --out sites
    pgvision scenes --count 5 --out sites --json | jq -r .source
    pgvision eval --data heldout/instances.json --out report
    """
    from pgvision.cli.console import say

    _draw(out, count, seed, (height, width), codec)
    if as_json:
        # Only now: until all are drawn the folder stands aside, and no path in it would hold.
        for line in _pictures(out, seed):
            _print(line)
    for line in _write_videos(out / "videos", videos, seed, (height, width)):
        say(f"wrote {line['source']}")
        if as_json:
            _print(line)


def _draw(out: Path, count: int, seed: int, image_hw: tuple[int, int], codec: str | None) -> None:
    from pgvision.cli.console import Meter, say
    from pgvision.scenes.export import export_scenes

    encoder = None
    if codec is not None:
        from vqvae import MaskCodec

        encoder = MaskCodec.load(codec)
    with Meter("pictures", count) as meter:
        export_scenes(
            out,
            count=count,
            seed=seed,
            image_hw=image_hw,
            codec=encoder,
            progress=lambda _: meter.advance(),
        )
    say(f"wrote {count} pictures to {out}/ ({meter.rate:.1f}/s)")


def _print(line: dict[str, object]) -> None:
    typer.echo(json.dumps(line, ensure_ascii=False, allow_nan=False))


def _pictures(out: Path, seed: int) -> Iterator[dict[str, object]]:
    """Yield what is known of each picture, as it was written."""
    document = json.loads((out / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in document["categories"]}
    labels: dict[int, list[str]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        labels[annotation["image_id"]].append(names[annotation["category_id"]])
    for number, image in enumerate(document["images"]):
        yield {
            "type": "Scene",
            "source": str(out / image["file_name"]),
            "seed": seed + number,
            "image_id": image["id"],
            "image_hw": [image["height"], image["width"]],
            "labels": labels[image["id"]],
        }


def _write_videos(
    folder: Path, count: int, seed: int, image_hw: tuple[int, int]
) -> Iterator[dict[str, object]]:
    """Draw videos, and yield what is known of each once it is there."""
    from pgvision.scenes import write_scene_video

    for number in range(count):
        camera: Literal["static", "moving"] = "moving" if number % 2 else "static"
        path = folder / f"{seed + number:08d}-{camera}.mp4"
        folder.mkdir(exist_ok=True)
        write_scene_video(path, seed + number, image_hw=image_hw, camera=camera)
        yield {
            "type": "SceneVideo",
            "source": str(path),
            "seed": seed + number,
            "image_hw": list(image_hw),
            "camera": camera,
        }
