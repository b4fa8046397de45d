"""The HTTP client against real servers on the loopback."""

import base64
import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pgvision.http import HttpError, HttpPolicy, fetch, hide_secrets, open_address, parse_host

POLICY = HttpPolicy(seconds=5.0)


@contextlib.contextmanager
def serving(answer):
    """Serve ``answer(handler)`` at 127.0.0.1; yields ``host:port`` and the requests that came."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, dict(self.headers)))
            with contextlib.suppress(OSError):
                answer(self)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def simple(status=200, body=b"", **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_reply_is_read_whole_or_in_parts():
    with serving(simple(body=b"x" * 200_000, Content_Type="Image/PNG; a=b")) as (host, _):
        assert fetch(f"http://{host}/a", policy=POLICY) == b"x" * 200_000
        with open_address(f"http://{host}/a", policy=POLICY) as opened:
            assert opened.content_type == "image/png"
            assert opened.read(7) == b"x" * 7
            assert len(opened.read()) == 199_993
        with open_address(f"http://{host}/a", policy=POLICY) as opened:
            assert len(opened.read(100_000)) == 100_000  # in two pieces


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("/ä b.jpg?x=☃&y=1#part", "/%C3%A4%20b.jpg?x=%E2%98%83&y=1"),
        ("/a%20b.jpg?q=%2B+[1]", "/a%20b.jpg?q=%2B+[1]"),  # quoted already
    ],
)
def test_addresses_are_quoted_as_browsers_do(typed, sent):
    with serving(simple(302, Location="/ende ä")) as (host, requests), pytest.raises(HttpError):
        fetch(f"http://{host}{typed}", policy=HttpPolicy(seconds=5.0, max_redirects=0))
    assert [path for path, _ in requests] == [sent]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher", ""])
def test_only_http_is_opened(scheme):
    with pytest.raises(HttpError, match="expected http"):
        fetch(f"{scheme}:///etc/passwd", policy=POLICY)


def test_an_address_that_cannot_be_split_is_refused():
    with pytest.raises(HttpError, match="expected http"):
        fetch("http://[::1/a.jpg", policy=POLICY)


@pytest.mark.parametrize("tail", ["file:///etc/passwd", "ftp://127.0.0.1/", "//[::1", "gopher:x"])
def test_a_redirect_to_another_scheme_is_refused(tail):
    with serving(simple(302, Location=tail)) as (host, _), pytest.raises(HttpError):
        fetch(f"http://{host}/", policy=POLICY)


def test_hosts_that_are_not_allowed_are_not_asked_not_even_by_a_redirect():
    with serving(simple(body=b"secret")) as (inner, asked):
        rules = (parse_host("example.org"),)
        for address in (f"http://{inner}/", f"http://example.org@{inner}/"):
            with pytest.raises(HttpError, match="not allowed"):
                fetch(address, policy=HttpPolicy(hosts=rules))
        with serving(simple(302, Location=f"http://{inner}/secret")) as (outer, _):
            policy = HttpPolicy(hosts=(parse_host(outer),))
            with pytest.raises(HttpError, match="not allowed"):
                fetch(f"http://{outer}/", policy=policy)
        assert not asked


@pytest.mark.parametrize(
    ("rule", "address", "is_allowed"),
    [
        ("a.org", "http://a.org/", True),
        ("a.org", "https://A.ORG/", True),
        ("a.org", "http://a.org:22/", False),
        ("a.org", "http://a.org.evil.test/", False),
        ("a.org:22", "http://a.org:22/", True),
        ("a.org:22", "http://a.org/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]/", False),
    ],
)
def test_a_rule_without_a_port_means_the_default_ports(rule, address, is_allowed):
    assert HttpPolicy(hosts=(parse_host(rule),)).allows(address) is is_allowed
    others = (parse_host("b.org"), parse_host(rule), parse_host("c.org"))
    assert HttpPolicy(hosts=others).allows(address) is is_allowed


def test_proxies_are_those_of_the_environment_or_none(monkeypatch):
    with serving(simple(body=b"by the proxy")) as (proxy, asked):
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert fetch("http://example.org/a", policy=POLICY) == b"by the proxy"
        assert asked.pop()[0] == "http://example.org/a"
        with serving(simple(body=b"straight")) as (host, _):
            straight = HttpPolicy(seconds=5.0, use_proxies=False)
            assert fetch(f"http://{host}/", policy=straight) == b"straight"
        assert not asked


@pytest.mark.parametrize(
    "text", ["", "FILE:///etc/passwd", "a b", "http://a", "u:p@h", "a:x", "a/b"]
)
def test_what_is_not_a_host_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_host(text)


def test_a_login_goes_to_its_own_origin_and_to_no_other():
    """case: a camera that redirects to another host got the password with the request."""
    with serving(simple(body=b"ok")) as (other, theirs):

        def answer(handler):
            to = f"http://{other}/evil" if handler.path == "/away" else "/home"
            simple(200, b"ok")(handler) if handler.path == "/home" else simple(302, Location=to)(
                handler
            )

        with serving(answer) as (own, ours):
            address = f"http://admin:hunter%202@{own}"
            headers = {"X-Token": "t"}
            assert fetch(f"{address}/away", policy=POLICY, headers=headers) == b"ok"
            assert fetch(f"{address}/near", policy=POLICY, headers=headers) == b"ok"
    ((_, sent),) = theirs
    assert "Authorization" not in sent and "X-Token" not in sent
    coded = "Basic " + base64.b64encode(b"admin:hunter 2").decode()
    assert [headers["Authorization"] for _, headers in ours] == [coded] * 3
    assert [headers["X-Token"] for _, headers in ours] == ["t"] * 3


def test_a_post_is_not_redirected():
    with serving(simple(302, Location="/other")) as (host, asked):
        with pytest.raises(HttpError) as caught:
            fetch(f"http://{host}/hook", policy=POLICY, body=b"{}")
        assert caught.value.status == 302
        assert [path for path, _ in asked] == ["/hook"]


def test_redirects_end():
    with serving(simple(302, Location="/again")) as (host, asked):
        with pytest.raises(HttpError, match="redirects"):
            fetch(f"http://{host}/", policy=POLICY)
        assert len(asked) == 6


def drip(part):
    """Send one byte every 0.2 s, of the headers or of the body."""

    def answer(handler):
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.2)

    return answer


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_slow_server_costs_the_deadline_and_no_more(part):
    with serving(drip(part)) as (host, _):
        began = time.monotonic()
        with pytest.raises(HttpError, match="no answer within 1 s"):
            fetch(f"http://{host}/", policy=HttpPolicy(seconds=1.0))
        assert time.monotonic() - began < 3.0


def test_a_server_that_accepts_and_says_nothing_costs_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        with pytest.raises(HttpError, match="no answer within 1 s"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", policy=HttpPolicy(seconds=1.0))
        assert time.monotonic() - began < 3.0


def test_too_much_and_too_little_are_refused():
    with (
        serving(simple(body=b"x" * 1000)) as (host, _),
        pytest.raises(HttpError, match="999 bytes"),
    ):
        fetch(f"http://{host}/", policy=HttpPolicy(max_bytes=999))
    with (
        serving(simple(body=b"x", Content_Length=5)) as (host, _),
        pytest.raises(HttpError, match="1 of 5 bytes|IncompleteRead|1 bytes read"),
    ):
        fetch(f"http://{host}/", policy=POLICY)


def test_an_error_of_the_caller_stays_its_own():
    with (
        serving(simple(body=b"x")) as (host, _),
        pytest.raises(ValueError, match="no picture"),
        open_address(f"http://{host}/", policy=POLICY),
    ):
        raise ValueError("no picture")


def test_a_refusal_has_its_status_and_no_secret():
    with serving(simple(503, b"busy", Retry_After=7)) as (host, _):
        with pytest.raises(HttpError, match=r"\*\*\*@.*token=\*\*\*.*503.*busy") as caught:
            fetch(f"http://me:hunter2@{host}/x?token=abc", policy=POLICY)
        assert (caught.value.status, caught.value.retry_after) == (503, 7.0)
    assert "hunter2" not in str(caught.value) and "abc" not in str(caught.value)
    with pytest.raises(HttpError) as caught:
        fetch(f"http://me:hunter2@{host}/x?token=abc", policy=POLICY)  # nobody listens any more
    assert "hunter2" not in str(caught.value) and "abc" not in str(caught.value)


SECRETS = [
    ("rtsp://admin:p@ss@10.0.0.7/live", "rtsp://***@10.0.0.7/live"),
    ("rtsp://admin:pa/s?s#@host/live", "rtsp://***@host/live"),
    ("s3://id:secret@bucket/a.jpg", "s3://***@bucket/a.jpg"),
    ("http://user@host/x", "http://***@host/x"),
    ("http://h/x?api_key=a/b+c=&n=1", "http://h/x?api_key=***&n=1"),
    ("http://h/x?PWD=a&Pass=b&sig=c&auth=d", "http://h/x?PWD=***&Pass=***&sig=***&auth=***"),
    ("http://h/x?loginuse=me&loginpas=b", "http://h/x?loginuse=me&loginpas=***"),
    ("http://h/k?X-Amz-Credential=a%2Fb&X-Amz-Signature=c", "http://h/k?X-Amz-Credential=***&X-Amz-Signature=***"),
    ("rtsp://h:554/user=me&password=t/J&channel=1", "rtsp://h:554/user=me&password=***&channel=1"),
    ("rtsp://h/user=me_password=t_J_channel=1.sdp", "rtsp://h/user=me_password=***_channel=1.sdp"),
    ("http://h/token/abc/live", "http://h/token/***/live"),
    ("[tls] http://a:b@h/x: 401; GET /y?key=z a", "[tls] http://***@h/x: 401; GET /y?key=*** a"),
    ("Authorization: Basic YWRtaW46aHVudGVyMg==", "Authorization: Basic ***"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "hidden"), SECRETS)
def test_secrets_are_hidden(text, hidden):
    assert hide_secrets(text) == hidden
    assert hide_secrets(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/a@b.jpg", "https://example.org/@user/x", "http://h/x?design=3&author=me",
        "http://[::1]:80/a", "/home/key/x.jpg", "/data/token=3/a.jpg", "a/b=c.jpg", "camera:0",
        "http://h/keys/1.jpg", "http://h/monitor/1?w=640",
    ],
)  # fmt: skip
def test_what_is_not_secret_stays(text):
    assert hide_secrets(text) == text
