"""Atomic file writing, and file names as text that every program can write."""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` expanded; a file whose own name begins with ``~`` is kept.

    Example:
        >>> user_path("~draft.jpg").name, user_path("~/a.jpg") == Path.home() / "a.jpg"
        ('~draft.jpg', True)
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no user of this name
        return Path(path)


@contextmanager
def replaced_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it replaces ``path``.

    Args:
        path: The file to be written. Its folder is made if it is missing; a file that is there
            keeps its mode, and a link stays a link. A pipe or a device (``/dev/stdout``,
            ``/dev/null``) is never replaced: it is yielded itself.

    Yields:
        A path in the same folder and with the same ending, so that writers which look at the
        ending (OpenCV, Pillow) do the right thing.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
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
    # 1. Refuse folders before any work; write to pipes and devices directly.
    named = Path(path)
    if named.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(named))
    if named.exists() and not named.is_file():
        yield named
        return
    # A long name is cut, so that the temporary one has at most 255 bytes.
    target = Path(os.path.realpath(named))  # a link stays one, and what it points to is replaced
    aside = target.with_name(f".{secrets.token_hex(4)}.{named.name[-40:]}")
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    try:
        # 2. Make a temporary file in the same folder, so that the rename is atomic. The system
        # applies the umask: reading it would change it for a moment, in all threads.
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.touch(0o666 if mode is None else 0o600, exist_ok=False)
        # 3. Let the caller write it, then rename it.
        yield aside
        if mode is not None:
            aside.chmod(mode)
        aside.replace(target)
    except OSError as error:
        # 4. A full disk names no file, a refused rename the temporary one: name the caller's.
        is_named = error.errno is None or error.filename not in (None, aside, str(aside))
        if is_named or type(error).__module__ != "builtins":  # libraries' errors keep their type
            raise
        raise OSError(error.errno, error.strerror, str(named)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, aside and then renamed; see `readable_name`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_text(target, "1 helmet")
        >>> target.read_text(encoding="utf-8")
        '1 helmet'
    """
    with replaced_path(path) as aside:
        aside.write_text(readable_name(text), encoding="utf-8")


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
    r"""Return a file name, or any text, as text that can be written as UTF-8.

    Python keeps bytes of a file name that are no UTF-8 (a Latin-1 disk, an old zip) as lone
    surrogates, which no file, terminal or JSON accepts; command lines and JSON of servers may
    contain them too. Each becomes ``%`` and two hex digits, as
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
