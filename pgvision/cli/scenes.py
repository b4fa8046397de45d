"""`pgvision scenes`: rendered construction sites, with everything known about them."""

from pathlib import Path
from typing import Annotated, Literal

import typer


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
) -> None:
    """Draw construction sites: images/, instances.json (COCO) and examples.jsonl (every task).

    [bold]Examples[/bold]

    pgvision scenes --count 500 --seed 20000000 --out heldout
    pgvision scenes --count 20 --videos 2 --codec tiny --out sites
    pgvision eval --data heldout/instances.json --out report
    """
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
            image_hw=(height, width),
            codec=encoder,
            progress=lambda _: meter.advance(),
        )
    say(f"wrote {count} pictures to {out}/ ({meter.rate:.1f}/s)")
    _write_videos(out / "videos", videos, seed, (height, width))


def _write_videos(folder: Path, count: int, seed: int, image_hw: tuple[int, int]) -> None:
    from pgvision.cli.console import say
    from pgvision.scenes import write_scene_video

    for number in range(count):
        camera: Literal["static", "moving"] = "moving" if number % 2 else "static"
        path = folder / f"{seed + number:08d}-{camera}.mp4"
        folder.mkdir(exist_ok=True)
        write_scene_video(path, seed + number, image_hw=image_hw, camera=camera)
        say(f"wrote {path}")
