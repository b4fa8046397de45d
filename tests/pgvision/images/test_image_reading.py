"""`read_image` on real files, with Pillow as the second opinion."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pgvision.errors import ImageError, PgvisionError, SourceError
from pgvision.images import image_hw_of, read_image


def scene(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def as_bgr(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))[..., ::-1].astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_all_orientations(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    scene().save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = as_bgr(ImageOps.exif_transpose(image))
    picture = read_image(path)
    assert picture.shape == expected.shape
    assert abs(picture - expected).mean() < 2  # two JPEG decoders round differently


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats_are_exact(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    scene().save(path)
    assert (read_image(str(path)) == as_bgr(scene())).all()


def test_an_ending_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    scene().save(path, format="PNG")
    assert (read_image(path) == as_bgr(scene())).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    scene().convert("CMYK").save(path, quality=98)
    assert abs(read_image(path) - as_bgr(scene())).mean() < 4


def test_gray_and_progressive_jpeg(tmp_path: Path) -> None:
    scene().convert("L").save(tmp_path / "gray.jpg", quality=98)
    scene().save(tmp_path / "progressive.jpg", quality=98, progressive=True)
    assert abs(read_image(tmp_path / "gray.jpg") - as_bgr(scene().convert("L"))).mean() < 2
    assert abs(read_image(tmp_path / "progressive.jpg") - as_bgr(scene())).mean() < 3


def test_palette_alpha_and_16_bits(tmp_path: Path) -> None:
    scene().quantize(256).save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == as_bgr(scene().quantize(256))).all()
    Image.new("RGBA", (3, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    wide = np.array([[0, 257 * 9, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png")[0, :, 0].tolist() == [0, 9, 255]


@pytest.mark.parametrize("ending", ["gif", "webp", "tiff"])
def test_the_first_of_several(tmp_path: Path, ending: str) -> None:
    pages = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime")]
    path = tmp_path / f"several.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    assert (read_image(path) == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(1, 1), (30_000, 20), (20, 30_000)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], ending: str) -> None:
    path = tmp_path / f"odd.{ending}"
    Image.new("RGB", size, (50, 50, 50)).save(path)
    picture = read_image(path)
    assert picture.shape == (size[1], size[0], 3)
    assert abs(picture.astype(int) - 50).max() <= 1


def encoded(ending: str) -> bytes:
    noise = np.random.default_rng(3).integers(0, 255, (40, 50, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=ending)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["jpeg", "png", "gif", "webp", "bmp", "tiff"])
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0.05, 0.98))
def test_a_cut_file_is_never_a_picture(tmp_path: Path, ending: str, share: float) -> None:
    data = encoded(ending)
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_cut_jpeg_with_a_whole_thumbnail(tmp_path: Path) -> None:
    data = encoded("jpeg")
    thumbnail = b"Exif\0\0" + data[:400] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path = tmp_path / "thumb.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    assert read_image(path).shape == (40, 50, 3)
    path.write_bytes(data[:2] + segment + data[2 : len(data) // 2])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)
    path.write_bytes(path.read_bytes() + bytes(3000))  # a download that reserved its space
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "long.jpg"
    path.write_bytes(encoded("jpeg") + b"more" * 100)
    assert read_image(path).shape == (40, 50, 3)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), ending=st.sampled_from(["jpeg", "png", "gif", "webp", "bmp", "tiff"]))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_damaged_bytes_give_a_picture_or_our_error(
    tmp_path: Path, data: st.DataObject, ending: str
) -> None:
    blob = bytearray(encoded(ending))
    for _ in range(data.draw(st.integers(1, 8))):
        blob[data.draw(st.integers(0, min(len(blob) - 1, 400)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(bytes(blob))
    try:
        assert read_image(path).dtype == np.uint8
    except PgvisionError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"hello, world", "no known format"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "nothing.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    scene().save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        read_image(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"missing\.jpg: no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(SourceError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(SourceError, match="cannot be opened"):
        read_image("a\0b.jpg")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceError, match="cannot be opened"):
        read_image(tmp_path / "loop")


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene().save(tmp_path / "here.png")
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    assert read_image("~/here.png").shape == (48, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("jpg", {}),
        ("png", {}),
        ("webp", {}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "jpeg"}),
    ],
)
def test_the_header_gives_the_size_that_reading_gives(
    tmp_path: Path, ending: str, options: dict[str, str], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    scene().save(path, exif=exif, **options)
    assert image_hw_of(path) == read_image(path).shape[:2]
    assert image_hw_of(path) == ((64, 48) if orientation > 4 else (48, 64))


def broken_exif(path: Path) -> Path:
    """A PNG whose eXIf block holds what a slip of a Python script left there."""
    buffer = io.BytesIO()
    scene().save(buffer, "PNG")
    data, block = buffer.getvalue(), b"b'Exif\\x00"
    at = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + block))
    path.write_bytes(data[:at] + chunk + data[at:])
    return path


def test_a_broken_exif_block_turns_nothing(tmp_path: Path) -> None:
    path = broken_exif(tmp_path / "a.png")
    assert image_hw_of(path) == (48, 64)
    assert (read_image(path) == as_bgr(scene())).all()


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    for ending in ("jpg", "png"):
        scene().save(tmp_path / f"a.{ending}", exif=exif)
        assert image_hw_of(tmp_path / f"a.{ending}") == (48, 64)
        assert read_image(tmp_path / f"a.{ending}").shape == (48, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_turned_by_xmp_alone_is_read_as_pillow_reads_it(
    tmp_path: Path, orientation: int
) -> None:
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"/>'.encode()
    path = tmp_path / "turned.jpg"
    scene().save(path, xmp=packet, quality=95)
    with Image.open(path) as image:
        expected = as_bgr(ImageOps.exif_transpose(image))
    assert image_hw_of(path) == expected.shape[:2]
    assert abs(read_image(path) - expected).mean() < 2


def test_the_size_of_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        image_hw_of(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="No such file"):
        image_hw_of(tmp_path / "gone.jpg")
