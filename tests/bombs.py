"""Small files that claim to be enormous: one of each kind that is read here."""

import io
import re
import struct
import zlib

import numpy as np
from PIL import Image

from pgvision.images import VideoWriter

SIDE = 65_500


def _saved(kind, **words):
    stream = io.BytesIO()
    Image.new("RGB", (48, 32), "red").save(stream, kind, **words)
    return bytearray(stream.getvalue())


def _chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png():
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


def png_with_a_swollen_text():
    body = b"Comment\0\0" + zlib.compress(bytes(1 << 26), 9)
    data = _saved("PNG")
    return bytes(data[:33]) + _chunk(b"zTXt", body) + bytes(data[33:])


def png_with_a_swollen_profile():
    body = b"icc\0\0" + zlib.compress(bytes(1 << 26), 9)
    data = _saved("PNG")
    return bytes(data[:33]) + _chunk(b"iCCP", body) + bytes(data[33:])


def jpg():
    data = _saved("JPEG")
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data)


def jpg_with_two_headers():
    """The small one first; a decoder that obeys the second allocates for it."""
    data = _saved("JPEG")
    at = data.index(b"\xff\xc0")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0] + 2
    second = bytearray(data[at : at + length])
    second[5:9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data[: at + length] + second + data[at + length :])


def webp():
    """A canvas of 2^24 x 65,500: lossless pictures go to 16,383, an extended header further."""
    data = _saved("WEBP", lossless=True)
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    head += (2**24 - 1).to_bytes(3, "little") + (SIDE - 1).to_bytes(3, "little")
    body = b"WEBP" + head + bytes(data[12:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_lossless():
    data = _saved("WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") & ~((1 << 28) - 1)
    data[at : at + 4] = (bits | 16_382 | 16_382 << 14).to_bytes(4, "little")
    return bytes(data)


def tif():
    data = _saved("TIFF")
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack(order + "I", data[4:8])[0]
    for entry in range(struct.unpack(order + "H", data[start : start + 2])[0]):
        at = start + 2 + 12 * entry
        tag = struct.unpack(order + "H", data[at : at + 2])[0]
        if tag in (256, 257, 278):  # width, height, rows a strip
            data[at + 2 : at + 12] = struct.pack(order + "HII", 4, 1, SIDE)
    return bytes(data)


def bmp():
    data = _saved("BMP")
    data[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(data)


def gif():
    data = _saved("GIF")
    data[6:10] = struct.pack("<HH", SIDE, SIDE)
    return bytes(data)


def avif():
    data = _saved("AVIF")
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    return bytes(data)


def jp2():
    data = _saved("JPEG2000")
    at = data.index(b"ihdr") + 4
    data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    return bytes(data)


def ppm():
    return b"P6 65500 65500 255\n" + bytes(100)


def tga():
    data = _saved("TGA")
    data[12:16] = struct.pack("<HH", SIDE, SIDE)
    return bytes(data)


def hdr():
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 65500 +X 65500\n" + bytes(100)


def exr():
    box = struct.pack("<iiii", 0, 0, SIDE, SIDE)
    return (
        b"\x76\x2f\x31\x01\x02\0\0\0dataWindow\0box2i\0" + struct.pack("<I", 16) + box + bytes(99)
    )


PICTURES = (
    png, png_with_a_swollen_text, png_with_a_swollen_profile, jpg, jpg_with_two_headers,
    webp, webp_lossless, tif, bmp, gif, avif, jp2, ppm, tga, hdr, exr,
)  # fmt: skip


def film(path):
    with VideoWriter(path, 10.0, (32, 48)) as writer:
        for number in range(4):
            writer.write(np.full((32, 48, 3), 60 * number, np.uint8))
    return bytearray(path.read_bytes())


def mp4(folder, side=SIDE):
    """Track and sample entry claim it; the H.264 stream says 48 x 32."""
    data = film(folder / "small.mp4")
    at = data.index(b"tkhd") + 4 + 76
    data[at : at + 8] = struct.pack(">II", side << 16, side << 16)
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def avi(folder, side=SIDE, codec=None):
    """Main header and stream format claim it."""
    data = film(folder / "small.avi")
    at = data.index(b"avih") + 8 + 32
    data[at : at + 8] = struct.pack("<II", side, side)
    at = data.index(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<ii", side, side)
    if codec is not None:
        data[at + 16 : at + 20] = codec
        for found in re.finditer(b"vids", bytes(data)):
            data[found.end() : found.end() + 4] = codec
    return bytes(data)


def mkv(folder, side=SIDE):
    """PixelWidth (B0) and PixelHeight (BA) claim it."""
    data = bytes(film(folder / "small.mkv"))
    for tag, small in ((b"\xb0", 48), (b"\xba", 32)):
        old = tag + b"\x81" + bytes([small])
        if old in data:  # a value of one byte becomes one of two: the lengths around it lie
            data = data.replace(old, tag + b"\x82" + struct.pack(">H", side), 1)
    return data


def mjpeg(folder, side=16_000):
    """An AVI whose JPEG frames claim it, and the headers too: just what FFmpeg still takes."""
    data = bytearray(avi(folder, side))
    for found in re.finditer(b"\xff\xc0\0\x11\x08", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack(">HH", side, side)
    return bytes(data)


VIDEOS = {
    "avi of JPEG": mjpeg,
    "mp4": mp4,
    "avi": avi,
    "avi of raw frames": lambda folder: avi(folder, codec=b"\0\0\0\0"),
    "avi of raw frames, 16,000": lambda folder: avi(folder, 16_000, b"\0\0\0\0"),
    "avi of ffv1, 16,000": lambda folder: avi(folder, 16_000, b"FFV1"),
    "mkv": mkv,
}
