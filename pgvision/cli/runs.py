"""One loop for every task: results in, outputs written, progress shown, a summary at the end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pgvision.batch import KnownIds
from pgvision.cli.console import Meter, pace, say
from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED
from pgvision.cli.inputs import as_frames, count_images, nothing_there
from pgvision.cli.outputs import (
    BoxOutput,
    Outcome,
    Output,
    OverlayNames,
    Writer,
    coco_file,
    draw_result,
    images,
    json_lines_file,
    printed,
)
from pgvision.cli.run_folders import RESULTS, require_writable, run_folder
from pgvision.cli.videos import videos
from pgvision.errors import OptionError, SourceError
from pgvision.images import Frame, FrameFailure, OnError, iter_frames
from pgvision.results import Failure
from pgvision.tasks.options import ReadOptions

_MOST_FAILURES_NAMED: Final = 20


@dataclass
class Summary:
    """Counts of a run.

    Attributes:
        num_done: Images and frames answered.
        num_failed: Images and frames that could not be read or answered.
        has_video: Whether a frame had a time.
        interrupted: Whether the user stopped it.
    """

    num_done: int = 0
    num_failed: int = 0
    has_video: bool = False
    interrupted: bool = False

    def take(self, outcome: Outcome) -> None:
        """Count an outcome; report a failure."""
        if not isinstance(outcome, Failure):
            self.num_done += 1
            self.has_video = self.has_video or outcome.time is not None
            return
        self.num_failed += 1
        if self.num_failed <= _MOST_FAILURES_NAMED:
            message = str(outcome.error)
            named = message if outcome.source in message else f"{outcome.source}: {message}"
            say(f"failed: {named}", style="red")

    @property
    def exit_code(self) -> int:
        """0 done, 1 some inputs failed, 130 stopped by the user."""
        if self.interrupted:
            return INTERRUPTED
        return FAILED if self.num_failed else DONE

    def report(self, seconds: float) -> None:
        """Print the counts and the pace."""
        line = f"{self.num_done} done, {self.num_failed} failed in {seconds:.1f} s"
        if self.num_done:
            line += f" ({pace(self.num_done, seconds)})"
        if self.interrupted:
            line += ", stopped by the user"
        if self.num_failed > _MOST_FAILURES_NAMED:
            line += f"; the first {_MOST_FAILURES_NAMED} failures are listed above"
        say(line, style="bold")


def choose_outputs(options: Output, *, stride: int = 1) -> list[Writer]:
    """Choose where results go, before the model is loaded.

    Args:
        options: What the user asked for.
        stride: Of videos, each ``stride``-th frame comes.

    Returns:
        Context managers that return a function for each outcome.

    Raises:
        OptionError: If a place cannot be written, or an option needs another one.
        DataError: If the file of COCO ids is not a COCO file.
    """
    # 1. Refuse options without effect.
    boxes = options if isinstance(options, BoxOutput) else BoxOutput()
    for option, given, needed in (
        ("--coco-ids", boxes.coco_ids and not boxes.coco, "--coco FILE"),
        ("--color-by", boxes.color_by and not options.out, "--out DIR"),
        ("--overwrite", options.overwrite and not options.out, "--out DIR"),
    ):
        if given:
            raise OptionError(f"{option}: has no effect without {needed}; add it, or leave it out")
    # 2. Open the outputs.
    outputs: list[Writer] = [printed(as_json=options.json_lines)]
    if boxes.coco is not None:
        require_writable(boxes.coco.parent, "--coco")
        known = None if boxes.coco_ids is None else KnownIds(boxes.coco_ids)
        outputs.append(coco_file(boxes.coco, known))
    if options.out is not None:
        folder = run_folder(options.out, overwrite=options.overwrite)
        draw = partial(draw_result, color_by=boxes.color_by)
        names = OverlayNames(folder)
        outputs += [
            json_lines_file(folder / RESULTS),
            images(names, draw),
            videos(names, draw, stride=stride),
        ]
    return outputs


def run_task(
    stream: Callable[[Any], Iterable[Outcome]],
    sources: Sequence[str],
    output: Output,
    reading: ReadOptions,
    on_error: OnError,
    task: Mapping[str, Any],
) -> int:
    """Answer all sources and write each result immediately.

    Args:
        stream: Loads the model and returns results; called once all else is in order, and not if
            no source exists.
        sources: As typed on the command line.
        output: Where results go.
        reading: How sources are read.
        on_error: What happens to images that cannot be read.
        task: The options of the task that were given.

    Returns:
        The exit code.
    """
    # 1. Open the outputs before the model is loaded: their errors come first.
    stride, recursive = reading.get("stride", 1), reading.get("recursive", False)
    outputs = choose_outputs(output, stride=stride)
    if nothing_there(sources, recursive=recursive):
        # The same failures as from the task, without waiting for a model.
        frames = iter_frames(
            as_frames(sources), on_error=on_error, recursive=recursive, stride=stride
        )
        outcomes: Iterable[Outcome] = (_as_failure(frame) for frame in frames)
    else:
        outcomes = stream(as_frames(sources))
    # 2. Run.
    total = count_images(sources, recursive=recursive, stride=stride)
    summary = run_outputs(outcomes, outputs, total)
    # 3. Report options that had no effect.
    if summary.num_done and not summary.has_video:
        track = isinstance(output, BoxOutput) and output.track
        idle = [f"--{name}" for name, given in (("track", track), ("stride", stride > 1)) if given]
        idle += ["--drafts"] if "drafts" in task else []
        if idle:
            say(
                f"{', '.join(idle)}: had no effect; the sources are single images, not video "
                "frames (a video file keeps their order and time)",
                style="yellow",
            )
    nowhere = output.out is None and not (isinstance(output, BoxOutput) and output.coco)
    if nowhere and summary.num_done and not output.json_lines:
        say("nothing written; --out DIR writes overlays and results.jsonl")
    return summary.exit_code


def run_outputs(
    outcomes: Iterable[Outcome], outputs: Sequence[Writer], total: int | None
) -> Summary:
    """Write each outcome immediately, with progress; report the counts."""
    summary = Summary()
    with ExitStack() as stack:
        meter = stack.enter_context(Meter("images", total))
        writes = [stack.enter_context(output) for output in outputs]
        try:
            for outcome in outcomes:
                summary.take(outcome)
                for write in writes:
                    write(outcome)
                meter.advance()
        except KeyboardInterrupt:
            # What was done is kept: a live camera has no other end.
            summary.interrupted = True
        summary.report(meter.seconds)
    return summary


def _as_failure(frame: Frame | FrameFailure) -> Failure:
    if isinstance(frame, Frame):
        raise SourceError(f"{frame.source}: did not exist a moment ago; run the command again")
    return Failure(source=frame.source, index=frame.index, error=frame.error)
