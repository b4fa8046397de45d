"""Bad input: each with its status and words that a client can act on."""

import asyncio
import base64
import io
import shutil
import socket
import struct
import time
import zlib
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from PIL import Image
from serving import running, until_ready

from pgvision.errors import OptionError
from pgvision.runtime.checkpoints import TINY_FOLDER
from pgvision.server import ServeSettings, create_app
from pgvision.server.compat import ChatBody
from pgvision.server.errors import ApiError
from pgvision.server.fields import ObjectFields, validated
from pgvision.server.uploads import Upload, Uploads, decode_text


def detect(address, picture, name="a.png", **fields):
    return httpx2.post(
        f"{address}/v1/detect",
        files={"image": (name, picture)},
        data={"classes": "helmet"} | fields,
        timeout=30,
    )


def refused(sent, status, *words):
    assert sent.status_code == status, sent.text
    error = sent.json()["error"]
    for word in words:
        assert word in error["message"]
    return error["code"]


def bomb(width, height):
    """A PNG whose header promises more than anybody should decode."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")):
        crc = zlib.crc32(kind + data)
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_not_a_picture(service):
    assert refused(detect(service, b"%PDF-1.7 hello" * 20), 422, "no known format") == "bad_picture"


def test_nothing(service):
    assert refused(detect(service, b""), 422, "0 bytes") == "bad_picture"


def test_a_cut_picture(service, png):
    refused(detect(service, png[: len(png) // 2]), 422, "truncated")
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "JPEG")
    refused(detect(service, file.getvalue()[:-20]), 422, "truncated")


@pytest.mark.parametrize(
    ("width", "height", "size"), [(50_000, 50_000, "far more"), (9_001, 9_000, "9001 x 9000")]
)
def test_a_bomb_is_refused_by_its_header(service, width, height, size):
    sent = detect(service, bomb(width, height))
    assert refused(sent, 413, f"50 million pixels, but its header states {size}") == (
        "too_many_pixels"
    )


def test_no_picture(service):
    sent = httpx2.post(f"{service}/v1/detect", data={"classes": "helmet"}, files={"other": b"1"})
    assert refused(sent, 422, "image: expected an image") == "no_picture"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("/etc/passwd", "path_refused"),
        ("~/site.jpg", "path_refused"),
        ("C:\\site.jpg", "path_refused"),
        ("file:///etc/passwd", "path_refused"),
        ("photos/site.jpg", "path_refused"),
        ("http://127.0.0.1:1/a.png", "address_refused"),
        ("ftp://example.org/a.png", "address_refused"),
        ("http://[::1", "address_refused"),
        ("%%%", "bad_base64"),
        ("aGVsbG8gd29ybGQ=", "bad_picture"),
    ],
)
def test_text_that_is_no_picture(service, image, code):
    sent = httpx2.post(f"{service}/v1/detect", json={"image": image, "classes": "helmet"})
    assert refused(sent, 422, "image") == code
    assert "root:" not in sent.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"conf": "2"}, "conf: Input should be less than or equal to 1"),
        ({"conf": "high"}, "conf"),
        ({"clases": "helmet"}, "no such field; known are image, model"),
        ({"classes": ";".join("abcdefgh" + str(n) for n in range(300))}, "at most 256 items"),
        ({"classes": "x" * 201}, "at most 200 characters"),
        ({"classes": ""}, "classes"),
        ({"classes": "helmet; helmet"}, "twice"),
        ({"classes": "<loc0001>"}, "<loc0001>"),
        ({"classes": "helmet\x00"}, "one line of text"),
        ({"classes": "zebra"}, "was not trained on the class 'zebra'"),
        ({"max_objects": "0"}, "max_objects"),
    ],
)
def test_fields_that_cannot_be(service, png, fields, words):
    refused(detect(service, png, **fields), 422, words)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ObjectFields, "conf"), (ObjectFields, "tile"), (ChatBody, "max_tokens"), (ChatBody, "n")],
)
def test_true_is_not_a_number(kind, name):
    """``"conf": true`` was a threshold of 1: nothing was found."""
    with pytest.raises(ApiError, match=f"{name}: expected another type, got true"):
        validated(kind, {"classes": "helmet", name: True})
    assert validated(ChatBody, {"messages": [], "logprobs": True}).logprobs


def test_fields_in_the_address_are_refused(service, png):
    """They were ignored: ``/v1/detect?conf=0.9`` gave objects of any score."""
    form = {"files": {"image": png}, "data": {"classes": "helmet"}, "timeout": 30}
    sent = httpx2.post(f"{service}/v1/detect?conf=0.9", **form)
    refused(sent, 422, "conf: send it in the body")


def test_a_file_in_the_place_of_a_field_is_not_repeated(service, png):
    files = {"image": png, "classes": ("a.png", png)}
    sent = httpx2.post(f"{service}/v1/detect", files=files, timeout=30)
    refused(sent, 422, "classes: ")
    assert len(sent.content) < 300 and "PNG" not in sent.text


def test_questions_that_cannot_be(service, png):
    for question, words in (("", "question"), ("<image> hello", "<image>"), ("a\nb", "question")):
        sent = httpx2.post(
            f"{service}/v1/ask", files={"image": png}, data={"question": question}, timeout=30
        )
        refused(sent, 422, words)


def test_unknown_model_task_and_method(service, png):
    assert refused(detect(service, png, model="huge"), 404, "'huge'", "tiny") == "unknown_model"
    refused(httpx2.post(f"{service}/v1/detekt", files={"image": png}), 404, "/openapi.json")
    refused(httpx2.get(f"{service}/v1/detect"), 405, "GET /v1/detect")


@pytest.mark.parametrize("path", ["/", "/healthz", "/page/page.js", "/v1/models", "/v1/models/a"])
def test_head_is_answered_as_get_is(service, path):
    """Monitors ask by HEAD, and got 405."""
    head, get = httpx2.head(service + path), httpx2.get(service + path)
    assert head.status_code == get.status_code != 405
    assert head.headers["Content-Length"] == get.headers["Content-Length"] and not head.content


def test_bodies_of_another_kind(service):
    path = f"{service}/v1/detect"
    refused(
        httpx2.post(path, content=b"x", headers={"Content-Type": "image/png"}), 415, "image/png"
    )
    json = {"Content-Type": "application/json"}
    refused(httpx2.post(path, content=b"{", headers=json), 400, "not JSON")
    refused(httpx2.post(path, content=b"[" * 100_000, headers=json), 400, "not JSON")
    refused(httpx2.post(path, content=b"[]", headers=json), 400, "JSON object")
    coded = {"Content-Encoding": "gzip"}
    for kind in (json, {"Content-Type": "multipart/form-data; boundary=x"}):
        sent = httpx2.post(path, content=b"\x1f\x8b", headers=kind | coded)
        refused(sent, 415, "Content-Encoding: gzip is not read")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(httpx2.post(path, content=b"--y\r\n", headers=form), 400, "form is broken")
    refused(
        httpx2.post(path, content=b"", headers={"Content-Type": "multipart/form-data"}),
        400,
        "form is broken",
    )


def test_a_form_whose_end_is_missing(service, png):
    """An upload that was cut by what is before us: its length is right and its last part is not."""
    mark = b"--x\r\nContent-Disposition: form-data; name="
    whole = mark + b'"classes"\r\n\r\nhelmet\r\n' + mark + b'"image"; filename="a.png"\r\n\r\n'
    for body in (whole + png[:1000], whole + png + b"\r\n--x", whole[:40], b""):
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        sent = httpx2.post(f"{service}/v1/detect", content=body, headers=kind, timeout=30)
        assert refused(sent, 400, "its end is missing", "send it again") == "bad_form"


def test_too_many_prompts(service, png):
    sent = detect(service, png, tile="64")
    assert refused(sent, 422, "at most 64 prompts") == "too_many_prompts"


def raw(address, *, length, body=b"", path="/v1/detect"):
    """Open a connection and send the head and a part of the body."""
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), 10)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def test_a_client_that_hangs_up_harms_nobody(service, png):
    for _ in range(5):
        raw(service, length=10_000, body=b'{"image": "').close()
        whole = b'{"classes":"helmet","image":"' + base64.b64encode(png) + b'"}'
        raw(service, length=len(whole), body=whole).close()
    assert detect(service, png).status_code == 200


@pytest.fixture(scope="module")
def narrow():
    """A service with a key, small limits and a short deadline."""
    settings = ServeSettings(
        models=("tiny",), api_key="open sesame", max_mb=0.02, max_megapixels=0.01, deadline=1.0
    )
    with running(settings) as address:
        until_ready(address)
        yield address


def test_a_body_that_does_not_come(narrow):
    address = narrow.removeprefix("http://").partition(":")
    connection = socket.create_connection((address[0], int(address[2])), 10)
    connection.sendall(
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-API-Key: open sesame\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    connection.settimeout(15)
    assert connection.recv(100).startswith(b"HTTP/1.1 408")
    connection.close()


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "open"}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "öffne dich"}],
)
def test_a_wrong_key(narrow, headers):
    headers = {name: value.encode() for name, value in headers.items()}
    sent = httpx2.post(f"{narrow}/v1/detect", headers=headers)
    assert refused(sent, 401, "Authorization: Bearer") == "wrong_key"
    assert sent.headers["WWW-Authenticate"] == "Bearer"
    assert httpx2.get(f"{narrow}/metrics", headers=headers).status_code == 401
    assert httpx2.get(f"{narrow}/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "how",
    [
        {"headers": {"X-API-Key": "open sesame"}},
        {"headers": {"Authorization": "Bearer open sesame"}},
    ],
)
def test_the_right_key(narrow, how):
    assert httpx2.get(f"{narrow}/v1/models", **how).status_code == 200


def test_limits_on_bytes_and_pixels(narrow):
    headers = {"X-API-Key": "open sesame"}
    path = f"{narrow}/v1/detect"
    sent = httpx2.post(path, headers=headers, files={"image": bytes(30_000)})
    assert refused(sent, 413, "20000 bytes") == "too_large"

    def pieces():
        for _ in range(300):
            yield bytes(1000)

    # Without a length, as chunks: what is counted is what comes.
    kind = {"Content-Type": "application/json"}
    sent = httpx2.post(path, headers=headers | kind, content=pieces())
    assert refused(sent, 413, "20000 bytes") == "too_large"
    file = io.BytesIO()
    Image.new("L", (200, 200)).save(file, "PNG")
    sent = httpx2.post(
        path, headers=headers, files={"image": file.getvalue()}, data={"classes": "helmet"}
    )
    assert refused(sent, 413, "200 x 200") == "too_many_pixels"


def forms_of(png):
    plain, safe = base64.b64encode(png).decode(), base64.urlsafe_b64encode(png).decode()
    return {
        "control": "data:image/png;base64," + plain,
        "scheme": "DATA:image/png;base64," + plain,
        "word": "data:image/png;BASE64," + plain,
        "media type": "data:Image/PNG;charset=utf-8;base64," + plain,
        "no media type": "data:;base64," + plain,
        "quoted": 'data:image/png;name="a,b;c.png";base64,' + plain,
        "spaced": " data:image/png; base64 , " + plain,
        "lines": "data:image/png;base64," + base64.encodebytes(png).decode(),
        "windows lines": "data:image/png;base64,\r\n" + plain[:76] + "\r\n" + plain[76:],
        "safe": "data:image/png;base64," + safe,
        "unpadded": "data:image/png;base64," + plain.rstrip("="),
        "escaped": "data:image/png;base64," + quote(plain),
        "not base64": "data:image/png," + quote(png),
        "bare": plain,
        "bare and safe": safe.rstrip("="),
    }


def small_png():
    """A PNG whose base64 needs padding and differs between the two alphabets."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = file.getvalue()
    return data + bytes((1 - len(data)) % 3)


