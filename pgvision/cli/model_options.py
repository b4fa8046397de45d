"""Options of every command that loads a model: checkpoint, device, engine."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

import typer

MODEL_PANEL = "Model"
MODEL_HELP = (
    "A hub id, a folder, the bundled 'tiny' or 'small', or http://host:port of an "
    "engine that serves one (OpenAI's chat completions) \\[default: $PGVISION_MODEL, else small]"
)

EngineName = Literal["auto", "onnx", "torch"]
Quantize = Literal["int8", "int4"]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=MODEL_HELP,
        show_default=False,
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps; by default the best one.", rich_help_panel=MODEL_PANEL
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16; by default what suits the device.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Threads of the processor.",
        show_default="1 for small models",
        rich_help_panel=MODEL_PANEL,
    ),
]


class LoadKeywords(TypedDict):
    """What `pgvision.runtime.open_engine` takes."""

    model: str | None
    revision: str | None
    kind: str | None
    device: str | None
    dtype: str | None
    quantize: Quantize | None
    threads: int | None
    engine: EngineName | None


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What every command takes that loads a model.

    Attributes:
        model: Hub id, folder, ``"tiny"``, ``"small"`` or address; None means the default.
        revision: Branch, tag or commit of a hub id; None means its main branch.
        kind: Prompt format; None means the one of its card or name.
        device: Where to compute; None means the best there is.
        dtype: Of the weights; None means what suits the device.
        quantize: What the weights are rounded to; None means not at all.
        threads: Of the processor; None means what suits the model.
        backend: Library that runs the model; None means ONNX Runtime for small models on a CPU.
        unknown: Whether names, questions and images outside the model's training are refused.
    """

    model: Model = None
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Branch, tag or commit of a model on the hub.",
            show_default="main",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    kind: Annotated[
        str | None,
        typer.Option(
            help="Prompt format: pt, mix, ft, refcoco-seg or tiny.",
            show_default="that of its card or name",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            help="Round weights: less memory, slower on processors, other boxes "
            "(pip install '.[quant]').",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    threads: Threads = None
    backend: Annotated[
        EngineName | None,
        typer.Option(
            help="Library that runs the model.",
            show_default="onnx for small models on a CPU, else torch",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None

    unknown: Annotated[
        Literal["refuse", "ask"],
        typer.Option(
            help="Classes, questions and images that the model was not trained on: refuse them, "
            "or ask anyway.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = "refuse"

    @property
    def for_load(self) -> LoadKeywords:
        """The keywords of `pgvision.runtime.load`, and of every task."""
        return LoadKeywords(
            model=self.model,
            revision=self.revision,
            kind=self.kind,
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            threads=self.threads,
            engine=self.backend,
        )
