"""Atomic file writing, and file names as text that every program can write."""

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_STEM = 40  # characters; a temporary name must not exceed 255 bytes


@contextmanager
def replaced_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it replaces ``path``.

    Args:
        path: The file to be written. Its folder is made if it is missing; a file that is there
            keeps its mode, and a link stays a link.

    Yields:
        A path in the same folder and with the same ending, so that writers which look at the
        ending (OpenCV, Pillow) do the right thing.

    Raises:
        OSError: If it cannot be written (a full disk, no permission). The error names ``path``, and
            a file that was there is unchanged.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a" / "result.txt"
        >>> with replaced_path(target) as aside:
        ...     _ = aside.write_text("done")
        >>> target.read_text()
        'done'
    """
    named, aside = Path(path), None
    target = Path(os.path.realpath(named))  # a link stays one, and what it points to is replaced
    prefix = f".{named.stem[:_MAX_STEM]}."
    try:
        # 1. Make a temporary file in the same folder, so that the rename is atomic.
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=named.suffix)
        os.close(descriptor)
        aside = Path(name)
        # 2. Let the caller write it, then rename it.
        yield aside
        aside.chmod(_mode_for(target))
        aside.replace(target)
    except OSError as error:
        # 3. A full disk names no file, a refused rename the temporary one: name the caller's.
        own = str(target.parent / prefix)
        is_named = error.errno is None or not str(error.filename or own).startswith(own)
        if is_named or type(error).__module__ != "builtins":  # libraries' errors keep their type
            raise
        raise OSError(error.errno, error.strerror, str(named)) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def _mode_for(target: Path) -> int:
    """Return the mode that open() would give: the file's own, or a new file's."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, aside and then renamed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_text(target, "1 helmet")
        >>> target.read_text(encoding="utf-8")
        '1 helmet'
    """
    with replaced_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def append_line(path: str | Path, line: str) -> None:
    r"""Append one line to a file at once, whole or not at all.

    Raises:
        OSError: If it cannot be written (a full disk); the error names ``path``.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> append_line(target, '{"event": "enter"}')
        >>> target.read_text(encoding="utf-8")
        '{"event": "enter"}\n'
    """
    start = None
    try:
        with Path(path).open("ab") as file:
            start = file.tell() if file.seekable() else None
            file.write(line.encode() + b"\n")
    except OSError as error:
        if start is not None:  # the next line must not begin within half a line
            with suppress(OSError):
                os.truncate(path, start)
        raise OSError(error.errno, error.strerror, str(path)) from error


def readable_name(name: str) -> str:
    r"""Return a file name as text that can be written as UTF-8.

    Python keeps bytes of a file name that are no UTF-8 (a Latin-1 disk, an old zip) as lone
    surrogates, which no file, terminal or JSON accepts. Each becomes ``%`` and two hex digits, as
    in an address; `pgvision.datasets` finds the file by this name again.

    Example:
        >>> readable_name("caf\udce9.jpg"), readable_name("café.jpg")
        ('caf%E9.jpg', 'café.jpg')
    """
    if name.isprintable() or not _SURROGATE.search(name):
        return name
    return _SURROGATE.sub(_percent, name)


def _percent(match: "re.Match[str]") -> str:
    code = ord(match[0])
    # Surrogates outside the range of os.fsdecode encode no byte.
    return f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else "\ufffd"
