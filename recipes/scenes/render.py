"""From a seed to a scene."""

from typing import Final

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import OptionError
from recipes.scenes.backgrounds import paint_background
from recipes.scenes.canvas import Canvas
from recipes.scenes.dice import Dice
from recipes.scenes.language import caption_of, questions_of, reading_of
from recipes.scenes.light import expose, random_exposure
from recipes.scenes.scene import Scene, SceneObject
from recipes.scenes.sight import visible_objects
from recipes.scenes.site import random_site
from recipes.scenes.stage import draw_site

SMALLEST: Final = 64
LARGEST: Final = 4096


def render_scene(seed: int, *, image_hw: tuple[int, int] = (480, 640)) -> Scene:
    """Draw one construction site.

    Args:
        seed: An integer from 0; equal seeds and sizes give equal scenes.
        image_hw: Height and width in pixels, each from 64 to 4096.

    Returns:
        The picture with everything that is known about it.

    Raises:
        OptionError: If ``seed`` or ``image_hw`` is something else.

    Example:
        >>> scene = render_scene(2, image_hw=(240, 320))
        >>> scene.image.shape, scene.caption
        ((240, 320, 3), 'one worker with helmet and a ladder')
    """
    require_seed(seed)
    require_image_hw(image_hw)
    dice = Dice(seed)
    site = random_site(Dice(dice.seed()), image_hw)
    back, camera, ask = Dice(dice.seed()), Dice(dice.seed()), Dice(dice.seed())
    image: ByteArray = np.empty((*image_hw, 3), np.uint8)
    paint_background(image, back, site.horizon)
    canvas = Canvas(image)
    objects = visible_objects(canvas, draw_site(canvas, site))
    image = expose(image, random_exposure(camera), camera)
    return described(seed, image, objects, ask)


def described(seed: int, image: ByteArray, objects: tuple[SceneObject, ...], ask: Dice) -> Scene:
    """Put a picture and its objects into words and return all of it as a scene."""
    return Scene(
        seed=seed,
        image=image,
        image_hw=image.shape[:2],
        objects=objects,
        caption=caption_of(objects),
        questions=questions_of(objects, ask),
        reading=reading_of(objects),
    )


def require_seed(seed: int) -> None:
    """Raise ``OptionError`` unless this is a seed (an integer from 0)."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise OptionError(f"seed must be an integer from 0, got {seed!r}; for example seed=7")


def require_image_hw(image_hw: tuple[int, int]) -> None:
    """Raise ``OptionError`` unless this is a size that can be drawn."""
    fits = (
        isinstance(image_hw, tuple)
        and len(image_hw) == 2
        and all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in image_hw)
    )
    if not fits:
        raise OptionError(
            f"image_hw must be a tuple (height, width), each an integer from {SMALLEST} to "
            f"{LARGEST} pixels, got {image_hw!r}; for example image_hw=(480, 640)"
        )
