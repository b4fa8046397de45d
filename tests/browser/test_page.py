"""The page as people use it: by mouse, keyboard and thumb."""

import base64
import json
import re
import subprocess
import sys

import cv2
import httpx2
import numpy as np
import pytest
from playwright.sync_api import expect
from pycocotools.coco import COCO

from pgvision.images import VideoWriter
from recipes.scenes import render_scene, render_video


def upload(page, file):
    page.set_input_files("#file", str(file))
    # With its name: the example that was there before has a size, too.
    expect(page.locator("#status")).to_contain_text(re.compile(rf"{re.escape(file.stem)}.* x \d"))


def ask(page, *, task="detect", words=None):
    page.check(f"input[name=task][value={task}]")
    if words is not None:
        page.fill("#words-0", words)
    with page.expect_response("**/v1/*"):
        page.click("#run")
    expect(page.locator("#status")).to_contain_text("answered")


def answer_of(address, picture, task="detect", **fields):
    sent = httpx2.post(
        f"{address}/v1/{task}", files={"image": picture.read_bytes()}, data=fields, timeout=60
    )
    return sent.json()


def shown(page, at=0):
    return page.locator(f"#view-{at}")


def test_upload_detect_and_slide(new_page, address, picture):
    page = new_page()
    upload(page, picture)
    ask(page, words="helmet; head; cone")
    scores = [
        one["score"]
        for one in answer_of(address, picture, classes="helmet; head; cone")["annotations"]
    ]
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for least in (0.0, 0.5, 0.9, 1.0):
        page.fill("#slider", str(least))
        left = sum(score >= least for score in scores)
        assert shown(page).get_attribute("data-count") == str(left)
        assert shown(page).locator(".objects li").count() == left
    assert not asked  # without asking again
    assert "helmet is in the image: " in shown(page).locator(".summary").inner_text()


def test_boxes_are_drawn_where_they_are(new_page, address, picture):
    page = new_page()
    upload(page, picture)
    plain = pixels(page)
    page.fill("#slider", "0")
    ask(page, words="helmet")
    drawn = pixels(page)
    scale = drawn.shape[1] / 640
    changed = np.abs(drawn.astype(int) - plain).sum(axis=2) > 60
    found = answer_of(address, picture, classes="helmet")["annotations"]
    assert found
    for one in found:
        x, y, w, h = (side * scale for side in one["bbox"])
        middle = changed[round(y + h / 2), :]
        assert middle[round(x) - 2 : round(x) + 3].any()
        assert middle[round(x + w) - 2 : round(x + w) + 3].any()


def pixels(page):
    coded = page.evaluate("document.querySelector('#view-0 canvas').toDataURL().split(',')[1]")
    return cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)


def test_hover_tells_label_score_and_how_sure_the_edges_are(new_page, address, picture):
    page = new_page()
    upload(page, picture)
    page.fill("#slider", "0")
    ask(page, words="helmet")
    one = answer_of(address, picture, classes="helmet")["annotations"][0]
    canvas = shown(page).locator("canvas").bounding_box()
    scale = canvas["width"] / 640
    x, y, w, h = one["bbox"]
    page.mouse.move(canvas["x"] + (x + w / 2) * scale, canvas["y"] + (y + h / 2) * scale)
    tip = shown(page).locator(".tip").inner_text()
    assert f"helmet {one['score']:.2f}" in tip
    assert f"left {one['edge_std'][0]:.1f}" in tip
    page.mouse.move(canvas["x"] + 1, canvas["y"] + 1)
    assert not shown(page).locator(".tip").is_visible()


