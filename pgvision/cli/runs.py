"""Runs of a task: sources counted, outputs opened and written, progress shown, a summary."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from pgvision.cli.console import DONE, FAILED, INTERRUPTED, Meter, pace, say
from pgvision.cli.outputs import (
    BoxOutput,
    Outcome,
    Output,
    OverlayNames,
    Writer,
    coco_file,
    images,
    json_lines_file,
    printed,
    videos,
)
from pgvision.errors import OptionError, PgvisionError
from pgvision.files import user_path
from pgvision.images import FrameFailure, iter_frames, video_info
from pgvision.images.containers import LIST_ENDINGS, TAR_ENDING
from pgvision.images.listing import VIDEO_ENDINGS, is_glob, list_folder, list_glob
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
    """
    if options.overwrite and options.out is None:
        raise OptionError("--overwrite: has no effect without --out DIR; add it, or leave it out")
    outputs: list[Writer] = [printed(as_json=options.json_lines)]
    if isinstance(options, BoxOutput) and options.coco is not None:
        require_writable(options.coco.parent, "--coco")
        require_replaceable(options.coco, "--coco")
        outputs.append(coco_file(options.coco))
    if options.out is not None:
        folder = run_folder(options.out, overwrite=options.overwrite)
        names = OverlayNames(folder)
        outputs += [json_lines_file(folder / RESULTS), images(names), videos(names, stride=stride)]
    return outputs


def run_task(
    stream: Callable[[Any], Iterable[Outcome]],
    sources: Sequence[str],
    output: Output,
    reading: ReadOptions,
    *,
    has_drafts: bool = False,
) -> int:
    """Answer all sources and write each result immediately.

    Args:
        stream: Loads the model and returns results; called once all else is in order, and not if
            no source exists.
        sources: As typed on the command line.
        output: Where results go.
        reading: How sources are read.
        has_drafts: Whether ``--drafts`` was given.

    Returns:
        The exit code.
    """
    # 1. Open the outputs before the model is loaded: their errors come first.
    stride, recursive = reading.get("stride", 1), reading.get("recursive", False)
    outputs = choose_outputs(output, stride=stride)
    if all(_files_of(source, recursive) == [] for source in sources):
        # The same failures as from the task, without waiting for a model.
        frames = iter_frames(
            as_frames(sources), on_error="record", recursive=recursive, stride=stride
        )
        outcomes: Iterable[Outcome] = (
            Failure(source=frame.source, index=frame.index, error=frame.error)
            for frame in frames
            if isinstance(frame, FrameFailure)
        )
    else:
        outcomes = stream(as_frames(sources))
    # 2. Run.
    total = count_images(sources, recursive=recursive, stride=stride)
    summary = run_outputs(outcomes, outputs, total)
    # 3. Report options that had no effect.
    if summary.num_done and not summary.has_video:
        track = isinstance(output, BoxOutput) and output.track
        idle = [f"--{name}" for name, given in (("track", track), ("stride", stride > 1)) if given]
        idle += ["--drafts"] if has_drafts else []
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
        # 1. What is entered last is closed first: outputs, progress, then the task.
        if isinstance(outcomes, Generator):
            stack.enter_context(closing(outcomes))
        meter = stack.enter_context(Meter("images", total))
        writes = [stack.enter_context(output) for output in outputs]
        try:
            # 2. Write each outcome before the next one is asked for.
            for outcome in outcomes:
                summary.take(outcome)
                for write in writes:
                    write(outcome)
                meter.advance()
        except KeyboardInterrupt:
            # 3. What was done is kept: a live camera has no other end.
            summary.interrupted = True
        summary.report(meter.seconds)
    return summary


_MANY = LIST_ENDINGS | {TAR_ENDING}  # how many is only known once they are read


def as_frames(sources: Sequence[str]) -> str | int | list[str]:
    """Hand sources to a task; a lone camera or address as itself, so that it is read live.

    Args:
        sources: As typed on the command line.

    Returns:
        A camera number, one path or address, or the list.

    Example:
        >>> as_frames(["0"]), as_frames(["a.jpg", "b.jpg"])
        (0, ['a.jpg', 'b.jpg'])
    """
    if len(sources) == 1:
        return int(sources[0]) if sources[0].isdecimal() else sources[0]
    return list(sources)


