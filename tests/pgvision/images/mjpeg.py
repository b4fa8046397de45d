"""A camera as many are sold: it sends one JPEG after the other over HTTP, from a real server."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

HW = (48, 64)


def shade(index: int) -> int:
    return 10 + 10 * index


def jpeg(index: int) -> bytes:
    picture = np.full((*HW, 3), shade(index), np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


class _Handler(BaseHTTPRequestHandler):
    film: Callable[["_Handler"], None]

    def do_GET(self) -> None:
        if self.path != "/live":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.film()

    def picture(self, index: int, share: float = 1.0) -> None:
        self.send(jpeg(index), share)

    def send(self, data: bytes, share: float = 1.0) -> None:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        whole = head.encode() + data + b"\r\n"
        self.wfile.write(whole[: int(len(whole) * share)])
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest's output is for tests."""


@contextmanager
def serving(film: Callable[[_Handler], None], *, port: int = 0) -> Iterator[str]:
    """Serve what ``film`` sends to each client; give the address."""
    handler = type("Handler", (_Handler,), {"film": film})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that has seen enough hangs up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pictures(count: int, *, pause: float = 0.0) -> Callable[[_Handler], None]:
    """Send so many pictures, ``pause`` seconds apart, and hang up."""

    def film(handler: _Handler) -> None:
        for index in range(count):
            handler.picture(index)
            time.sleep(pause)

    return film


def interrupted(
    before: int, after: int, go_on: threading.Event, pause: float = 0.0
) -> Callable[[_Handler], None]:
    """Send some pictures, and ``pause`` seconds after ``go_on`` the others; else hang up."""

    def film(handler: _Handler) -> None:
        for index in range(before):
            handler.picture(index)
        if not go_on.wait(30):
            return
        time.sleep(pause)
        for index in range(before, before + after):
            handler.picture(index)

    return film