def test_downloads(new_page, address, picture, tmp_path):
    page = new_page()
    upload(page, picture)
    page.fill("#slider", "0")
    ask(page, task="segment", words="helmet")
    with page.expect_download() as loading:
        shown(page).locator(".save-coco").click()
    assert loading.value.suggested_filename == "Baustelle ü.coco.json"
    loading.value.save_as(tmp_path / "a.json")
    coco = COCO(tmp_path / "a.json")
    sent = answer_of(address, picture, "segment", classes="helmet", masks="polygons")
    assert len(coco.anns) == len(sent["annotations"]) > 0
    assert all(coco.annToMask(one).any() for one in coco.anns.values())
    with page.expect_download() as loading:
        shown(page).locator(".save-picture").click()
    loading.value.save_as(tmp_path / "a.png")
    saved = cv2.imread(str(tmp_path / "a.png"))
    assert saved.shape == (480, 640, 3)
    plain = cv2.imdecode(np.frombuffer(picture.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert 0.001 < (saved != plain).any(axis=2).mean() < 0.5


def test_questions_captions_and_reading(new_page, address, picture):
    page = new_page()
    upload(page, picture)
    ask(page, task="ask", words="how many workers wear a helmet?")
    expected = answer_of(address, picture, "ask", question="how many workers wear a helmet?")
    assert shown(page).locator(".answer").inner_text() == expected["text"]
    ask(page, task="caption")
    expected = answer_of(address, picture, "caption")
    assert shown(page).locator(".answer").inner_text() == expected["text"]
    shown(page).locator("summary").click()
    assert "total" in shown(page).locator(".timings").inner_text()
    assert expected["prefix"] in shown(page).locator(".prefix").inner_text()


def test_two_prompts_side_by_side(new_page, address, picture):
    page = new_page()
    upload(page, picture)
    page.check("#compare")
    page.fill("#words-1", "cone")
    page.fill("#slider", "0")
    ask(page, words="helmet")
    for at, words in enumerate(("helmet", "cone")):
        expected = answer_of(address, picture, classes=words)["annotations"]
        assert shown(page, at).get_attribute("data-count") == str(len(expected))
        assert words in shown(page, at).locator("h2").inner_text()


def test_examples_and_keyboard_alone(new_page):
    page = new_page()
    page.locator("#examples button").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("640 x 480")
    page.locator("#words-0").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("helmet")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("answered")
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    first = shown(page).locator(".objects button").first
    first.focus()
    assert shown(page).locator(".tip").is_visible()
    reached = set()
    page.locator("#model").focus()
    for _ in range(45):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        page.keyboard.press("Tab")
    assert {"model", "camera", "run", "slider", "words-0"} <= reached


def test_a_picture_is_pasted_and_dropped(new_page, picture):
    page = new_page()
    for kind, place in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate(
            """async ([kind, place, url]) => {
                const blob = await (await fetch(url)).blob();
                const transfer = new DataTransfer();
                transfer.items.add(new File([blob], kind + ".jpg", { type: "image/jpeg" }));
                const event = new Event(kind, { bubbles: true, cancelable: true });
                Object.defineProperty(event, place, { value: transfer });
                document.body.dispatchEvent(event);
            }""",
            [kind, place, "page/example-site-01.jpg"],
        )
        expect(page.locator("#status")).to_contain_text(f"{kind}.jpg: 640")


def test_errors_come_in_words(new_page, picture, tmp_path):
    page = new_page()
    error = page.locator("#error")
    page.fill("#words-0", " ")
    page.click("#run")
    assert error.inner_text() == "Write what to find."
    assert error.evaluate("one => one.previousElementSibling.id") == "words"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"hello")
    page.set_input_files("#file", str(broken))
    expect(page.locator("#error")).to_contain_text("broken.png")
    assert "not an image that this browser can show" in error.inner_text()
    assert error.evaluate("one => one.previousElementSibling.id") == "image-box"
    page.fill("#words-0", "helmet")
    page.click("#run")
    assert "no image yet" in error.inner_text()
    upload(page, picture)
    assert error.inner_text() == ""
    page.fill("#words-0", "zebra")
    page.click("#run")
    expect(page.locator("#error")).to_contain_text("zebra")
    assert "the nearest are" in error.inner_text()
    # An old answer beside a new error would mislead.
    assert shown(page).locator(".summary").inner_text() == ""
    assert not shown(page).locator(".save-coco").is_visible()
    page.route("**/v1/**", lambda route: route.abort())
    page.click("#run")
    expect(page.locator("#error")).to_contain_text("running?")


def test_a_browser_without_camera_permission(new_page):
    page = new_page()
    page.click("#camera")
    expect(page.locator("#error")).to_contain_text("does not allow the camera")
    assert "choose an image instead" in page.locator("#error").inner_text()
    expect(page.locator("#camera")).to_have_text("Use the camera")


@pytest.mark.parametrize(
    ("name", "words"),
    [("NotFoundError", "No camera was found"), ("NotReadableError", "another program")],
)
def test_a_camera_that_is_not_there_or_busy(new_page, name, words):
    page = new_page()
    page.evaluate(
        """(name) => {
            navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", name));
        }""",
        name,
    )
    page.click("#camera")
    expect(page.locator("#error")).to_contain_text(words)
    assert "choose an image instead" in page.locator("#error").inner_text()


def test_the_camera_is_asked_about_and_let_go(new_page):
    page = new_page(permissions=["camera"])
    page.click("#camera")
    expect(page.locator("#camera")).to_have_text("Stop the camera")
    expect(page.locator("#status")).to_contain_text("follow")
    ask(page, words="helmet")
    assert shown(page).get_attribute("data-count") is not None
    page.click("#camera")
    expect(page.locator("#camera")).to_have_text("Use the camera")
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_a_short_video_is_followed(new_page, tmp_path):
    file = tmp_path / "site.mp4"
    with VideoWriter(file, 4.0, (480, 640)) as video:
        for scene in render_video(30_000_011, num_frames=8):
            video.write(scene.image)
    page = new_page()
    page.set_input_files("#file", str(file))
    expect(page.locator("#status")).to_contain_text("follow")
    ask(page, words="helmet")
    answers = []
    page.on("response", lambda reply: answers.append(reply.status))
    page.click("#live")
    expect(page.locator("#live")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
    assert len(answers) >= 2 and set(answers) == {200}


def test_the_first_view_is_an_example_with_its_result_and_the_next_step(new_page):
    page = new_page()
    assert int(shown(page).get_attribute("data-count")) >= 1
    assert "Next, choose an image of your own" in page.locator("#status").inner_text()
    # What the model was never trained on is above the answer.
    notes = shown(page).locator(".notes")
    assert "drawings only" in notes.inner_text()
    above = "one => one.compareDocumentPosition(one.parentElement.querySelector('.answer')) & 4"
    assert notes.evaluate(above)
    page.locator("#known button", has_text="cone").click()
    assert page.locator("#words-0").input_value() == "helmet; cone"


def test_the_api_box_has_the_request_that_was_just_sent(new_page, address, picture, tmp_path):
    page = new_page()
    upload(page, picture)
    page.check("#tile")
    ask(page, task="segment", words="helmet; cone")
    page.click("#api summary")
    curl, python = page.locator("#api-curl").inner_text(), page.locator("#api-python").inner_text()
    assert "classes=helmet; cone" in curl and "tile=auto" in curl and "masks=polygons" in curl
    assert f"{address}/v1/segment" in curl and f'"{address}/v1/segment"' in python
    (tmp_path / picture.name).write_bytes(picture.read_bytes())
    sent = subprocess.run(curl, shell=True, cwd=tmp_path, capture_output=True, timeout=300)  # noqa: S602
    categories = json.loads(sent.stdout)["categories"]
    assert [one["name"] for one in categories] == ["helmet", "cone"], sent.stderr
    code = page.locator("#api-python").inner_text()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "'category_id'" in done.stdout


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(new_page, picture, scheme):
    page = new_page(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    upload(page, picture)
    # The chosen image is at the top of the screen.
    assert shown(page).locator("canvas").bounding_box()["y"] < 200
    ask(page, words="helmet")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    heights = page.evaluate("[...document.querySelectorAll('button')].map(b => b.offsetHeight)")
    assert min(high for high in heights if high) >= 30
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 380
    assert light == (scheme == "light")


def test_the_page_is_small_and_brings_nothing_from_elsewhere(new_page, address):
    page = new_page()
    urls = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert urls and all(url.startswith(address) for url in urls)
    sizes = [
        len(httpx2.get(f"{address}/{name}").content)
        for name in ("", "page/page.css", "page/page.js")
    ]
    assert sum(sizes) < 60_000


def test_what_a_model_or_file_name_says_is_text_not_markup(new_page, tmp_path):
    file = tmp_path / "<img src=x onerror=document.title='pwned'>.png"
    cv2.imwrite(str(tmp_path / "a.png"), render_scene(30_000_006).image)
    (tmp_path / "a.png").rename(file)
    page = new_page()
    upload(page, file)
    page.fill("#words-0", "<b>zebra</b>")
    page.click("#run")
    expect(page.locator("#error")).to_contain_text("<b>zebra</b>")
    assert page.title() == "pgvision"
    assert page.evaluate("document.querySelectorAll('b').length") == 0
