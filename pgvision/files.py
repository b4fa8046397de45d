"""Atomic file writing, and file names as text that every program can write."""

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SURROGATE = re.compile("[\ud800-\udfff]")


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
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a" / "result.txt"
        >>> with replaced_path(target) as aside:
        ...     _ = aside.write_text("done")
        >>> target.read_text()
        'done'
    """
    named = Path(path)
    target = Path(os.path.realpath(named))  # a link stays one, and what it points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{named.stem}.", suffix=named.suffix
    )
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(_mode_for(target))
        aside.replace(target)
    finally:
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
