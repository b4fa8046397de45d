"""Fonts for any script, and lines of text in them.

Text is set in DejaVu Sans, which comes with matplotlib (Latin, Greek, Cyrillic, Arabic, ...). For
letters that it lacks (Chinese, Hindi) a font of the system is searched; a letter without any font
is drawn as an empty box and logged once for its script.
"""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.errors import OptionError
from pgvision.files import user_path

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_SMALLEST_FONT = 11  # pixels; smaller letters cannot be read
_FONT_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}.get(
    sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
)
_script_fonts: dict[str, str | None] = {}  # font of the system for each script searched so far
_missing: set[str] = set()  # scripts without a font that were logged

_log = logging.getLogger("pgvision.drawing")


def fit_font_size(shape: tuple[int, ...]) -> int:
    """Choose the size of letters for an image of ``shape`` (height first), in pixels.

    Example:
        >>> fit_font_size((100, 100)), fit_font_size((1080, 1920))
        (11, 30)
    """
    return round(float(np.clip(min(shape[:2]) / 36, _SMALLEST_FONT, 78)))


class Letters:
    """Text in one size; each run of letters in the first font that has them.

    Args:
        size: Pixels.
        font: The preferred font file, or None.

    Raises:
        OptionError: If ``font`` is not a font file.
    """

    def __init__(self, size: int, font: str | Path | None) -> None:
        self.size, self._preferred = size, None if font is None else str(user_path(font))
        if self._preferred is not None and _load_font(self._preferred, size) is None:
            raise OptionError(f"font: {self._preferred} cannot be read as a font file")
        self._main = self._font_of("x")
        self.ascent, self.descent = self._main.getmetrics()

    def tag(self, text: str, ending: str, widest: int) -> FloatArray:
        """Return the ink of each pixel of a label, from 0 to 1, with its margin."""
        from PIL import Image, ImageDraw

        margin = max(1, self.size // 6)
        line = self._fit(" ".join(text.split()), ending and f" {ending}", widest - 2 * margin)
        width = max(1, round(self.width(line))) + 2 * margin
        tag = Image.new("L", (width, self.ascent + self.descent + 2 * (margin // 2)))
        self.draw(ImageDraw.Draw(tag), line, (margin, margin // 2), 255)
        return np.asarray(tag, dtype=np.float32) / 255

    def draw(self, pen: Any, line: str, corner: tuple[int, int], fill: Any) -> None:
        """Draw one line; ``corner`` is its left top."""
        left: float = corner[0]
        for font, run in self._runs(line):
            pen.text((left, corner[1] + self.ascent), run, font=font, fill=fill, anchor="ls")
            left += font.getlength(run)

    def width(self, line: str) -> float:
        """Return the width of one line in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(line))

    def wrap(self, text: str, width: int) -> list[str]:
        """Break a text into lines: between words, within a word that is wider than a line."""
        lines = []
        for paragraph in text.splitlines() or [""]:
            line = ""
            for word in paragraph.split():
                # A word that is wider than a line is broken into full lines and a rest.
                longer = f"{line} {word}".strip()
                if self.width(longer) > width:
                    lines += [line] if line else []
                    *full, longer = self._broken(word, width)
                    lines += full
                line = longer
            lines.append(line)
        return lines

    def _broken(self, word: str, width: int) -> list[str]:
        pieces = [""]
        for letter in word:
            if pieces[-1] and self.width(pieces[-1] + letter) > width:
                pieces.append("")
            pieces[-1] += letter
        return pieces

    def _fit(self, text: str, ending: str, width: int) -> str:
        """Shorten a text so that it and its ending fit into a width."""
        if self.width(text + ending) <= width:
            return text + ending
        # The longest beginning that fits.
        lengths = range(1, len(text))
        cut = bisect_right(lengths, width, key=lambda n: ceil(self.width(f"{text[:n]}…{ending}")))
        return f"{text[:cut].rstrip()}…{ending}"

    def _runs(self, line: str) -> Iterator[tuple[FreeTypeFont, str]]:
        """Split a line where the font changes; marks stay with their letter."""
        if line.isascii():
            yield self._main, line
            return
        run, font = "", self._main
        for letter in line:
            other = font
            # Spaces and combining marks stay in the current font.
            if not (letter.isspace() or unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")):
                other = self._font_of(letter)
            if other is not font and run:
                yield font, run
                run = ""
            run, font = run + letter, other
        if run:
            yield font, run

    def _font_of(self, letter: str) -> FreeTypeFont:
        """Return the font for a letter: the preferred, the bundled, a system font; log failure."""
        # 1. The first font that has the letter.
        for path in (self._preferred, _bundled_font()):
            if path is not None and _has_letter(path, letter):
                break
        else:
            path = _find_system_font(letter)
        # 2. Without one, an empty box of the main font, reported once.
        font = None if path is None else _load_font(path, self.size)
        if font is None:
            _report_missing(letter)
            font = _load_font(self._preferred or _bundled_font(), self.size)
        if font is None:
            raise OptionError(f"no font file can be read: reinstall matplotlib ({_bundled_font()})")
        return font


@lru_cache(maxsize=64)
def _load_font(path: str, size: int) -> FreeTypeFont | None:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError):  # not a font, or one of fixed sizes (colour emoji)
        return None


def _bundled_font() -> str:
    spec = find_spec("matplotlib")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return str(folder / "mpl-data/fonts/ttf/DejaVuSans.ttf")


@lru_cache(maxsize=4096)
def _has_letter(path: str, letter: str) -> bool:
    font = _load_font(path, 24)
    if font is None:
        return False
    if letter.isascii():
        return True
    # A font draws one shape (.notdef) for every letter that it lacks, U+10FFFF among them.
    missing, ink = font.getmask("\U0010ffff"), font.getmask(letter)
    return ink.getbbox() is not None and (ink.size, bytes(ink)) != (missing.size, bytes(missing))


@lru_cache(maxsize=1)
def _system_fonts() -> list[str]:
    """List font files: regular sans faces first, bold and italic ones last."""
    found = []
    for folder in _FONT_FOLDERS:
        for root, _, names in os.walk(user_path(folder)):
            kinds = (".ttf", ".otf", ".ttc")
            found += [os.path.join(root, name) for name in names if name.lower().endswith(kinds)]  # noqa: PTH118

    def rank(path: str) -> tuple[bool, bool, str]:
        name = Path(path).stem.lower()
        is_styled = any(word in name for word in ("bold", "italic", "oblique", "mono", "serif"))
        return is_styled, "sans" not in name, path

    return sorted(found, key=rank)


def _find_system_font(letter: str) -> str | None:
    """Return a font of the system for a letter; searched once for each script."""
    script = _script_of(letter)
    if script not in _script_fonts:
        matching = (path for path in _system_fonts() if _has_letter(path, letter))
        _script_fonts[script] = next(matching, None)
    path = _script_fonts[script]
    return path if path is not None and _has_letter(path, letter) else None


def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "unknown").split()[0]


def _report_missing(letter: str) -> None:
    """Log once for each script that no font has its letters."""
    script = _script_of(letter)
    if script not in _missing:
        _missing.add(script)
        _log.warning(
            "no installed font has %r (%s): it is drawn as an empty box; install a font such as "
            "Noto Sans for this script, or pass font=",
            letter,
            script,
        )
