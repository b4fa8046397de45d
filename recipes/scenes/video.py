"""Short films of a site: the same world, moving, with the same identities in every frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import OptionError
from pgvision.images import VideoWriter
from recipes.scenes.backgrounds import paint_background
from recipes.scenes.canvas import Canvas
from recipes.scenes.dice import Dice
from recipes.scenes.light import Exposure, expose, random_exposure
from recipes.scenes.motion import Motion, beside, random_motions, site_at
from recipes.scenes.render import described, require_image_hw, require_seed
from recipes.scenes.scene import Scene
from recipes.scenes.sight import visible_objects
from recipes.scenes.site import Site, random_site
from recipes.scenes.stage import draw_site

CAMERAS: Final = ("static", "moving")


@dataclass(frozen=True, kw_only=True)
class _Film:
    """Everything about a film that does not change from frame to frame."""

    site: Site
    motions: dict[int, Motion]
    backdrop: ByteArray
    exposure: Exposure
    ask_seed: int
    pan: float
    pan_start: float


def render_video(
    seed: int,
    *,
    num_frames: int = 48,
    image_hw: tuple[int, int] = (480, 640),
    fps: float = 24.0,
    camera: str = "static",
) -> Iterator[Scene]:
    """Draw a short film, frame by frame.

    Workers walk, trucks drive, and with ``camera="moving"`` the camera pans over a site twice as
    wide as the picture. An object keeps its ``track_id`` in every frame in which it is annotated.
    The first frame of a static film shows what ``render_scene`` shows for the same seed.

    Args:
        seed: An integer from 0; equal seeds and options give equal films.
        num_frames: Number of frames, at least 1.
        image_hw: Height and width in pixels, each from 64 to 4096.
        fps: Frames per second, above 0; how far things move from one frame to the next.
        camera: ``"static"`` or ``"moving"``.

    Returns:
        An iterator of scenes, one per frame, drawn as they are asked for.

    Raises:
        OptionError: If an option is something else; raised at once, not at the first frame.

    Example:
        >>> frames = list(render_video(7, num_frames=3, image_hw=(120, 160), camera="moving"))
        >>> len(frames), frames[0].image.shape
        (3, (120, 160, 3))
    """
    require_seed(seed)
    require_image_hw(image_hw)
    if not isinstance(num_frames, int) or isinstance(num_frames, bool) or num_frames < 1:
        raise OptionError(f"num_frames must be an integer from 1, got {num_frames!r}")
    _require_fps(fps)
    if camera not in CAMERAS:
        raise OptionError(f"camera must be one of {', '.join(CAMERAS)}, got {camera!r}")
    return _frames(seed, num_frames, image_hw, fps, camera == "moving")


def write_scene_video(
    path: str | Path,
    seed: int,
    *,
    num_frames: int = 48,
    image_hw: tuple[int, int] = (480, 640),
    fps: float = 24.0,
    camera: str = "static",
) -> Path:
    """Render a film into a video file, written aside and then renamed.

    Args:
        path: Where to write; the ending says the format, as for `pgvision.images.VideoWriter`.
        seed: As in ``render_video``.
        num_frames: As in ``render_video``.
        image_hw: As in ``render_video``.
        fps: As in ``render_video``.
        camera: As in ``render_video``.

    Returns:
        The path.

    Raises:
        OptionError: If an option or the ending is something else.
    """
    frames = render_video(seed, num_frames=num_frames, image_hw=image_hw, fps=fps, camera=camera)
    target = Path(path)
    with VideoWriter(target, fps, image_hw) as writer:
        for frame in frames:
            writer.write(frame.image)
    return target


def _require_fps(fps: float) -> None:
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < math.inf:
        raise OptionError(f"fps must be a number above 0, got {fps!r}; for example fps=24.0")


def _frames(
    seed: int, num_frames: int, image_hw: tuple[int, int], fps: float, moving: bool
) -> Iterator[Scene]:
    dice = Dice(seed)
    # The same draws, in the same order, as render_scene: a static film begins with its picture.
    site = random_site(Dice(dice.seed()), image_hw)
    back, lens, ask_seed = Dice(dice.seed()), Dice(dice.seed()), dice.seed()
    exposure = random_exposure(lens)
    film = _filmed(site, back, exposure, ask_seed, Dice(dice.seed()), image_hw, moving)
    for index in range(num_frames):
        yield _frame(film, seed, index / fps, lens, image_hw)


def _filmed(
    site: Site,
    back: Dice,
    exposure: Exposure,
    ask_seed: int,
    dice: Dice,
    image_hw: tuple[int, int],
    moving: bool,
) -> _Film:
    height, width = image_hw
    pan = start = 0.0
    if moving:
        site = beside(site, random_site(Dice(dice.seed()), image_hw))
        pan, start = dice.between(0.08, 0.2) * dice.sign(), dice.between(0.3, 0.7)
    backdrop: ByteArray = np.empty((height, width * 2 if moving else width, 3), np.uint8)
    paint_background(backdrop, back, site.horizon)
    return _Film(
        site=site,
        motions=random_motions(site, dice),
        backdrop=backdrop,
        exposure=exposure,
        ask_seed=ask_seed,
        pan=pan,
        pan_start=start,
    )


def _frame(film: _Film, seed: int, seconds: float, lens: Dice, image_hw: tuple[int, int]) -> Scene:
    width = image_hw[1]
    # A slow there-and-back pan over the one spare width; never past the backdrop's ends.
    swing = math.asin(2.0 * film.pan_start - 1.0) + film.pan * math.pi * seconds
    left = round(0.5 * (1.0 + math.sin(swing)) * width) if film.pan else 0
    site = site_at(film.site, film.motions, seconds)
    if left:
        shifted = (replace(thing, x=thing.x - left / width) for thing in site.things)
        site = replace(site, things=tuple(shifted))
    image: ByteArray = np.ascontiguousarray(film.backdrop[:, left : left + width]).copy()
    # Things leave the picture as the camera turns: the id buffer must reach that much further.
    canvas = Canvas(image, margin=(0.25, 1.25 if film.pan else 0.75 if film.motions else 0.25))
    objects = visible_objects(canvas, draw_site(canvas, site))
    image = expose(image, film.exposure, lens)
    return described(seed, image, objects, Dice(film.ask_seed))
