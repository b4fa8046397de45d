"""`--resume`, the five tasks as jobs that go on where they were stopped; and `pgvision merge`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer

from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED, end
from pgvision.cli.options import BoxOptions, RunOptions
from pgvision.cli.run_folders import RESULTS, require_writable
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from pgvision.batch import Job, Outcome, TaskName

_MOST_FAILURES_NAMED = 20


class _Answered(Protocol):
    """A job, or several parts of one."""

    def write_coco(self, path: str | Path, *, ids: str | Path | None = None) -> int: ...
    def write_json_lines(self, path: str | Path) -> int: ...


def run_bulk(task: "TaskName", keywords: dict[str, Any], options: RunOptions) -> NoReturn:
    """Run a task as a job, and end the command.

    Args:
        task: Its name.
        keywords: What its class takes beside the model's options.
        options: What the user asked for.

    Raises:
        OptionError: If an option does not go with a job.
    """
    from pgvision.batch import Job, Recipe, Shard

    _require_fitting(options)
    for file in (_coco_of(options), options.out):
        if file is not None:
            require_writable(file.parent if file == _coco_of(options) else file, "--resume")
    job = Job(
        Recipe(task, {**options.for_model, **keywords}),
        options.sources,
        _journal_of(options),
        recursive=options.recursive,
        stride=options.stride,
        shard=None if options.shard is None else Shard.parse(options.shard),
        retry_unread=options.retry_unread,
    )
    stopped = _run(job, options) if options.ray is None else _run_on_ray(job, options)
    if not stopped and job.shard is None:
        json_lines = None if options.out is None else options.out / RESULTS
        ids = options.coco_ids if isinstance(options, BoxOptions) else None
        _assemble(job, _coco_of(options), ids, json_lines)
    end(INTERRUPTED if stopped else FAILED if job.num_unread() else DONE)


def _run(job: "Job", options: RunOptions) -> bool:
    """Ask for what is left; whether the user stopped it."""
    from pgvision.cli.console import Meter, say
    from pgvision.cli.outputs import Lines

    lines, failed, stopped = Lines(as_json=options.json_lines), 0, False
    total, left = len(job.items), job.num_left()
    if left < total:
        say(f"going on after {total - left} of {total} pictures and videos")
    with Meter("pictures", left) as meter, closing(_told(job)) as outcomes:  # type: ignore[type-var]
        try:
            for outcome in outcomes:
                if not outcome.ok:
                    failed += 1
                    if failed <= _MOST_FAILURES_NAMED:
                        say(f"failed: {outcome.to_dict()['message']}", style="red")
                lines.write(outcome)
                meter.advance()
        except KeyboardInterrupt:
            stopped = True
    done = f"{meter.done - failed} done, {failed} failed in {meter.seconds:.1f} s"
    if stopped:
        done += f", stopped by the user with {job.num_left()} left; the same command goes on"
    say(done, style="bold")
    return stopped


def _run_on_ray(job: "Job", options: RunOptions) -> bool:
    """Ask for what is left on a cluster; whether the user stopped it."""
    from pgvision.batch.ray import run_on_ray
    from pgvision.cli.console import Meter, say

    address = None if options.ray == "local" else options.ray
    with Meter("pictures", job.num_left()) as meter:
        counts = run_on_ray(job, address=address, num_actors=options.ray_actors)
        with closing(counts):  # type: ignore[type-var]
            try:
                for count in counts:
                    meter.advance(count - meter.done)
            except KeyboardInterrupt:
                return True
    say(f"{meter.done} answered in {meter.seconds:.1f} s", style="bold")
    return False


def _told(job: "Job") -> "Iterator[Outcome]":
    from pgvision.cli.console import say

    told = False
    with closing(job.stream()) as outcomes:  # type: ignore[type-var]
        while True:
            outcome = next(outcomes, None)
            for note in () if told else job.notes:
                say(note, style="yellow")
            told = True
            if outcome is None:
                return
            yield outcome


def _assemble(
    answered: _Answered, coco: Path | None, ids: Path | None, json_lines: Path | None
) -> None:
    from pgvision.cli.console import say

    if coco is not None:
        say(f"wrote {coco} ({answered.write_coco(coco, ids=ids)} images)")
    if json_lines is not None:
        say(f"wrote {json_lines} ({answered.write_json_lines(json_lines)} lines)")


def _coco_of(options: RunOptions) -> Path | None:
    return options.coco if isinstance(options, BoxOptions) else None


def _journal_of(options: RunOptions) -> Path:
    if options.journal is not None:
        return options.journal
    final = _coco_of(options) or (None if options.out is None else options.out / RESULTS)
    if final is None:
        files = "--coco FILE or --out DIR" if isinstance(options, BoxOptions) else "--out DIR"
        raise OptionError(f"--resume: expected a place for the answers; add {files}")
    part = "" if options.shard is None else "." + options.shard.replace("/", "-of-")
    return final.with_name(f"{final.name}{part}.journal")


def _require_fitting(options: RunOptions) -> None:
    for name, why in (
        ("save_overlay", "a job draws no overlays; draw them from the answers afterwards"),
        ("overwrite", "a job goes on in its own files; delete the journal to begin anew"),
        ("track", "tracks hang on all frames before, which a job that goes on has not seen"),
    ):
        if getattr(options, name, False):
            raise OptionError(f"--{name.replace('_', '-')}: does not go with --resume: {why}")
    if options.on_error != "record":
        raise OptionError("--on-error: a job records what cannot be read; leave it out")


def merge(
    *,
    journals: Annotated[
        list[Path],
        typer.Argument(metavar="JOURNAL", help="The journals of all parts.", show_default=False),
    ],
    coco: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one COCO file of all objects.")
    ] = None,
    coco_ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take image and category ids from this COCO file."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="Write all answers as JSONL.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print all answers, one JSON object a line.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what is there of a job that is not whole.")
    ] = False,
) -> None:
    """Make one file of the journals of a job that ran in parts (--shard 1/3, 2/3, 3/3).

    [bold]Examples[/bold]

    pgvision merge out.json.*.journal --coco out.json
    pgvision merge found/*.journal --jsonl all.jsonl --partial
    """
    from pgvision.batch import merge as merge_journals
    from pgvision.cli.console import say

    _require_files(journals, wanted=bool(coco or answers or json_lines))
    merged = merge_journals(journals, partial=partial)
    for line in merged.missing:
        say(line, style="yellow")
    _assemble(merged, coco, coco_ids, answers)
    for answer in merged.results() if json_lines else ():
        typer.echo(json.dumps(answer))
    end(FAILED if merged.missing or merged.num_unread() else DONE)


def _require_files(journals: Sequence[Path], *, wanted: bool) -> None:
    if not wanted:
        raise OptionError("merge: expected a place for it; add --coco FILE, --jsonl FILE or --json")
    for path in journals:
        if not path.is_file():
            raise OptionError(f"{path}: no such journal (looked from {Path.cwd()})")
