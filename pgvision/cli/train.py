"""`pgvision train`: fine-tune a checkpoint on your own data. Its options are `TrainConfig`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pgvision.cli.console import DONE, INTERRUPTED, end, say
from pgvision.cli.options import Given, parse_renames
from pgvision.errors import OptionError
from pgvision.training.config import TASKS, DataSource, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Places:
    """Images and parts of a run with one data set.

    Attributes:
        images: Folder of the images.
        split: Train on this part; default: train.
        valid: Validate on another data set; default: valid, val or test of DATASET, else a tenth
            of it.
        valid_images: Image folder of that data set.
    """

    images: Path | None = None
    split: str | None = None
    valid: Path | None = None
    valid_images: Path | None = None


def train(
    datasets: list[str] | None = None,
    *,
    out: Path,
    config: Path | None = None,
    places: Places,
    settings: Annotated[dict[str, Any], Given(TrainConfig)],
    device: str | None = None,
    as_json: bool = False,
) -> None:
    """Fine-tune on your own data; ends in figures on images that it did not learn from.

    DIR then is a checkpoint: pgvision detect helmet site.jpg --model DIR. A stopped or killed run
    resumes with the same command.

    Examples:
    pgvision train helmets/ --minutes 10 --out runs/helmets
    pgvision train helmets/ --model google/paligemma2-3b-pt-448 --lora 8 --epochs 5 --out runs/pg2
    pgvision train --config runs/helmets/run.yaml --steps 2000 --out runs/longer
    pgvision train detect=helmets/ ask=questions.jsonl --task mix --out runs/both

    Args:
        datasets: COCO, YOLO, VOC, LabelMe or JSONL; a folder may contain train and valid. Of
            several, TASK=DATASET names what to learn from each.
        out: Folder for the checkpoint and, while it runs, its states; the same command resumes.
        config: Settings from a file, such as the run.yaml that each run writes; options win.
        places: Images and parts of the data set.
        settings: Fields of `TrainConfig` that were given.
        device: cpu, cuda, cuda:1, mps; by default the best one.
        as_json: Print the report as JSON.
    """
    from pgvision.training import train as run

    # 1. Read the data sets and settings.
    if "rename" in settings:
        settings["rename"] = parse_renames(settings["rename"])
    sources = data_sources(datasets or [], places, has_config=config is not None)
    # 2. Train, and print the figures.
    report = run(sources, out, config=config, device=device, **settings)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    elif report.finished:
        say(f"{report.folder}: weights of step {report.best_step} of {report.steps}")
        typer.echo(report.table())
    end(DONE if report.finished else INTERRUPTED)


def data_sources(
    texts: list[str], places: Places, *, has_config: bool = False
) -> list[DataSource] | None:
    """Return each data set with its task; None: those of the configuration file.

    Raises:
        OptionError: If there is none, or ``places`` are given without exactly one.
    """
    if not texts and not has_config:
        raise OptionError("DATASET: name a data set, or a --config that does")
    if len(texts) != 1 and places != Places():
        raise OptionError(
            "--images, --split, --valid, --valid-images are for one DATASET; with several, use "
            "folders with train and valid, or write them into the file of --config"
        )
    if not texts:  # the configuration file names them
        return None
    found = []
    for text in texts:
        # TASK=PATH gives a data set its own task.
        word, _, rest = text.partition("=")
        task: Any = word if rest and word in (*TASKS, "mix") else None  # DataSource refuses mix
        found.append(DataSource(data=Path(rest if task else text), task=task, **asdict(places)))
    return found
