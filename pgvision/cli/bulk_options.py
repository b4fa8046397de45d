"""The options of bulk jobs, which every task takes."""

from pathlib import Path
from typing import Annotated

import typer

BULK_PANEL = "Bulk jobs"

Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="A bulk job: every answer goes to a journal, and a run that was stopped goes on. "
        "The --coco file, and results.jsonl in --out, are written at the end.",
        rich_help_panel=BULK_PANEL,
    ),
]
JournalFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Where the journal is kept.",
        show_default="beside the file at the end",
        rich_help_panel=BULK_PANEL,
    ),
]
ShardText = Annotated[
    str | None,
    typer.Option(
        metavar="3/16",
        help="Take one of several parts; 'pgvision merge' makes one file of their journals.",
        rich_help_panel=BULK_PANEL,
    ),
]
RetryUnread = Annotated[
    bool,
    typer.Option(
        "--retry-unread",
        help="Read again what an earlier run could not read.",
        rich_help_panel=BULK_PANEL,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on a Ray cluster: 'auto', an address, or 'local' (needs 'pgvision\\[ray]').",
        rich_help_panel=BULK_PANEL,
    ),
]
RayActors = Annotated[
    int,
    typer.Option(
        "--ray-actors",
        min=1,
        help="Processes that hold the model; on machines with GPUs each takes one.",
        rich_help_panel=BULK_PANEL,
    ),
]