@pytest.mark.parametrize("form", list(forms_of(b"a")))
def test_images_as_text_are_read_as_clients_write_them(form):
    """RFC 2397 and 4648; one function for all routes."""
    png = small_png()
    assert len(png) % 3 == 1 and {"+", "/"} & set(base64.b64encode(png).decode())
    assert decode_text(forms_of(png)[form]) == png


def test_large_images_are_kept_small_with_their_shape():
    file = io.BytesIO()
    Image.new("L", (6000, 1500)).save(file, "PNG")  # 9 megapixels; 6 are kept

    async def decode(full_size):
        uploads = Uploads(ServeSettings(models=("tiny",)))
        upload, deadline = Upload(file.getvalue()), time.monotonic() + 60
        async with uploads.decoded(upload, deadline, full_size=full_size) as (frame, image_hw):
            return frame.bgr.shape, image_hw

    assert asyncio.run(decode(True)) == ((1500, 6000, 3), (1500, 6000))
    (height, width, _), image_hw = asyncio.run(decode(False))
    assert image_hw == (1500, 6000)
    assert width == pytest.approx(4 * height, abs=4)
    assert height * width == pytest.approx(6_000_000, rel=0.002)


def test_text_that_begins_with_a_slash_is_a_path_if_it_is_short():
    assert len(decode_text("/" + 299 * "A")) == 225  # 300 characters: base64
    with pytest.raises(ApiError, match="path"):
        decode_text("/" + 298 * "A")


