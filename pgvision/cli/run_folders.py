"""Output folder of a run: one for each run, checked for write access before the work begins."""

import os
from pathlib import Path

from pgvision.errors import OptionError

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
    if _earlier_run(path) and overwrite:
        for file in _earlier_run(path):
            file.unlink()
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
    except (FileExistsError, NotADirectoryError) as error:
        raise OptionError(f"{option} {folder}: expected a folder, and there is a file") from error
    except OSError as error:
        raise OptionError(
            f"{option} {folder}: cannot be made ({error.strerror}); name another folder"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"{option} {folder}: cannot be written to; name another folder")
    return folder


def _earlier_run(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    results = folder / RESULTS
    return [*([results] if results.exists() else []), *sorted(folder.glob(_OVERLAYS))]
