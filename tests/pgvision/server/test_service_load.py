"""Many at once: batches, a bounded queue, deadlines, failures, a clean end."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import cv2
import httpx2
import numpy as np
import pytest
from serving import as_png, running, until_ready
from starlette.requests import Request

from pgvision import Detector
from pgvision.cli.app import main
from pgvision.errors import CheckpointError
from pgvision.runtime import load
from pgvision.server import ServeSettings
from pgvision.server.app import _listening
from pgvision.server.errors import ApiError
from pgvision.server.fields import ObjectFields
from pgvision.server.service import Service
from pgvision.server.uploads import Upload
from recipes.scenes import render_scene

ROOT = Path(__file__).parents[3]


def detect(address, png, **how):
    form = {"files": {"image": ("a.png", png)}, "data": {"classes": "helmet"}}
    return httpx2.post(f"{address}/v1/detect", **form, timeout=60, **how)


def at_once(count, call):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def counted(address, name, **how):
    """Read a sum of counts from /metrics."""
    text = httpx2.get(f"{address}/metrics", timeout=60, **how).text
    return sum(float(one) for one in re.findall(rf"^{re.escape(name)}\S* (\S+)$", text, re.M))


class Slow:
    """The real engine, each answer held back."""

    def __init__(self, seconds, *, refuse=()):
        self.engine, self.seconds, self.refuse = load("tiny"), seconds, refuse
        self.card = self.engine.card

    def generate(self, requests, *, batch_size=None):
        def watched():
            for request in requests:
                if request.picture.fingerprint in self.refuse:
                    raise RuntimeError("this picture is too much for me")
                yield request

        for each in self.engine.generate(watched(), batch_size=batch_size):
            time.sleep(self.seconds)
            yield each


def test_many_callers_share_batches_and_each_gets_its_own_answer(service):
    scenes = [render_scene(30_000_100 + seed, image_hw=(240, 320)).image for seed in range(24)]
    alone = Detector("helmet", model="tiny").predict(scenes)
    before = (
        counted(service, "pgvision_rows_together_sum"),
        counted(service, "pgvision_rows_together_count"),
    )
    sent = at_once(24, lambda at: detect(service, as_png(scenes[at])))
    for one, expected in zip(sent, alone, strict=True):
        found = one.json()["annotations"]
        assert len(found) == len(expected)
        np.testing.assert_allclose(
            [each["score"] for each in found], expected.scores if found else [], atol=1e-4
        )
    rows = counted(service, "pgvision_rows_together_sum") - before[0]
    answers = counted(service, "pgvision_rows_together_count") - before[1]
    assert answers == 24
    assert rows / answers > 3


def test_files_of_the_page_come_without_a_wait(service):
    # Each took the two seconds in which the rest of a refused body is drained.
    started = time.monotonic()
    with httpx2.Client(base_url=service, timeout=60) as client:
        page = client.get("/")
        files = set(re.findall(r"page/[\w-]+\.\w+", page.text))
        assert {"page/page.css", "page/page.js"} <= files
        assert {client.get(f"/{one}").status_code for one in files} == {200}
    assert time.monotonic() - started < 2.0


def test_answers_on_an_open_connection_do_not_wait_for_acknowledgements():
    """Each took 40 ms longer: asyncio sets TCP_NODELAY for sockets of its own making only."""
    with (
        _listening(ServeSettings(port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_full_queue_answers_429_and_when_to_come_back(png):
    settings = ServeSettings(models=("tiny",), queue=4)
    with running(settings, load_model=lambda name: Slow(0.2)) as address:
        until_ready(address)
        sent = at_once(16, lambda _: detect(address, png))
        statuses = [one.status_code for one in sent]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 4
        full = next(one for one in sent if one.status_code == 429)
        assert int(full.headers["Retry-After"]) >= 1
        assert full.json()["error"]["code"] == "queue_full"
        assert detect(address, png).status_code == 200


def test_bodies_over_the_limit_are_refused_one_at_a_time():
    # Twenty bodies of 40 kB may not all be in memory when eight of 50 kB may; ten of them may.
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    form = {"files": {"image": ("a.png", as_png(noise))}, "data": {"classes": "helmet"}}
    with running(ServeSettings(models=("tiny",), max_mb=0.05)) as address, ExitStack() as stack:
        until_ready(address)
        sent = httpx2.Request("POST", f"{address}/v1/detect", **form)
        body = sent.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
        start = f"POST /v1/detect HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode()
        target = (sent.url.host, sent.url.port)
        callers = [
            stack.enter_context(socket.create_connection(target, timeout=60)) for _ in range(20)
        ]
        for caller in callers:
            caller.sendall(start + body[:30_000])
        time.sleep(0.5)
        for caller in callers:
            caller.sendall(body[30_000:])
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(lambda caller: int(caller.recv(64).split()[1]), callers))
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 8
        assert detect(address, as_png(noise)).status_code == 200


@pytest.mark.slow
def test_a_thousand_at_once(service, png):
    async def all_of_them():
        limits = httpx2.Limits(max_connections=1000)
        async with httpx2.AsyncClient(limits=limits, timeout=120) as client:
            form = {"files": {"image": ("a.png", png)}, "data": {"classes": "helmet"}}
            calls = [client.post(f"{service}/v1/detect", **form) for _ in range(1000)]
            return [sent.status_code for sent in await asyncio.gather(*calls)]

    statuses = asyncio.run(all_of_them())
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 64
    assert detect(service, png).status_code == 200


def test_a_passed_deadline_answers_504_and_later_ones_are_answered(png):
    settings = ServeSettings(models=("tiny",), deadline=3.0)
    slow = Slow(4.0)
    with running(settings, load_model=lambda name: slow) as address:
        until_ready(address)
        sent = at_once(3, lambda _: detect(address, png))
        assert [one.status_code for one in sent] == [504] * 3
        assert sent[0].json()["error"]["code"] == "deadline_passed"
        slow.seconds = 0.0
        for _ in range(50):
            if detect(address, png).status_code == 200:
                break
        else:
            pytest.fail("never answered again")
        assert counted(address, "pgvision_deadlines_passed_total") >= 3


def test_an_image_whose_turn_comes_after_the_deadline_is_not_decoded():
    service = Service(ServeSettings(models=("tiny",)))
    service.models.start(lambda: None)
    try:
        while not service.models.all[0].is_ready:
            time.sleep(0.05)
        context = SimpleNamespace(deadline=time.monotonic())
        request = Request({"type": "http", "pgvision": context})
        with pytest.raises(ApiError, match="not answered within"):
            asyncio.run(service.answer(request, Upload(b"no image"), ObjectFields(classes=["x"])))
    finally:
        service.models.close()


def test_a_picture_that_breaks_the_engine_fails_alone(scene, png):
    from pgvision.runtime import Picture

    bad = np.ascontiguousarray(scene.image[:, ::-1])
    slow = Slow(0.05, refuse={Picture(bad).fingerprint})
    with running(load_model=lambda name: slow) as address:
        until_ready(address)
        pictures = [png, as_png(bad), png, png]
        sent = at_once(4, lambda at: detect(address, pictures[at]))
        assert [one.status_code for one in sent] == [200, 500, 200, 200]
        assert "internal error" in sent[1].json()["error"]["message"]


def test_images_of_one_request_leave_the_queue_to_others(png):
    """64 images of 64 classes were 4096 prompts in the queue, before those of everybody else."""
    scenes = [as_png(np.full((20, 30, 3), shade, np.uint8)) for shade in range(40)]
    many = {"files": [("image", ("a.png", scene)) for scene in scenes]}
    many |= {"data": {"classes": "helmet"}, "timeout": 60}
    with running(load_model=lambda name: Slow(0.05)) as address:
        until_ready(address)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx2.post, f"{address}/v1/detect", **many)
            while not counted(address, "pgvision_rows_together_count"):
                time.sleep(0.01)
            assert detect(address, png).status_code == 200
            assert not asked.done()
            assert len(asked.result().json()["results"]) == 40


class Broken:
    """An engine that raises before it takes a prompt, while ``is_broken``."""

    def __init__(self):
        self.engine, self.is_broken, self.calls = load("tiny"), True, 0
        self.card = self.engine.card

    def generate(self, requests, *, batch_size=None):
        self.calls += 1
        if self.is_broken:
            raise RuntimeError("CUDA error: device-side assert /home/secret/path")
        return self.engine.generate(requests, batch_size=batch_size)


def test_readiness_notices_an_engine_that_fails_and_its_return(png):
    """case: /readyz was 200 over a dead engine, and the thread span with millions of log lines."""
    broken = Broken()
    with running(ServeSettings(models=("tiny",)), load_model=lambda name: broken) as address:
        until_ready(address)
        for _ in range(3):
            sent = detect(address, png)
            assert sent.status_code == 500
            assert "secret" not in sent.text
        assert broken.calls < 20
        ready = httpx2.get(f"{address}/readyz")
        assert ready.status_code == 503 and "engine fails" in ready.json()["error"]["message"]
        assert httpx2.get(f"{address}/healthz").status_code == 200
        broken.is_broken = False
        assert detect(address, png).status_code == 200
        assert httpx2.get(f"{address}/readyz").status_code == 200


def test_large_images_are_shrunk_and_boxes_are_those_of_the_image_that_was_sent(scene, service):
    large = cv2.resize(scene.image, (3200, 2400), interpolation=cv2.INTER_CUBIC)
    small = detect(service, as_png(scene.image)).json()
    found = detect(service, as_png(large)).json()
    assert found["images"][0]["width"] == 3200
    boxes, expected = (
        np.array([one["bbox"] for one in body["annotations"]]) for body in (found, small)
    )
    assert len(boxes) and len(boxes) == len(expected)
    np.testing.assert_allclose(boxes / 5, expected, atol=6)


def test_a_model_that_loads_answers_503_until_it_is_there(png):
    gate = threading.Event()

    def slowly(name):
        gate.wait(120)
        return load(name)

    with running(load_model=slowly) as address:
        assert httpx2.get(f"{address}/healthz").status_code == 200
        ready = httpx2.get(f"{address}/readyz")
        assert ready.status_code == 503 and int(ready.headers["Retry-After"]) > 0
        sent = detect(address, png)
        assert sent.status_code == 503 and sent.json()["error"]["code"] == "loading"
        gate.set()
        until_ready(address)
        assert detect(address, png).status_code == 200


@pytest.mark.parametrize("kind", [CheckpointError, RuntimeError], ids=str)
def test_a_model_that_cannot_be_loaded_says_so_and_stops_the_service(kind):
    """RuntimeError: torch, without memory; the service was "still loading" for ever."""
    failed = threading.Event()

    def never(name):
        raise kind(f"{name}: weights are broken")

    with running(load_model=never, on_failure=failed.set) as address:
        assert failed.wait(60)
        ready = httpx2.get(f"{address}/readyz")
        assert ready.status_code == 503 and "weights are broken" in ready.json()["error"]["message"]


@pytest.fixture
def command(tmp_path):
    """Start ``pgvision serve`` as a process; gives it and its address once it is ready."""
    started = []

    def start(*words, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "pgvision", "serve", "--port", "0", *words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )
        started.append(process)
        for line in process.stderr:
            if found := re.search(r"http://\S+:\d+", line):
                until_ready(found[0])
                return process, found[0]
        raise AssertionError("ended before it listened")

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words", "environment"),
    [
        (signal.SIGINT, 0, ["--model", "tiny", "--api-key", "k", "--queue", "9"], {}),
        (signal.SIGTERM, 0, [], {"PGVISION_MODEL": "tiny", "PGVISION_API_KEY": "k"}),
    ],
)
def test_the_end_waits_for_what_was_taken(command, png, number, code, words, environment):
    process, address = command(*words, **environment)
    key = {"X-API-Key": "k"}
    assert httpx2.get(f"{address}/v1/models").status_code == 401
    assert httpx2.get(f"{address}/v1/models", headers=key).json()["data"][0]["id"] == "tiny"
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(detect, address, png, headers=key) for _ in range(6)]
        while counted(address, "pgvision_requests_inside", headers=key) == 0:
            assert not all(one.done() for one in asked), "too fast to be told apart"
        process.send_signal(number)
        statuses = [one.result().status_code for one in asked if not one.exception()]
    assert statuses and set(statuses) == {200}
    assert process.wait(30) == code


def test_a_taken_port_and_a_wrong_model_end_with_a_line(service, capsys):
    port = service.rpartition(":")[2]
    for words, said in (
        (["--port", port], "use another --port"),
        (["--model", "no/such/model"], "neither a folder nor a hub id"),
        (["--allow-host", "http://a b"], "expected a host"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *words])
        assert ended.value.code in (1, 2)
        assert said in capsys.readouterr().err
