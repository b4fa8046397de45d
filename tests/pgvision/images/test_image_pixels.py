"""`to_bgr` against Pillow and plain arithmetic."""

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pgvision.errors import ImageError, OptionError, ShapeError
from pgvision.images import to_bgr
from pgvision.images.pixels import quiet

PICTURES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7), st.just(3)))


@given(PICTURES)
def test_rgb_is_bgr_backwards(picture: np.ndarray) -> None:
    assert (to_bgr(picture, color="rgb") == picture[..., ::-1]).all()
    assert (to_bgr(to_bgr(picture, color="rgb"), color="rgb") == picture).all()
    assert to_bgr(picture) is picture


@given(PICTURES)
def test_pil_equals_array_in_rgb(picture: np.ndarray) -> None:
    assert (to_bgr(Image.fromarray(picture)) == to_bgr(picture, color="rgb")).all()


@given(PICTURES)
def test_floats_and_16_bits_come_back(picture: np.ndarray) -> None:
    assert (to_bgr(picture / 255.0) == picture).all()
    assert (to_bgr((picture / 255.0).astype(np.float32)) == picture).all()
    assert (to_bgr(picture.astype(np.uint16) * 257) == picture).all()
    assert (to_bgr((picture.astype(np.uint16) * 257).astype(">u2")) == picture).all()


@settings(max_examples=50)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4))))
def test_alpha_is_laid_over_white_as_pillow_does(rgba: np.ndarray) -> None:
    white = Image.new("RGBA", (rgba.shape[1], rgba.shape[0]), "white")
    composed = Image.alpha_composite(white, Image.fromarray(rgba, "RGBA")).convert("RGB")
    expected = np.asarray(composed)[..., ::-1].astype(int)
    assert abs(to_bgr(rgba, color="rgb").astype(int) - expected).max() <= 1
    assert (to_bgr(Image.fromarray(rgba, "RGBA")) == to_bgr(rgba, color="rgb")).all()


def test_gray_becomes_three_equal_channels() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_bgr(gray) == gray[..., None]).all()
    assert (to_bgr(gray[..., None]) == to_bgr(gray)).all()


def test_any_strides_are_taken() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    view = picture[::-2, 1::2, ::-1]
    assert (to_bgr(view) == view).all()
    assert to_bgr(view).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_pil_modes_of_one_colour(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode)
    assert abs(to_bgr(image).astype(int) - 255).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "La", "RGBa"])
def test_transparent_pil_modes_are_white(mode: str) -> None:
    assert (to_bgr(Image.new(mode, (3, 2), 0)) == 255).all()


def test_pil_palette_with_transparency() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    assert to_bgr(image).tolist() == [[[255, 255, 255], [60, 50, 40]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_pil_16_bit(mode: str) -> None:
    image = Image.new(mode, (2, 1), 65535)
    image.putpixel((1, 0), 257 * 7)
    assert to_bgr(image).tolist() == [[[255] * 3, [7] * 3]]


def test_pil_float() -> None:
    assert to_bgr(Image.new("F", (1, 1), 1.0)).tolist() == [[[255] * 3]]
    with pytest.raises(ShapeError, match="divide by 255"):
        to_bgr(Image.new("F", (1, 1), 200.0))


def test_pil_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    assert to_bgr(image).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((20, 30, 2), np.uint8), "channels come last"),
        (np.zeros((2, 20, 30, 3), np.uint8), "iter_frames"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((0, 0, 3), np.uint8), "at least one pixel"),
        (np.zeros((0, 7), np.uint8), "at least one pixel"),
        (np.zeros((2, 2), bool), "mask"),
        (np.zeros((2, 2), np.int64), "astype"),
        (np.zeros((2, 2), np.uint32), "astype"),
        (np.zeros((2, 2), complex), "complex"),
        (np.zeros((2, 2), object), "object"),
        (np.full((2, 2), np.nan), "nan"),
        (np.array([[0.5, np.nan]], np.float32), "nan"),
        (np.full((2, 2), 200.0), "divide by 255"),
        (np.full((2, 2), -0.1), "clip"),
        (np.full((2, 2), np.inf), "inf"),
        ([[0, 0]], "list"),
        (None, "NoneType"),
        (Image.new("RGB", (0, 4)), "at least one pixel"),
    ],
)
def test_what_is_no_picture_is_refused(picture: object, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        to_bgr(picture)  # type: ignore[arg-type]


def test_torch_like_tensor_gets_its_own_advice() -> None:
    torch_like = type("Tensor", (), {"__module__": "torch"})()
    with pytest.raises(ShapeError, match="permute"):
        to_bgr(torch_like)  # type: ignore[arg-type]


def test_pil_modes_without_a_known_white_are_refused() -> None:
    with pytest.raises(ImageError, match=r"convert\('L'\)"):
        to_bgr(Image.new("I", (2, 2), 7))
    with pytest.raises(ImageError, match="readable PIL image"):
        closed = Image.new("RGB", (2, 2))
        closed.close()
        to_bgr(closed)


def test_colour_order_is_checked() -> None:
    with pytest.raises(OptionError, match="color: expected one of bgr, rgb, got 'RGB'"):
        to_bgr(np.zeros((2, 2, 3), np.uint8), color="RGB")  # type: ignore[arg-type]


def test_overlapping_silence_gives_the_log_level_back() -> None:
    log = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with quiet():
            first_in.set()
            assert second_in.wait(10)
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(10)
    with quiet():
        second_in.set()
        assert first_out.wait(10)
        assert log.getLogLevel() == 0
    thread.join()
    assert log.getLogLevel() == before != 0
