"""The service as Label Studio's backend; pictures come by address from an allowed host."""

import base64
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from serving import running, until_ready

from pgvision import Detector, samples
from pgvision.errors import OptionError
from pgvision.runtime.checkpoints import TINY_FOLDER
from pgvision.server import ServeSettings, create_app

BOXES = """<View><Image name="img" value="$image"/><RectangleLabels name="tag" toName="img">
<Label value="Helmets"/><Label value="giraffe"/></RectangleLabels></View>"""


@contextmanager
def hosting(png, see):
    """Serve an image under any address; ``see`` gets the headers of each request."""

    class Host(BaseHTTPRequestHandler):
        def do_GET(self):
            see(self.headers)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def studio(png):
    """Stand in for Label Studio's file store, which wants a token; its address."""

    class Store(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/secret.png")
                self.end_headers()
                return
            allowed = self.headers.get("Authorization") == "Token letmein"
            self.send_response(200 if allowed else 403)
            self.end_headers()
            if allowed:
                self.wfile.write(png if self.path != "/text" else b"hello")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def backend(studio):
    with running(ServeSettings(models=("tiny",), allow_hosts=(studio,), api_key="k")) as address:
        until_ready(address)
        yield address


@pytest.fixture(autouse=True)
def told(monkeypatch, studio):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "letmein")
    monkeypatch.setenv("LABEL_STUDIO_URL", f"http://{studio}")


def predict(address, *pictures, config=BOXES):
    tasks = [{"id": at, "data": {"image": one}} for at, one in enumerate(pictures)]
    body = {"tasks": tasks, "label_config": config, "project": "1.7", "params": {}}
    # Label Studio knows user and password for backends.
    return httpx2.post(f"{address}/predict", json=body, auth=("any", "k"), timeout=60)


def test_health_setup_and_webhook(backend):
    assert httpx2.get(f"{backend}/health").json()["status"] == "UP"
    auth = ("any", "k")
    sent = httpx2.post(f"{backend}/setup", json={"project": "1.7", "schema": BOXES}, auth=auth)
    assert sent.json() == {"model_version": "pgvision tiny"}
    sent = httpx2.post(f"{backend}/webhook", json={"action": "ANNOTATION_CREATED"}, auth=auth)
    assert sent.status_code == 200
    assert httpx2.post(f"{backend}/setup", json={}, auth=("any", "other")).status_code == 401


def test_tasks_get_boxes_under_the_names_of_the_project(backend, studio, png, scene):
    data_uri = "data:image/png;base64," + base64.b64encode(png).decode()
    sent = predict(backend, "/data/upload/1/site.png", f"http://{studio}/b.png", data_uri)
    assert sent.status_code == 200, sent.text
    results = sent.json()["results"]
    expected = Detector("helmet", model="tiny")(scene.image)
    assert len(results) == 3 and len(expected)
    for found in results:
        assert len(found["result"]) == len(expected)
        for region, box in zip(found["result"], expected.xyxy.tolist(), strict=True):
            assert region["value"]["rectanglelabels"] == ["Helmets"]
            assert region["value"]["x"] == pytest.approx(box[0] / 6.4, abs=1e-3)
            assert region["value"]["height"] == pytest.approx((box[3] - box[1]) / 4.8, abs=1e-3)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("http://localhost:1/a.png", "--allow-host localhost"),
        ("/away", "not allowed"),
        ("/text", "does not send an image"),
        ("http://169.254.169.254/latest/meta-data", "nothing is fetched"),
        ("data:image/jpeg;base64,AAAA", "no known format"),
        (None, "data.image"),
    ],
)
def test_a_task_that_cannot_be_read_costs_its_own_entry(backend, png, picture, words, caplog):
    good = "data:image/png;base64," + base64.b64encode(png).decode()
    sent = predict(backend, good, picture, good)
    assert sent.status_code == 200, sent.text
    first, broken, last = sent.json()["results"]
    assert first["result"] and len(first["result"]) == len(last["result"])
    assert broken["result"] == [] and words in broken["error"]
    assert words in caplog.text  # Label Studio does not show it


