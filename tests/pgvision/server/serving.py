"""Runs the real application behind a real uvicorn on localhost."""

import io
import threading
import time
from contextlib import contextmanager

import httpx2
import uvicorn
from PIL import Image

from pgvision.server import ServeSettings, create_app


@contextmanager
def running(settings=None, **how):
    """Run a service in a thread; yields its address."""
    app = create_app(settings or ServeSettings(models=("tiny",)), **how)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def until_ready(address):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if httpx2.get(f"{address}/readyz", timeout=60).status_code == 200:
            return
        time.sleep(0.05)
    raise AssertionError("never ready")


def as_png(bgr):
    file = io.BytesIO()
    Image.fromarray(bgr[..., ::-1]).save(file, "PNG")
    return file.getvalue()
