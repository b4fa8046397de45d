"""What a rendered scene is: a picture and everything that is known about it."""

from dataclasses import dataclass

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One annotated object.

    A worker's mask covers the whole visible person, with vest, head and helmet; apart from a
    worker and what it wears, masks of different objects share no pixel.

    Attributes:
        label: One of ``CLASSES``.
        xyxy: ``(4,)`` float32: left, top, right, bottom of the visible part, pixels.
        crop: ``(bottom - top, right - left)`` bool: the visible pixels inside ``xyxy``.
        image_hw: Height and width of the picture.
        visible_fraction: Visible pixels over those of the whole object, cut-off parts included.
        colour: Colour name, or None where none is defined (workers, heads).
        text: What a sign says, if enough of it is seen; else None.
        track_id: The same through a video.
        wears_helmet: Workers only; None if the head cannot be seen.
        wears_vest: Workers only; None if the vest is mostly hidden.
        worn_by: ``track_id`` of the worker that wears this, or None.
    """

    label: str
    xyxy: FloatArray
    crop: BoolArray
    image_hw: tuple[int, int]
    visible_fraction: float
    colour: str | None
    text: str | None
    track_id: int
    wears_helmet: bool | None
    wears_vest: bool | None
    worn_by: int | None

    @property
    def mask(self) -> BoolArray:
        """``(h, w)`` bool: the visible pixels in the full frame."""
        full: BoolArray = np.zeros(self.image_hw, np.bool_)
        left, top, right, bottom = (int(edge) for edge in self.xyxy)
        full[top:bottom, left:right] = self.crop
        return full

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(np.count_nonzero(self.crop))


@dataclass(frozen=True)
class Question:
    """A question about a scene and its short answer, both lower case."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A rendered construction site.

    Attributes:
        seed: What it was drawn from.
        image: ``(h, w, 3)`` uint8 BGR.
        image_hw: Height and width.
        objects: The annotated objects, left to right by the middle of their boxes.
        caption: One line that names what is there.
        questions: Questions with answers.
        reading: Texts of the readable signs, left to right, joined by a space; may be "".
    """

    seed: int
    image: ByteArray
    image_hw: tuple[int, int]
    objects: tuple[SceneObject, ...]
    caption: str
    questions: tuple[Question, ...]
    reading: str