def count_images(sources: Sequence[str], *, recursive: bool, stride: int) -> int | None:
    """Count ahead, for the time that is left.

    Args:
        sources: As typed on the command line.
        recursive: Whether folders are read with their subfolders.
        stride: Of a video, each ``stride``-th frame counts.

    Returns:
        The number of pictures and video frames, or None if a source does not tell (a camera, an
        address, a list). A source that cannot be read counts as one: it will fail as one.

    Example:
        >>> count_images(["camera.jpg", "site.png"], recursive=False, stride=1)
        2
        >>> count_images(["0"], recursive=False, stride=1) is None
        True
    """
    total = 0
    for source in sources:
        files = _files_of(source, recursive)
        if files is None:
            return None
        # A source without files fails as one.
        for file in files or [Path(source)]:
            if (count := _count(file, stride)) is None:
                return None
            total += count
    return total


def _files_of(source: str, recursive: bool) -> list[Path] | None:
    """Return the files of a source, none if it does not exist; None for cameras and addresses."""
    if source.isdecimal() or "://" in source:
        return None
    path = user_path(source)
    try:
        if path.is_dir():
            return list_folder(path, recursive=recursive)
        if path.exists():
            return [path]
        return list_glob(source) if is_glob(source) else []
    except (PgvisionError, OSError, ValueError):
        return []


def _count(path: Path, stride: int) -> int | None:
    """Return the number of frames; None if it is unknown until the file is read."""
    if path.suffix.lower() in _MANY or path.is_char_device():
        return None
    if path.suffix.lower() not in VIDEO_ENDINGS:
        return 1
    try:
        frames = video_info(path).num_frames
    except PgvisionError:
        return 1
    return None if frames is None else ceil(frames / stride)


RESULTS = "results.jsonl"
_OVERLAYS = "*.overlay.*"


def run_folder(path: Path, *, overwrite: bool) -> Path:
    """Choose and make the folder of a run, so that no run writes among another's files.

    Args:
        path: The folder asked for. Where an earlier run wrote into it, the next free of
            ``found2``, ``found3``, ... is taken.
        overwrite: Take ``path`` all the same, and remove the earlier run's results and overlays.

    Returns:
        The folder, which is there and can be written.

    Raises:
        OptionError: If it cannot be written, or the earlier run's folder has no name to count on.

    Example:
        >>> import tempfile
        >>> found = Path(tempfile.mkdtemp()) / "found"
        >>> run_folder(found, overwrite=False).name
        'found'
        >>> (found / RESULTS).touch()
        >>> run_folder(found, overwrite=False).name
        'found2'
    """
    folder = path
    # 1. Replace the earlier run's files, and no others.
    if _earlier_run(path) and overwrite:
        for file in _earlier_run(path):
            file.unlink()
    # 2. Or count up, as far as the folder has a name.
    elif _earlier_run(path):
        if path.resolve() == Path.cwd():
            raise OptionError(
                f"--out {path}: contains an earlier run; name a new folder, or add --overwrite"
            )
        number = 2
        while _earlier_run(folder := path.with_name(f"{path.name}{number}")):
            number += 1
    return require_writable(folder, "--out")


def require_writable(folder: Path, option: str) -> Path:
    """Make a folder if it is missing, and refuse one that cannot be written.

    Args:
        folder: The folder.
        option: The option that names it, for the error.

    Returns:
        ``folder``.

    Raises:
        OptionError: If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{option} {folder}: expected a folder ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"{option} {folder}: cannot be written to; name another folder")
    return folder


def require_replaceable(path: Path, option: str, *inputs: str | Path | None) -> Path:
    """Refuse to write a file of JSON over an input, a folder or a file of another kind.

    Args:
        path: The file.
        option: The option that names it, for the error.
        inputs: Files that the command reads; None is ignored.

    Returns:
        ``path``.

    Raises:
        OptionError: If it is one of ``inputs`` or a folder, or contains something else than JSON.
    """
    if path.is_dir():
        raise OptionError(f"{option} {path}: expected a file, and there is a folder")
    if not path.is_file():
        return path
    # JSON and JSON lines of these commands begin with one of two signs; nothing else is replaced.
    with path.open("rb") as file:
        start = file.read(1)
    is_input = any(file and Path(file).resolve() == path.resolve() for file in inputs)
    if is_input or start not in (b"", b"{", b"["):
        what = "is read by this command" if is_input else "contains something else than JSON"
        raise OptionError(f"{option} {path}: {what}; name another file")
    return path


def _earlier_run(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [*folder.glob(RESULTS), *sorted(folder.glob(_OVERLAYS))]