def test_every_route_reads_images_as_text(service):
    text = forms_of(small_png())["quoted"].replace("data:", "DATA:")
    content = [{"type": "text", "text": "ocr"}, {"type": "image_url", "image_url": {"url": text}}]
    config = '<View><Image name="i" value="$i"/><RectangleLabels name="b" toName="i">'
    config += '<Label value="helmet"/></RectangleLabels></View>'
    bodies = {
        "/v1/detect": {"image": text, "classes": "helmet"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": content}]},
        "/yolo_world/infer": {"image": {"type": "base64", "value": text}, "text": ["helmet"]},
        "/predict": {"tasks": [{"data": {"i": text}}], "label_config": config},
    }
    for path, body in bodies.items():
        sent = httpx2.post(service + path, json=body, timeout=60)
        assert sent.status_code == 200, (path, sent.text)
        assert "error" not in sent.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.test:8000"}, 403),  # a name that was rebound to 127.0.0.1
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),  # no address at all
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_pages_of_other_origins_cannot_use_a_local_service(service, headers, status):
    content = b'{"project": "1"}'
    kind = {"Content-Type": "application/json"}
    sent = httpx2.post(f"{service}/setup", content=content, headers=kind | headers)
    if status != 415:
        assert sent.status_code == status, sent.text
        return
    body = b'{"image": "aGk=", "classes": "helmet"}'
    for path in ("/v1/detect", "/v1/chat/completions", "/yolo_world/infer", "/predict"):
        assert httpx2.post(service + path, content=body, headers=headers).status_code == 415


