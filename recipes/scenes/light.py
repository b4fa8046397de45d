"""What the camera does to a finished drawing: light, colour cast, blur, noise, compression."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pgvision.arrays import ByteArray
from recipes.scenes.dice import Dice
from recipes.scenes.textures import grain


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One camera's settings, drawn once per scene or video."""

    tint: tuple[float, float, float]
    gamma: float
    falloff: tuple[float, float, float, float] | None
    blur: float
    noise: float
    quality: int | None


def random_exposure(dice: Dice) -> Exposure:
    """Draw a camera's settings."""
    bright = dice.between(0.82, 1.2) if dice.chance(0.84) else dice.between(0.52, 0.8)
    warm = dice.between(-0.09, 0.09)
    tint = (bright * (1 - warm), bright * (1 + dice.between(-0.03, 0.03)), bright * (1 + warm))
    corners = tuple(dice.between(0.72, 1.15) for _ in range(4))
    return Exposure(
        tint=tint,
        gamma=dice.between(0.75, 1.15),
        falloff=(corners[0], corners[1], corners[2], corners[3]) if dice.chance(0.55) else None,
        blur=dice.between(0.0008, 0.0028) if dice.chance(0.35) else 0.0,
        noise=dice.between(0.05, 0.36) if dice.chance(0.6) else 0.0,
        quality=dice.whole(35, 85) if dice.chance(0.15) else None,
    )


def expose(image: ByteArray, exposure: Exposure, dice: Dice) -> ByteArray:
    """Return the picture as that camera would give it.

    Args:
        image: ``(h, w, 3)`` uint8 BGR; may be overwritten.
        exposure: The camera's settings.
        dice: Source of the noise's position.

    Returns:
        ``(h, w, 3)`` uint8 BGR.
    """
    ramp = (np.arange(256, dtype=np.float32) / 255.0) ** exposure.gamma * 255.0
    table = np.clip(ramp[:, None] * np.array(exposure.tint, np.float32), 0, 255)
    seen = _bytes(cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, 3)))
    if exposure.falloff is not None:
        seen = _shaded(seen, exposure.falloff)
    if exposure.blur:
        sigma = max(0.3, exposure.blur * min(image.shape[:2]))
        seen = _bytes(cv2.GaussianBlur(seen, (0, 0), sigma))
    if exposure.noise:
        seen = _grainy(seen, exposure.noise, dice)
    if exposure.quality is not None:
        _, packed = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, exposure.quality])
        unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        seen = seen if unpacked is None else _bytes(unpacked)
    return seen


def _shaded(image: ByteArray, falloff: tuple[float, float, float, float]) -> ByteArray:
    """Multiply the picture by a field that is given at its four corners."""
    corners = (np.array(falloff, np.float32).reshape(2, 2) * 200.0).astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    field = cv2.resize(corners, size, interpolation=cv2.INTER_LINEAR)
    return _bytes(cv2.multiply(image, cv2.merge((field, field, field)), scale=1.0 / 200.0))


def _grainy(image: ByteArray, amount: float, dice: Dice) -> ByteArray:
    height, width = image.shape[:2]
    bank = grain()
    high, wide = min(height, bank.shape[0]), min(width, bank.shape[1])
    top, left = dice.whole(0, bank.shape[0] - high), dice.whole(0, bank.shape[1] - wide)
    patch = bank[top : top + high, left : left + wide]
    if (high, wide) != (height, width):
        patch = _bytes(cv2.resize(patch, (width, height), interpolation=cv2.INTER_NEAREST))
    return _bytes(cv2.addWeighted(image, 1.0, patch, amount, -128.0 * amount))


def _bytes(image: ArrayLike) -> ByteArray:
    """Say that what OpenCV made of a uint8 picture is a uint8 picture; copies nothing."""
    return np.asarray(image, np.uint8)
