"""How well a codec gives masks back: IoU, boundary IoU, use of the codebook, the worst cases."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.files import replaced_path

if TYPE_CHECKING:
    from pgvision.datasets import MaskCodec

NUM_CODES = 128
_BATCH = 64
# Boundary IoU looks at a band as wide as this part of the diagonal (Cheng et al., 2021).
_BAND = 0.02
_ZOOM = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class CodecReport:
    """What the codec did to each mask.

    Attributes:
        ious: ``(n,)`` IoU of each mask with what came back.
        boundary_ious: ``(n,)`` the same for a band along the outline.
        codes: ``(n, 16)`` codes.
        decoded: ``(n, 64, 64)`` bool, what came back.
    """

    ious: FloatArray
    boundary_ious: FloatArray
    codes: IntArray
    decoded: BoolArray

    def to_dict(self) -> dict[str, object]:
        """Give the figures for JSON.

        Returns:
            Means, quantiles of the IoU, codes in use and their perplexity.
        """
        quantiles = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
        counts = np.bincount(self.codes.ravel(), minlength=NUM_CODES)
        shares = counts[counts > 0] / counts.sum()
        return {
            "num_masks": len(self.ious),
            "mean_iou": float(self.ious.mean()),
            "mean_boundary_iou": float(self.boundary_ious.mean()),
            "iou_quantiles": {
                str(q): float(value)
                for q, value in zip(quantiles, np.quantile(self.ious, quantiles), strict=True)
            },
            "codes_used": int((counts > 0).sum()),
            "code_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        }


def measure_codec(codec: "MaskCodec", masks: ByteArray) -> CodecReport:
    """Encode and decode masks and compare.

    Args:
        codec: What is measured.
        masks: ``(n, 64, 64)`` uint8, 0 outside to 255 inside.

    Returns:
        The comparison; a mask's inside is where it is at least half covered.
    """
    codes, decoded = [], []
    for start in range(0, len(masks), _BATCH):
        batch = codec.encode(masks[start : start + _BATCH].astype(np.float32) / 255)
        codes.append(np.asarray(batch))
        decoded.append(np.asarray(codec.decode(batch)) > 0)
    found = np.concatenate(decoded)
    wanted = masks >= 128
    return CodecReport(
        ious=_ious(wanted, found),
        boundary_ious=_ious(_bands(wanted), _bands(found)),
        codes=np.concatenate(codes),
        decoded=found,
    )


def _ious(first: BoolArray, second: BoolArray) -> FloatArray:
    shared = (first & second).sum(axis=(1, 2))
    union = (first | second).sum(axis=(1, 2))
    ious: FloatArray = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
    return ious


def _bands(masks: BoolArray) -> BoolArray:
    """Keep of each mask the pixels near its outline; the border of the crop is one, too."""
    reach = max(1, round(_BAND * float(np.hypot(*masks.shape[1:]))))
    kernel = np.ones((3, 3), np.uint8)
    rows = []
    for mask in masks:
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(padded, kernel, iterations=reach)[1:-1, 1:-1]
        rows.append(mask & ~inner.astype(bool))
    return np.stack(rows)


def save_worst_masks(masks: ByteArray, report: CodecReport, path: Path, *, count: int = 64) -> None:
    """Draw the worst cases: agreement white, what the codec lost red, what it added blue.

    Args:
        masks: What went in.
        report: What came of it.
        path: A ``.png`` file.
        count: How many, the worst first, row by row.
    """
    rows = np.argsort(report.ious, kind="stable")[:count]
    columns = min(16, len(rows))
    tiles = []
    for row in rows:
        wanted, found = masks[row] >= 128, report.decoded[row]
        tile = np.zeros((*wanted.shape, 3), np.uint8)
        tile[wanted & found] = (255, 255, 255)
        tile[wanted & ~found] = (60, 60, 230)
        tile[~wanted & found] = (230, 120, 40)
        big = tile.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)
        tiles.append(cv2.copyMakeBorder(big, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(90, 90, 90)))
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    lines = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    with replaced_path(path) as aside:
        cv2.imwrite(str(aside), np.vstack(lines))
