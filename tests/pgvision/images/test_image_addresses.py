"""Pictures by http, from a real server: the same as by path."""

import base64
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgvision.errors import SourceError
from pgvision.images import Frame, FrameFailure, VideoWriter, is_live, iter_frames, read_image

LOGIN = f"Basic {base64.b64encode(b'me:pass w@rd').decode()}"


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, "": "image/jpeg"}

    def do_GET(self) -> None:
        if self.path.startswith("/secret") and self.headers["Authorization"] != LOGIN:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest's output is for tests."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield tmp_path, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _made(folder: Path) -> dict[str, Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 4), np.uint8)
    Image.fromarray(noise[..., :3]).save(folder / "phone.jpg", exif=exif)
    Image.fromarray(noise).save(folder / "clear.png")
    Image.fromarray(noise).save(folder / "picture.bin", "PNG")  # sent as octet-stream
    (folder / "named").write_bytes((folder / "phone.jpg").read_bytes())
    return {file.name: file for file in folder.iterdir()}


def test_a_picture_is_the_same_by_address_and_by_path(site: tuple[Path, str]) -> None:
    folder, host = site
    for name, path in _made(folder).items():
        for tail in ("", "?width=64#top"):
            (frame,) = iter_frames(f"http://{host}/{name}{tail}")
            assert isinstance(frame, Frame)
            np.testing.assert_array_equal(frame.bgr, read_image(path))
            assert (frame.source, frame.time) == (f"http://{host}/{name}{tail}", None)


def test_user_and_password_reach_the_server_and_no_result(site: tuple[Path, str]) -> None:
    folder, host = site
    Image.new("RGB", (6, 4)).save(folder / "secret.png")
    (frame,) = iter_frames(f"http://me:pass%20w%40rd@{host}/secret.png")
    assert frame.source == f"http://***@{host}/secret.png"
    (failure,) = iter_frames(f"http://{host}/secret.png", on_error="record")
    assert isinstance(failure, FrameFailure)
    assert "401" in str(failure.error)
    with VideoWriter(folder / "secret.mkv", 25, (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    (frame,) = iter_frames(f"http://me:pass%20w%40rd@{host}/secret.mkv")
    assert frame.source == f"http://***@{host}/secret.mkv"
    (failure,) = iter_frames(f"http://me:wrong@{host}/secret.mkv", on_error="record")
    assert "wrong" not in f"{failure} {failure.error!r} {failure.error.__cause__!r}"


def test_what_is_not_there_or_no_picture(site: tuple[Path, str]) -> None:
    folder, host = site
    (folder / "text.jpg").write_text("hello")
    with pytest.raises(SourceError, match="404"):
        list(iter_frames(f"http://{host}/gone.jpg"))
    (failure,) = iter_frames(f"http://{host}/text.jpg", on_error="record")
    assert isinstance(failure, FrameFailure)
    assert "text.jpg" in str(failure.error)


def test_a_picture_is_not_live() -> None:
    assert not is_live("https://host/site.JPG?token=1")
