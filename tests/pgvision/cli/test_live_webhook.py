"""Events to a real HTTP server: in order, again while it is down, and never waited for."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pgvision.cli import live as module
from pgvision.cli.live import Webhook
from pgvision.errors import OptionError


class Listener:
    """What came, and what is answered: a status, or a function of how many came."""

    def __init__(self, status=200, pause=0.0):
        self.status, self.pause, self.events, self.tries = status, pause, [], 0
        self.headers, self.location = [], None
        self.is_over = threading.Event()  # ends a pause


@contextmanager
def listening(listener, port=0):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            listener.is_over.wait(listener.pause)
            listener.tries += 1
            listener.headers.append(dict(self.headers))
            status = listener.status
            status = status(listener.tries) if callable(status) else status
            if status == 200:
                listener.events.append(json.loads(body))
            self.send_response(status)
            if listener.location:
                self.send_header("Location", listener.location)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        listener.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_events_come_in_order():
    listener = Listener()
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/hook?key=1") as hook:
        for number in range(50):
            hook.post({"track": number, "label": "Schutzhelm für Köpfe"})
    assert [event["track"] for event in listener.events] == list(range(50))
    assert listener.events[0]["label"] == "Schutzhelm für Köpfe"
    assert (hook.num_sent, hook.num_refused, hook.num_lost) == (50, 0, 0)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_in_trouble_is_asked_again(status):
    listener = Listener(lambda tries: status if tries <= 2 else 200)
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/") as hook:
        hook.post({"track": 1})
        hook.post({"track": 2})
    assert [event["track"] for event in listener.events] == [1, 2]
    assert (hook.num_sent, hook.num_lost) == (2, 0)


def test_a_server_that_is_down_and_comes_back_gets_everything(caplog):
    listener = Listener()
    with listening(listener) as port:
        pass  # the port is free again
    with Webhook(f"http://127.0.0.1:{port}/secret", last_seconds=10.0) as hook:
        for number in range(5):
            hook.post({"track": number})
        time.sleep(0.3)
        with listening(listener, port):
            deadline = time.monotonic() + 20
            while hook.num_sent < 5 and time.monotonic() < deadline:
                time.sleep(0.05)
    assert [event["track"] for event in listener.events] == list(range(5))
    assert caplog.text.count("trying again") == 1
    assert "secret" not in caplog.text


def test_what_is_refused_is_not_sent_again(caplog):
    listener = Listener(lambda tries: 400 if tries == 1 else 200)
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/") as hook:
        hook.post({"track": 1})
        hook.post({"track": 2})
    assert [event["track"] for event in listener.events] == [2]
    assert (hook.num_sent, hook.num_refused, hook.num_lost) == (1, 1, 0)
    assert "HTTP 400" in caplog.text


def test_posting_never_waits_and_the_end_is_in_time():
    listener = Listener(pause=30.0)
    with listening(listener) as port:
        began = time.monotonic()
        with Webhook(f"http://127.0.0.1:{port}/", last_seconds=0.3) as hook:
            for number in range(20):
                hook.post({"track": number})
            assert time.monotonic() - began < 5.0
        assert time.monotonic() - began < 15.0
        assert hook.num_sent == 0
        assert hook.num_lost == 20


def test_while_a_server_is_down_the_oldest_give_way(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    with listening(Listener()) as port:
        pass
    with Webhook(f"http://127.0.0.1:{port}/", last_seconds=0.1) as hook:
        for number in range(200):
            hook.post({"track": number})
        assert len(hook._waiting) <= 10
    assert hook.num_lost == 200


@pytest.mark.parametrize(
    "address", ["", "host/hook", "ftp://host/", "file:///etc/passwd", "http://", "http://a:b"]
)
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(OptionError, match="--post"):
        Webhook(address)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(OptionError) as caught:
        Webhook("https://me:secret@host/hook")
    assert "secret" not in str(caught.value)


def test_one_event_that_the_server_cannot_take_blocks_no_other(monkeypatch):
    """case: an event answered with 500 was sent again for ever, and all others waited."""
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.01)
    listener = Listener(lambda tries: 200 if tries == 1 or tries > 6 else 500)
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/") as hook:
        for number in range(4):
            hook.post({"track": number})
    assert [event["track"] for event in listener.events] == [0, 2, 3]
    assert (hook.num_sent, hook.num_lost) == (3, 1)
    assert listener.tries == 1 + module.MAX_TRIES + 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_refusal(status):
    """case: a redirected POST became a GET without its body, and counted as sent."""
    other, listener = Listener(), Listener(status)
    with listening(other) as port, listening(listener) as first:
        listener.location = f"http://127.0.0.1:{port}/other"
        with Webhook(f"http://127.0.0.1:{first}/", ["Authorization: Bearer t"]) as hook:
            hook.post({"track": 1})
    assert (hook.num_sent, hook.num_refused, other.tries) == (0, 1, 0)


def test_headers_go_along():
    listener = Listener()
    headers = ["Authorization: Bearer a:b", "X-Source:gate", "X_Token: s"]
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/", headers) as hook:
        hook.post({"track": 1})
    assert listener.headers[0]["Authorization"] == "Bearer a:b"
    assert listener.headers[0]["X-Source"] == "gate"
    assert listener.headers[0]["X_Token"] == "s"
    # What http.client cannot send would be tried for 15 minutes.
    for header in ("secret", ": x", "a b: c", "a: b\nc", "a: b\rc", "ä: b", "a: ☃"):
        with pytest.raises(OptionError, match="--post-header"):
            Webhook("http://host/", [header])


def test_events_with_names_that_are_not_utf8_are_sent():
    listener = Listener()
    with listening(listener) as port, Webhook(f"http://127.0.0.1:{port}/") as hook:
        hook.post({"source": "a\udcff.mp4"})
    assert listener.events == [{"source": "a\udcff.mp4"}]
