"""Results as images: files, JPEG bytes, windows and notebooks."""

import os
import sys
from pathlib import Path
from typing import Final

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import DependencyError, OptionError
from pgvision.files import replaced_path

IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_LONGEST_SIDES: Final = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels, by format
_SHOWN_SIDE: Final = 480  # pixels; a smaller image is enlarged to be shown


def encode_image(bgr: ByteArray, ending: str = ".jpg") -> bytes:
    """Encode an image in memory.

    Args:
        bgr: ``(h, w, 3)`` uint8.
        ending: One of ``IMAGE_ENDINGS``.

    Raises:
        OptionError: If the format cannot contain an image of this size.

    Example:
        >>> encode_image(np.zeros((2, 2, 3), np.uint8))[:2].hex()
        'ffd8'
    """
    import cv2

    longest = _LONGEST_SIDES.get(ending)
    try:
        # OpenCV raises or returns False, depending on the format.
        is_encoded, data = cv2.imencode(ending, bgr)
    except cv2.error:
        is_encoded, data = False, np.zeros(0, np.uint8)
    if not is_encoded or not len(data):
        height, width = bgr.shape[:2]
        limit = f" (at most {longest} pixels a side)" if longest else ""
        raise OptionError(
            f"an image of {width} x {height} pixels cannot be written as {ending}{limit}; "
            "save it as .png"
        )
    return bytes(data)


def write_image(path: Path, bgr: ByteArray) -> None:
    """Write an image to a file; an older file of that name stays as it is after an error.

    Raises:
        OptionError: If the format cannot contain an image of this size.
        OSError: If the file cannot be written.
    """
    data = encode_image(bgr, path.suffix.lower())
    with replaced_path(path) as aside:
        aside.write_bytes(data)


def require_ending(path: Path, endings: tuple[str, ...]) -> str:
    """Return the ending of a path in lower case.

    Raises:
        OptionError: If it is not one of ``endings``.
    """
    ending = path.suffix.lower()
    if ending not in endings:
        known = ", ".join(endings)
        raise OptionError(f"cannot save to {str(path)!r}: its ending must be one of {known}")
    return ending


def show_image(bgr: ByteArray, title: str) -> None:
    """Show an image inline in a notebook, elsewhere in a window until a key is pressed.

    Raises:
        DependencyError: If there is no display, or OpenCV was built without windows.
    """
    import cv2

    # Labels of small images would be too small to be read.
    factor = max(1, -(-_SHOWN_SIDE // min(bgr.shape[:2])))
    large = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    # 1. Notebook: display inline.
    notebook = sys.modules.get("IPython")
    if notebook is not None and hasattr(notebook.get_ipython(), "kernel"):
        data = encode_image(large.astype(np.uint8))
        notebook.display.display(notebook.display.Image(data=data))
        return
    # 2. Window; without a display OpenCV would abort the process.
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_display:
        raise DependencyError("show: there is no display here; use save('out.jpg') instead")
    try:
        cv2.imshow(title, large)
        while cv2.waitKey(50) < 0 and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1:
            pass
        cv2.destroyWindow(title)
    except cv2.error as error:
        raise DependencyError(
            f"show: this OpenCV has no windows ({error}); use save('out.jpg'), or install "
            "opencv-python instead of opencv-python-headless"
        ) from error
