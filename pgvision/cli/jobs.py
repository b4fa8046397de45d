"""One loop for every task: results in, outputs written, progress shown, a summary at the end."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pgvision.cli.console import Meter, say
from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED
from pgvision.cli.inputs import as_frames, count_pictures, nothing_there
from pgvision.cli.options import BoxOptions, RunOptions
from pgvision.cli.outputs import (
    JsonLinesFile,
    Lines,
    Outcome,
    Output,
    Pictures,
    draw_result,
)
from pgvision.cli.run_folders import RESULTS, require_writable, run_folder
from pgvision.errors import SourceError
from pgvision.images import Frame, FrameFailure, iter_frames
from pgvision.results import Failure

_MOST_FAILURES_NAMED = 20


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        num_done: Pictures answered.
        num_failed: Pictures that could not be read or answered.
        interrupted: Whether the user stopped it.
    """

    num_done: int = 0
    num_failed: int = 0
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 1 some inputs failed, 130 stopped by the user."""
        if self.interrupted:
            return INTERRUPTED
        return FAILED if self.num_failed else DONE


def run_task(
    stream: Callable[[str | int | list[str]], Iterable[Outcome]], options: RunOptions
) -> int:
    """Answer all sources and write each result as it comes.

    Args:
        stream: Loads the model and gives results; called once all else is in order, and not where
            there is nothing to answer.
        options: What the user asked for.

    Returns:
        As `run_job`.
    """
    outputs = choose_outputs(options)
    if nothing_there(options.sources, recursive=options.recursive):
        # The same failures as from the task, without waiting for a model.
        frames = iter_frames(as_frames(options.sources), **options.for_stream)
        return run_job((_as_failure(each) for each in frames), options, outputs)
    return run_job(stream(as_frames(options.sources)), options, outputs)


def run_job(outcomes: Iterable[Outcome], options: RunOptions, outputs: Sequence[Output]) -> int:
    """Write each result as it comes.

    Args:
        outcomes: A lazy stream of results and failures.
        options: What the user asked for.
        outputs: Where results go.

    Returns:
        The exit code: 0 if all went well, 1 if some pictures failed, 130 after Ctrl-C.
    """
    summary = Summary()
    total = count_pictures(options.sources, recursive=options.recursive, stride=options.stride)
    with ExitStack() as stack:
        outputs = [stack.enter_context(output) for output in outputs]
        meter = stack.enter_context(Meter("pictures", total))
        try:
            for outcome in outcomes:
                _take(outcome, outputs, summary)
                meter.advance()
        except KeyboardInterrupt:
            # What was done is kept: a live camera has no other end.
            summary.interrupted = True
    _report(summary, meter)
    return summary.exit_code


def choose_outputs(options: RunOptions) -> list[Output]:
    """Choose where results go, before the model is loaded.

    Args:
        options: What the user asked for.

    Returns:
        The outputs, not yet opened.

    Raises:
        OptionError: If one of the places cannot be written.
        DataError: If the file of COCO ids is none.
    """
    outputs: list[Output] = [Lines(as_json=options.json_lines)]
    if isinstance(options, BoxOptions) and options.coco is not None:
        from pgvision.cli.coco_file import CocoFile

        require_writable(options.coco.parent, "--coco")
        outputs.append(CocoFile(options.coco, ids=options.coco_ids))
    if options.out is not None or options.save_overlay:
        from pgvision.cli.videos import Videos

        folder = run_folder(options.out or Path("found"), overwrite=options.overwrite)
        color_by = options.color_by if isinstance(options, BoxOptions) else None
        draw = partial(draw_result, color_by=color_by)
        outputs.append(JsonLinesFile(folder / RESULTS))
        outputs.append(Pictures(folder, draw))
        outputs.append(Videos(folder, draw, stride=options.stride))
    return outputs


def _take(outcome: Outcome, outputs: Sequence[Output], summary: Summary) -> None:
    if isinstance(outcome, Failure):
        summary.num_failed += 1
        if summary.num_failed <= _MOST_FAILURES_NAMED:
            say(f"failed: {_named(outcome)}", style="red")
    else:
        summary.num_done += 1
    for output in outputs:
        output.write(outcome)


def _as_failure(frame: Frame | FrameFailure) -> Failure:
    if isinstance(frame, Frame):
        raise SourceError(f"{frame.source}: appeared only now; run the command again")
    return Failure(source=frame.source, index=frame.index, error=frame.error)


def _named(failure: Failure) -> str:
    message = str(failure.error)
    return message if failure.source in message else f"{failure.source}: {message}"


def _report(summary: Summary, meter: Meter) -> None:
    seconds = meter.seconds
    line = f"{summary.num_done} done, {summary.num_failed} failed in {seconds:.1f} s"
    if summary.num_done:
        line += f" ({summary.num_done / max(seconds, 1e-9):.1f}/s)"
    if summary.interrupted:
        line += ", stopped by the user"
    if summary.num_failed > _MOST_FAILURES_NAMED:
        line += f"; the first {_MOST_FAILURES_NAMED} failures are named above"
    say(line, style="bold")
