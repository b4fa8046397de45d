"""The options that commands share, written once, so that they mean the same everywhere."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_type_hints

import typer

from pgvision.cli.bulk_options import JournalFile, Ray, RayActors, Resume, RetryUnread, ShardText
from pgvision.cli.model_options import MODEL_HELP, MODEL_PANEL, LoadKeywords, ModelOptions
from pgvision.errors import OptionError
from pgvision.images import OnError

_Options = TypeVar("_Options")

INPUT_PANEL = "Input"
OUTPUT_PANEL = "Output"

ImagesFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the images lie.", rich_help_panel=INPUT_PANEL),
]
Split = Annotated[str | None, typer.Option(help="Only this part.", rich_help_panel=INPUT_PANEL)]
Conf = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Keep objects of at least this score; 0 keeps all.",
        show_default="the thresholds of the model's card; all with --coco",
    ),
]

ColorBy = Literal["class", "track", "index"]
Drafts = Literal["off", "exact", "steady"]  # as `pgvision.runtime.Drafts`, which needs numpy


BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Prompts that go through the model together: more are faster and need more memory.",
        show_default="8, or 1 for a live source",
        rich_help_panel=MODEL_PANEL,
    ),
]
DraftsOption = Annotated[
    Drafts,
    typer.Option(
        help="Over video, guess each answer from the last: exact changes none, steady keeps "
        "boxes from trembling.",
        rich_help_panel=MODEL_PANEL,
    ),
]
ClassesPerPrompt = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Classes asked for in one prompt.",
        show_default="what suits the kind of checkpoint",
    ),
]


ExtraObjects = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Ask for n objects past the model's own stop, scored low: for recall.",
    ),
]


class TaskKeywords(LoadKeywords):
    """What every task takes that says how it is computed."""

    batch_size: int | None
    drafts: Drafts
    unknown: Literal["refuse", "ask"]


class ObjectKeywords(TypedDict):
    """What tasks that find objects take beside that."""

    conf: float | None
    nms: float | None
    max_objects: int | None
    classes_per_prompt: int | None
    extra_objects: int
    tile: int | Literal["auto"] | None
    calibrate: Path | None


class StreamKeywords(TypedDict):
    """What every ``stream`` takes that says how sources are read."""

    recursive: bool
    stride: int
    on_error: OnError


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """What every command takes that puts pictures through a model.

    Attributes:
        sources: Pictures, folders, globs, lists of paths, videos, camera numbers, addresses.
        model: As in `ModelOptions`; ``--engine URL`` says the same of an address.
        batch_size: Prompts that go through the model together; None means what suits the source.
        drafts: Whether the last frame of a video is the guess at the next.
        recursive: Whether folders are read with their subfolders.
        stride: Of a video, use each ``stride``-th frame.
        on_error: What happens to a picture that cannot be read.
        out: Folder for annotated pictures and videos and ``results.jsonl``.
        json_lines: Print one JSON object per picture on stdout.
        save_overlay: As ``out``, into the folder ``found``.
        overwrite: Replace an earlier run in ``out`` instead of counting up.
        resume: Keep a journal, and go on where an earlier run was stopped.
        journal: Where it is kept; None means beside the file that is written at the end.
        shard: "3/16": one of several parts, by the hash of each name.
        retry_unread: Read again what an earlier run could not read.
        ray: Address of a Ray cluster to run on; None means this process.
        ray_actors: Processes there that hold the model.
    """

    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders, globs, videos, lists (.txt, .jsonl, .parquet), .tar files, "
            "camera numbers, URLs (s3:// and others, too).",
            show_default=False,
        ),
    ]
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--engine",
            help=MODEL_HELP,
            show_default=False,
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    batch_size: BatchSize = None
    drafts: DraftsOption = "exact"
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive", "-r", help="Read folders with subfolders.", rich_help_panel=INPUT_PANEL
        ),
    ] = False
    stride: Annotated[
        int,
        typer.Option(min=1, help="Of a video, use each n-th frame.", rich_help_panel=INPUT_PANEL),
    ] = 1
    on_error: Annotated[
        OnError,
        typer.Option(
            help="A picture that cannot be read: note it and go on, skip it, or stop.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = "record"
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for annotated pictures and videos and results.jsonl; "
            "DIR2, DIR3, ... where an earlier run wrote into it.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object per picture; logs and progress stay on stderr.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
    save_overlay: Annotated[
        bool,
        typer.Option(
            "--save-overlay",
            help="The same as --out found. Videos keep their pace and their sound.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Write into --out even where an earlier run did, in place of its files.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
    resume: Resume = False
    journal: JournalFile = None
    shard: ShardText = None
    retry_unread: RetryUnread = False
    ray: Ray = None
    ray_actors: RayActors = 1

    @property
    def is_bulk(self) -> bool:
        """Whether the answers go to a journal."""
        return any((self.resume, self.retry_unread, self.shard, self.journal, self.ray))

    @property
    def for_model(self) -> TaskKeywords:
        """The keywords of a task."""
        return TaskKeywords(
            **self.for_load,
            batch_size=self.batch_size,
            drafts=self.drafts,
            unknown=self.unknown,
        )

    @property
    def for_stream(self) -> StreamKeywords:
        """The keywords of its ``stream``."""
        return StreamKeywords(recursive=self.recursive, stride=self.stride, on_error=self.on_error)


@dataclass(frozen=True, kw_only=True)
class BoxOptions(RunOptions):
    """What commands take beside `RunOptions` that find objects.

    Attributes:
        conf: Least score of an object that is kept; None: the thresholds of the card.
        nms: Overlap from which two objects of a class are one.
        max_objects: How many of a picture are kept, the best first.
        classes_per_prompt: How many classes are asked for at once; None: as the checkpoint likes.
        extra_objects: How many are asked for past the model's own stop.
        tile: Side in pixels of squares to look at besides the whole.
        calibrate: File with a map of scores.
        track: Number the objects of a video by track.
        color_by: What shares a colour in overlays; None: a track if there are some, else a class.
        coco: File to write all objects to, in COCO's form.
        coco_ids: COCO file to take image and category ids from.
    """

    conf: Conf = None
    nms: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Objects of one class that overlap more than this are one.",
            show_default="only between prompts and tiles",
        ),
    ] = None
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="Keep the n best of a picture.", show_default="all")
    ] = None
    classes_per_prompt: ClassesPerPrompt = None
    extra_objects: ExtraObjects = 0
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE|auto",
            help="Look at square tiles of this side in pixels too, for small objects in large "
            "images; 'auto' chooses the side.",
        ),
    ] = None
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Map scores by calibration.json of pgvision eval."),
    ] = None
    track: Annotated[
        bool,
        typer.Option("--track", help="Number objects by track (pip install 'pgvision\\[track]')."),
    ] = False
    color_by: Annotated[
        ColorBy | None,
        typer.Option(
            help="What shares a colour in overlays; 'index' tells overlapping objects apart.",
            show_default="track with --track, else class",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    coco: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a COCO file: images, categories, boxes and masks with scores.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    coco_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take image and category ids from this COCO file; --coco then holds the plain "
            "list of results that evaluators read.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None

    @property
    def for_objects(self) -> ObjectKeywords:
        """The keywords of a task that finds objects, beside `for_model`."""
        return ObjectKeywords(
            # A COCO file is for evaluators, who want every object.
            conf=0.0 if self.conf is None and self.coco else self.conf,
            nms=self.nms,
            max_objects=self.max_objects,
            classes_per_prompt=self.classes_per_prompt,
            extra_objects=self.extra_objects,
            tile=_tile(self.tile),
            calibrate=self.calibrate,
        )


def _tile(side: str | None) -> int | Literal["auto"] | None:
    if side is None or side == "auto":
        return side  # type: ignore[return-value]
    if not side.isdecimal():
        raise OptionError(f"--tile: expected a side in pixels or auto, got {side!r}")
    return int(side)


def takes(options: type[_Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take a dataclass of options as one argument called ``options``.

    On the command line each field is an argument or option of its own.

    Args:
        options: A dataclass whose fields are annotated for typer.

    Returns:
        A decorator for functions with a parameter ``options``.

    Example:
        >>> @takes(RunOptions)
        ... def command(*, phrase: str, options: RunOptions) -> None: ...
        >>> list(inspect.signature(command).parameters)[:3]
        ['phrase', 'model', 'revision']
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)
        names = [field.name for field in fields(options)]  # type: ignore[arg-type]

        @functools.wraps(command)
        def _flat(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in names}
            command(**values, options=options(**chosen))

        own = inspect.signature(command, eval_str=True).parameters
        spread = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(options, name),
                annotation=hints[name],
            )
            for name in names
        ]
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in own.values() if p.name != "options"]
        parameters = [*kept, *spread]
        _flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _flat.__annotations__ = {p.name: p.annotation for p in parameters}
        return _flat

    return decorate


def _default(options: type[Any], name: str) -> object:
    return getattr(options, name, inspect.Parameter.empty)


def split_phrases(text: str) -> list[str]:
    """Split what the user typed at semicolons: ``"helmet; head"`` asks for two classes.

    Returns:
        The phrases, without the space around them.

    Example:
        >>> split_phrases("helmet; head")
        ['helmet', 'head']
    """
    return [phrase.strip() for phrase in text.split(";")]