def test_wanted_origins_may_call(png):
    origin = "https://app.example.org"
    settings = ServeSettings(models=("tiny",), allow_origins=(origin,), api_key="k")
    with running(settings) as address:
        until_ready(address)
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked |= {"Access-Control-Request-Headers": "x-api-key"}
        sent = httpx2.options(f"{address}/v1/detect", headers=asked)
        assert sent.headers["Access-Control-Allow-Origin"] == origin
        headers = {"Origin": origin, "Authorization": "bearer k"}
        form = {"files": {"image": png}, "data": {"classes": "helmet"}, "timeout": 60}
        sent = httpx2.post(f"{address}/v1/detect", headers=headers, **form)
        assert sent.status_code == 200
        assert sent.headers["Access-Control-Allow-Origin"] == origin
        other = httpx2.options(f"{address}/v1/detect", headers=asked | {"Origin": "https://a.b"})
        assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"host": "0.0.0.0"}, "--no-key"),
        ({"host": "example.org"}, "--api-key"),
        ({"allow_hosts": ("http://a",)}, "allow_host"),
        ({"allow_hosts": ("FILE:///etc/passwd",)}, "allow_host"),
        ({"allow_origins": ("app.example.org",)}, "allow_origin"),
        ({"allow_origins": ("https://app.example.org/",)}, "allow_origin"),
        ({"allow_origins": ("https://App.example.org",)}, "allow_origin"),  # browsers send small
        ({"allow_origins": ("http://[",)}, "allow_origin"),
        ({"models": ("a=tiny", "a=small")}, "two checkpoints"),
        ({"api_key": " "}, "api_key"),
        ({"api_key": "k\n"}, "api_key"),
        ({"api_key": "schlüssel"}, "api_key"),  # headers are ASCII
        ({"queue": 0}, "queue"),
        ({"deadline": 0.0}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"port": 70000}, "port"),
    ],
)
def test_settings_that_cannot_be(how, words):
    with pytest.raises(OptionError, match=words):
        ServeSettings(**how)


def test_open_addresses_need_a_key_or_a_word():
    assert not ServeSettings(host="0.0.0.0", api_key="k").is_local
    assert not ServeSettings(host="0.0.0.0", no_key=True).is_local
    assert ServeSettings(host="::1", allow_hosts=("::1", "[::1]:80")).is_local


def test_paths_of_models_are_not_published(tmp_path, monkeypatch):
    folder = tmp_path / "secret_customer" / "run7"
    shutil.copytree(TINY_FOLDER, folder)
    settings = ServeSettings(models=(str(folder), f"best={folder}", "http://me:pw@host:1/v1#gemma"))
    assert list(settings.named_models) == ["run7", "best", "gemma"]
    monkeypatch.setenv("PGVISION_MODEL", str(folder))  # its path was published
    assert create_app().state.service.models.all[0].name == "run7"
    with running(ServeSettings(models=(str(folder),))) as address:
        until_ready(address)
        (model,) = httpx2.get(f"{address}/v1/models").json()["data"]
        assert model["id"] == "run7"
        seen = [httpx2.get(f"{address}/v1/models").text]
        form = {"files": {"image": small_png()}, "data": {"classes": "zebra"}, "timeout": 60}
        for fields in ({"classes": "zebra"}, {"classes": "helmet"}, {"model": "x"}):
            form["data"] = {"classes": "helmet"} | fields
            seen.append(httpx2.post(f"{address}/v1/detect", **form).text)
        assert not [text for text in seen if "secret_customer" in text]
