"""Options of `pgvision live`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pgvision.cli.model_options import ModelOptions
from pgvision.cli.options import INPUT_PANEL, OUTPUT_PANEL, Conf, DraftsOption
from pgvision.tracking import Anchor


@dataclass(frozen=True, kw_only=True)
class LiveOptions(ModelOptions):
    """Options of `pgvision live`.

    Attributes:
        source: A camera number, an address, a video file.
        conf: Least score of an object.
        drafts: Whether the last frame's answer is the guess at the next.
        zone: Files of polygons.
        line: Lines, each ``[NAME=]x1,y1,x2,y2``.
        anchor: The point of a box that counts.
        grace: Seconds without a sight before an object has left.
        patience: Seconds that a lost source is tried again; None means for ever.
        realtime: Whether a file runs at its own pace.
        seconds: When to stop; None means with the source.
        events: File to append events to.
        post: Address to post events to.
        post_header: Headers of these posts.
        heartbeat: Seconds between heartbeat events; None: none.
        save: Annotated video.
        show: Whether to open a window.
        json_lines: Print events as JSON.
    """

    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="0|FILE|URL",
            help="A camera number, an address (rtsp, http, ...) or a video file.",
            show_default=False,
            rich_help_panel=INPUT_PANEL,
        ),
    ]
    conf: Conf = None
    drafts: DraftsOption = "exact"
    zone: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help='JSON: \\[\\[x, y], ...] or {"gate": \\[\\[x, y], ...]} in pixels, or LabelMe\'s.',
        ),
    ] = None
    line: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X1,Y1,X2,Y2",
            help="Count crossings: 'in' from the right to the left of the line, seen along it.",
        ),
    ] = None
    anchor: Annotated[
        Anchor,
        typer.Option(help="What of a box counts: its centre, or the middle of its lower edge."),
    ] = "center"
    grace: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds out of sight before an object has left a zone."),
    ] = 1.0
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds that a lost source is tried again.",
            show_default="for ever",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Let a file run at its own pace and drop frames, as a camera; else every frame "
            "is looked at.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = False
    seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop after this time.", rich_help_panel=INPUT_PANEL),
    ] = None
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append events as JSON lines: time, track, label, score, zone, dwell.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    post: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Post each event as JSON; tried again while the server is down, never waited for.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    post_header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME: VALUE",
            help="A header of these posts, such as 'Authorization: Bearer ...'; several times.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    heartbeat: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Seconds between 'heartbeat' events; the first comes at once.",
            show_default="none",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotated video (.mp4, .mkv, .avi), each frame at its own time.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    show: Annotated[
        bool,
        typer.Option("--show", help="Open a window; q or Esc ends.", rich_help_panel=OUTPUT_PANEL),
    ] = False
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="Print events as JSON.", rich_help_panel=OUTPUT_PANEL),
    ] = False