def test_masks_of_a_photograph_are_refused_with_the_reason(tmp_path):
    """There were no regions, and nothing told why."""
    folder = Path(shutil.copytree(TINY_FOLDER, tmp_path / "drawn"))
    card = json.loads((folder / "pgvision.json").read_text(encoding="utf-8"))
    card["masks_on"] = {"helmet": "drawings"}
    (folder / "pgvision.json").write_text(json.dumps(card), encoding="utf-8")
    data = base64.b64encode(samples.path("astronaut").read_bytes()).decode()
    config = BOXES.replace("RectangleLabels", "BrushLabels")
    with running(ServeSettings(models=(str(folder),))) as address:
        until_ready(address)
        (found,) = predict(address, f"data:;base64,{data}", config=config).json()["results"]
    assert found["result"] == [] and "this image looks like a photograph" in found["error"]


def test_an_address_of_label_studio_that_cannot_be_is_refused_at_the_start(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", "studio:8080")
    with pytest.raises(OptionError, match="LABEL_STUDIO_URL: expected http"):
        create_app(ServeSettings(models=("tiny",)))


def test_few_addresses_are_fetched_at_a_time(png):
    """Fetched bytes were not counted: 64 requests of 32 MB each were in memory together."""
    lock, open_now, most = threading.Lock(), 0, 0

    def see(_):
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        time.sleep(0.1)
        with lock:
            open_now -= 1

    settings = {"models": ("tiny",)}
    with (
        hosting(png, see) as host,
        running(ServeSettings(**settings, allow_hosts=(host,))) as address,
        ThreadPoolExecutor(4) as pool,
    ):
        until_ready(address)
        body = {"image": [f"http://{host}/{at}.png" for at in range(8)], "classes": "helmet"}
        for sent in pool.map(
            lambda _: httpx2.post(f"{address}/v1/detect", json=body, timeout=60), range(4)
        ):
            assert all(len(one["annotations"]) for one in sent.json()["results"])
    assert 4 < most <= 8


def test_the_token_goes_to_label_studio_alone(png):
    """case: the token went to every allowed host."""
    seen = []
    with (
        hosting(png, lambda headers: seen.append(headers.get("Authorization"))) as other,
        running(ServeSettings(models=("tiny",), allow_hosts=(other,))) as address,
    ):
        until_ready(address)
        body = {"image": f"http://{other}/a.png", "classes": "helmet"}
        assert httpx2.post(f"{address}/v1/detect", json=body, timeout=60).status_code == 200
    assert seen == [None]


def test_every_group_of_labels_is_answered_under_its_own_name(backend, png, scene):
    """Boxes and polygons, an alias, predicted values, a list of images, and <Labels>."""
    config = """<View><Image name="img" valueList="$image"/>
    <RectangleLabels name="hats" toName="img"><Label value="Hat" predicted_values="helmet"/>
    </RectangleLabels><RectangleLabels name="people" toName="img"><Label value="worker" alias="W"/>
    </RectangleLabels><PolygonLabels name="outlines" toName="img"><Label value="helmet"/>
    </PolygonLabels><Rectangle name="box" toName="img"/><Labels name="kind" toName="img">
    <Label value="cone"/></Labels></View>"""
    good = "data:image/png;base64," + base64.b64encode(png).decode()
    sent = predict(backend, [good, good], config=config)
    (found,) = sent.json()["results"]
    assert "error" not in found
    num_workers = len(Detector("worker", model="tiny")(scene.image))
    num_helmets = len(Detector("helmet", model="tiny")(scene.image))
    assert num_workers and num_helmets
    for index in (0, 1):
        regions = [one for one in found["result"] if one["item_index"] == index]
        names = [
            (one["from_name"], one["type"], *one["value"].get(one["type"], ())) for one in regions
        ]
        assert names.count(("hats", "rectanglelabels", "Hat")) == num_helmets
        assert names.count(("people", "rectanglelabels", "W")) == num_workers
        assert ("outlines", "polygonlabels", "helmet") in names
        boxes = [one["id"] for one in regions if one["from_name"] == "box"]
        assert boxes == [one["id"] for one in regions if one["from_name"] == "kind"]


def test_configs_and_tasks_that_cannot_be_used_are_refused(backend):
    sent = predict(backend, "/a.png", config="<View/>")
    assert sent.status_code == 422 and "RectangleLabels" in sent.json()["error"]["message"]
    config = BOXES.replace("Helmets", "zebra")
    sent = predict(backend, "/a.png", config=config)
    assert sent.status_code == 422
    assert "was not trained on the class 'zebra'" in sent.json()["error"]["message"]
    assert predict(backend).json()["error"]["code"] == "no_tasks"
    sent = predict(backend, *["/a.png"] * 65)
    assert sent.json()["error"]["code"] == "too_many_tasks"
