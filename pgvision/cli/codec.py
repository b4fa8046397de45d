"""`pgvision codec train` and `codec eval`: 64x64 masks to 16 codes and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

codec_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Masks = Annotated[
    list[str],
    typer.Option(
        "--masks",
        metavar="SOURCE",
        help="A data set with outlines, a folder of PNG masks, an .npz, or scenes:COUNT[:SEED]; "
        "may be given several times.",
        show_default=False,
    ),
]
DecoderOnly = Annotated[
    bool,
    typer.Option("--decoder-only", help="Train on the decoder of --start-from; its codes stay."),
]
StartFrom = Annotated[str | None, typer.Option(metavar="CODEC", help="'tiny', 'google' or a file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the state in --out.")]


@codec_app.command("train")
def train(
    *,
    masks: Masks,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="For the codec and the state of the run."),
    ] = Path("runs/codec"),
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 4000,
    batch_size: Annotated[int, typer.Option(min=1, help="Masks a batch.")] = 128,
    save_every: Annotated[int, typer.Option(min=1, help="Batches between states.")] = 200,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="For torch; 0 leaves its choice.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule.")] = 1.5e-3,
    decoder_only: DecoderOnly = False,
    start_from: StartFrom = None,
    resume: Resume = False,
) -> None:
    """Train a mask codec, or the decoder of one.

    [bold]Examples[/bold]

    pgvision codec train --masks instances_train.json --masks scenes:2000:0 --out runs/codec
    pgvision codec train --masks masks.npz --steps 8000 --resume
    pgvision codec train --masks masks.npz --decoder-only --start-from tiny --out runs/decoder
    """
    from pgvision.cli.console import say
    from pgvision.cli.mask_sources import read_masks
    from vqvae.training import TrainingSettings, train_codec

    held, weights = read_masks(masks)
    say(f"{len(held)} masks")
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        save_every=save_every,
        seed=seed,
        threads=threads,
        learning_rate=learning_rate,
        decoder_only=decoder_only,
    )
    path = train_codec(
        held, out, settings=settings, weights=weights, start_from=start_from, resume=resume
    )
    say(f"wrote {path}")


@codec_app.command("eval")
def evaluate_codec(
    *,
    masks: Masks,
    codec: Annotated[str, typer.Option("--codec", help="'tiny', 'google' or a file.")] = "tiny",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first n masks.")] = None,
    worst: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the worst cases into this picture."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a mask codec: mean IoU, boundary IoU, the distribution, codes in use.

    [bold]Examples[/bold]

    pgvision codec eval --masks scenes:100 --worst worst.png
    pgvision codec eval --masks instances_val.json --codec google --json
    """
    from pgvision.cli.codec_figures import measure_codec, save_worst_masks
    from pgvision.cli.console import say
    from pgvision.cli.mask_sources import read_masks
    from vqvae import MaskCodec

    held = read_masks(masks)[0][:limit]
    report = measure_codec(MaskCodec.load(codec), held)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        for name, value in report.to_dict().items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            typer.echo(f"{name:>18}  {shown}")
    if worst is not None:
        save_worst_masks(held, report, worst)
        say(f"wrote {worst}")
