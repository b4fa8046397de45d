"""Bad and odd input through a whole adapter: it works, or our own error names what it was."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from scripted import Scripted

from pgvision.errors import (
    ImageError,
    OptionError,
    PgvisionError,
    PromptError,
    ShapeError,
    SourceError,
)
from pgvision.images import VideoWriter
from pgvision.runtime import Request
from pgvision.tasks import Answerer, Detector

HELMET = "<loc0256><loc0128><loc0512><loc0384> helmet"
PICTURE = np.random.default_rng(5).integers(0, 256, (24, 36, 3), np.uint8)


class Seeing(Scripted):
    """A scripted engine that remembers the pictures it was shown."""

    def __init__(self) -> None:
        super().__init__(self._look)
        self.seen: list[np.ndarray] = []

    def _look(self, request: Request) -> str:
        self.seen.append(request.picture.bgr)
        return HELMET


def detector(**options: object) -> Detector:
    return Detector("helmet", generator=Seeing(), **options)


def seen_by_model(image: object, **options: object) -> np.ndarray:
    engine = Seeing()
    Detector("helmet", generator=engine)(image, **options)
    return engine.seen[0]


GRAY = PICTURE[..., 0]
OPAQUE = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (PICTURE, {}, PICTURE),
        (PICTURE[..., ::-1], {"color": "rgb"}, PICTURE),
        (GRAY, {}, np.dstack([GRAY] * 3)),
        (GRAY[..., None], {}, np.dstack([GRAY] * 3)),
        (OPAQUE, {}, PICTURE),
        (PICTURE.astype(np.uint16) * 257, {}, PICTURE),
        (PICTURE.astype(np.float32) / 255, {}, PICTURE),
        (PICTURE.astype(np.float64) / 255, {}, PICTURE),
        (Image.fromarray(PICTURE[..., ::-1]), {}, PICTURE),
    ],
    ids=["bgr", "rgb", "gray", "gray1", "bgra", "16 bit", "float32", "float64", "pil"],
)
def test_every_kind_of_picture_reaches_the_model_as_bgr(
    image: object, options: dict[str, object], expected: np.ndarray
) -> None:
    np.testing.assert_array_equal(seen_by_model(image, **options), expected)


def jpeg(path: Path) -> Path:
    path.write_bytes(cv2.imencode(".jpg", cv2.resize(PICTURE, (360, 240)))[1].tobytes())
    return path


def cut_jpeg(path: Path) -> None:
    data = jpeg(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "write", "error"),
    [
        ("letter.jpg", lambda path: path.write_text("dear madam"), ImageError),
        ("zero.png", lambda path: path.write_bytes(b""), ImageError),
        ("cut.jpg", cut_jpeg, ImageError),
        ("gone.png", lambda path: None, SourceError),
        ("bare", lambda path: path.mkdir(), SourceError),
        ("novideo.mp4", lambda path: path.write_bytes(b"hello" * 500), SourceError),
        ("empty.mp4", lambda path: path.write_bytes(b""), SourceError),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, write: Callable[[Path], object], error: type[Exception]
) -> None:
    path = tmp_path / name
    write(path)
    for call in (detector(), lambda p: detector().predict(p), lambda p: detector().predict([p])):
        with pytest.raises(error, match=name) as caught:
            call(path)
        assert isinstance(caught.value, PgvisionError)
    (failure,) = detector().predict(path, on_error="record")
    assert not failure.ok
    assert name in str(failure.error)
    assert detector().predict(path, on_error="skip") == []


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("L", "png"), ("1", "png"), ("I;16", "png")],
)
def test_odd_modes_of_files_work(tmp_path: Path, mode: str, ending: str) -> None:
    path = tmp_path / f"odd.{ending}"
    if mode == "I;16":
        Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(PICTURE).convert(mode).save(path)
    result = detector()(path)
    assert result.image_hw == (24, 36)
    assert result.source == str(path)


def test_an_animation_gives_all_its_frames_and_is_not_one_image(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    shades = [Image.new("L", (36, 24), shade) for shade in (40, 200)]
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=100)
    results = detector().predict(path)
    assert [(result.frame_index, result.time) for result in results] == [(0, 0.0), (1, 0.1)]
    with pytest.raises(SourceError, match=r"predict\(\)"):
        detector()(path)


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 90 degrees clockwise to see it upright
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert detector()(path).image_hw == (40, 20)


@pytest.mark.parametrize("hw", [(1, 1), (20, 30_000), (30_000, 20), (3, 50)])
def test_odd_sizes_give_boxes_inside_the_picture(hw: tuple[int, int]) -> None:
    result = detector()(np.zeros((*hw, 3), np.uint8))
    left, top, right, bottom = result.xyxy[0]
    assert 0 <= left <= right <= hw[1]
    assert 0 <= top <= bottom <= hw[0]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.full((4, 5, 3), np.nan, np.float32),
        np.full((4, 5, 3), 7.0, np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((4, 5, 3), np.complex64),
        np.array([["a", "b"]]),
    ],
    ids=["0x0", "0 high", "nan", "float 7", "2 channels", "complex", "text"],
)
def test_arrays_that_are_no_picture_are_refused(image: np.ndarray) -> None:
    with pytest.raises((ShapeError, ImageError, OptionError)):
        detector()(image)
    results = detector().predict([PICTURE, image, PICTURE], on_error="record")
    assert [result.ok for result in results] == [True, False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    cv2.imwrite(str(locked / "a.png"), PICTURE)
    locked.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root reads everything
            os.seteuid(65534)
        with pytest.raises(SourceError, match=r"locked|Permission"):
            detector().predict(str(locked))
    finally:
        os.seteuid(user)
        locked.chmod(0o700)


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match="camera:63"):
        next(iter(detector().stream(63)))


def broken_video(path: Path, share: float) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(path, 25, (48, 64)) as writer:
        for _ in range(40):
            writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_a_video_that_breaks_off_gives_every_whole_frame_first(tmp_path: Path) -> None:
    path = broken_video(tmp_path / "site.avi", 0.6)
    recorded = detector(batch_size=7).predict(path, on_error="record")
    assert [result.ok for result in recorded] == [True] * (len(recorded) - 1) + [False]
    assert (len(recorded) - 1) % 7, "the last batch must not be a full one"
    assert "site.avi" in str(recorded[-1].error)
    got = []
    with pytest.raises(SourceError, match=r"site\.avi.*cut short"):
        for result in detector(batch_size=7).stream(path):
            got.append(result.frame_index)  # noqa: PERF401 (what came before the error counts)
    assert got == list(range(len(recorded) - 1))


def test_results_of_a_video_know_source_frame_and_time(tmp_path: Path) -> None:
    path = broken_video(tmp_path / "site.mp4", 1.0)
    results = detector().predict(path, stride=7)
    assert [result.frame_index for result in results] == list(range(0, 40, 7))
    assert {result.source for result in results} == {str(path)}
    np.testing.assert_allclose([r.time for r in results], np.arange(0, 40, 7) / 25, atol=1e-3)
    still = detector()(PICTURE)
    assert (still.source, still.frame_index, still.time) == ("array", 0, None)


@pytest.mark.parametrize("question", ["", "  ", "two\nlines", "<image>", "what is <loc0001>?"])
def test_questions_that_cannot_be_asked_are_refused(question: str) -> None:
    with pytest.raises(PromptError, match="question"):
        Answerer(generator=Seeing())(PICTURE, question)


def test_on_error_is_checked_before_anything_is_read() -> None:
    with pytest.raises(OptionError, match="on_error"):
        detector().stream([PICTURE], on_error="ignore")
