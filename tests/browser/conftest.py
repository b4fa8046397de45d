"""A real browser before the real service. Debian: apt-get install chromium (.ci/run does)."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from pgvision.runtime import load
from recipes.scenes import render_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "pgvision" / "server"))
from serving import as_png, running, until_ready

expect.set_options(timeout=60_000)  # two busy cores


@pytest.fixture(scope="session")
def browser():
    found = shutil.which("chromium")
    if found is None and "CI" not in os.environ:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        # A camera of Chromium's own making, which a page may use where its context allows it.
        args = ["--no-sandbox", "--use-fake-device-for-media-stream"]
        chromium = playwright.chromium.launch(executable_path=found, args=args)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def address():
    load("tiny")
    with running() as where:
        until_ready(where)
        yield where


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "Baustelle ü.png"
    file.write_bytes(as_png(render_scene(30_000_006).image))
    return file


@pytest.fixture
def new_page(browser, address):
    """Open the page; what it writes to its console as an error fails the test."""
    contexts, errors = [], []

    def opened(**how):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | how)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        expect(page.locator("#model")).to_have_value("tiny")
        expect(page.locator("#status")).to_contain_text("This is an example")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors
