"""What ways out and overlays read of a result: objects, without the class that holds them."""

from typing import Protocol

from pgvision.arrays import FloatArray, IntArray


class Objects(Protocol):
    """Objects in one image, as `DetectionResult` names them."""

    def __len__(self) -> int:
        """Count the objects."""

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def prefix(self) -> str:
        """What the model was asked."""

    @property
    def source(self) -> str | None:
        """Where the picture is from."""

    @property
    def frame_index(self) -> int:
        """0-based position within the source."""

    @property
    def time(self) -> float | None:
        """Seconds from the start of a video."""

    @property
    def xyxy(self) -> FloatArray:
        """``(n, 4)`` pixels: left, top, right, bottom."""

    @property
    def labels(self) -> tuple[str | None, ...]:
        """``n`` names."""

    @property
    def texts(self) -> tuple[str | None, ...]:
        """``n`` names in the model's words."""

    @property
    def class_ids(self) -> IntArray:
        """``(n,)`` positions in ``classes``, or -1."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names asked for."""

    @property
    def scores(self) -> FloatArray | None:
        """``(n,)`` in [0, 1]."""

    @property
    def loc_yxyx(self) -> IntArray | None:
        """``(n, 4)`` bins."""

    @property
    def edge_std(self) -> FloatArray | None:
        """``(n, 4)`` pixels."""

    @property
    def tracker_ids(self) -> IntArray | None:
        """``(n,)`` numbers of the tracks."""
