"""The operator's page in a real browser, on a phone's width, without any other host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from ad_assets_runtime.identity import content_id
from ad_assets_runtime.server.settings import TOKEN
from tests.support.line_bundles import picture, png, promote, write_bundle
from tests.support.line_server import LineServer, until

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = '<img src=x onerror="document.title=1">.png'
PREDICT = "/v1/parts/bolt/predict"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 390, "height": 844})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    promote(tmp_path / "root", "b/one", write_bundle(tmp_path / "root/b/one"))
    return tmp_path / "root"


def alarm() -> bytes:
    """A picture with a bright spot."""
    rgb = np.clip(picture(6, (300, 400)), 0, 255).astype(np.uint8)
    rgb[60:120, 200:300] = 255
    return png(rgb)


def test_an_operator_sees_alarms_and_says_what_they_are(page: Any, root: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with LineServer(root, tmp_path / "home") as server:
        data, good = alarm(), png(np.full((300, 400, 3), 60, np.uint8))
        assert server.ask("POST", f"{PREDICT}?name={quote(HOSTILE)}", data)[1]["anomalous"]
        assert not server.ask("POST", PREDICT, good)[1]["anomalous"]
        page.goto(server.url)
        until(lambda: page.evaluate("document.querySelectorAll('article').length === 2"))
        # An alarm's heat map is kept, that of a nominal image is made when it is asked for.
        until(lambda: page.evaluate("[...document.images].filter(image => image.naturalWidth).length === 4"))
        assert page.title() == "Line"
        assert HOSTILE in page.inner_text("main")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert [each.inner_text() for each in page.query_selector_all(".decision")] == ["nominal", "anomalous"]
        assert "champion state-60 of mean since" in page.inner_text("#champions")
        assert page.evaluate(
            "[...document.querySelectorAll('button')].every(b => b.offsetHeight >= 44 || !b.offsetHeight)"
        )

        page.click("text=False alarm")
        page.wait_for_selector("[data-said=false_alarm][aria-pressed=true]")
        page.click("text=Missed defect")
        page.wait_for_selector("[data-said=missed][aria-pressed=true]")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        told = [json.loads(path.read_text()) for path in (tmp_path / "home/outbox/feedback").rglob("*.json")]
        assert {(each["image"], each["said"]) for each in told} == {
            (content_id(data), "false_alarm"),
            (content_id(good), "missed"),
        }
        page.click("text=False alarm")
        page.wait_for_selector("[data-said=false_alarm][aria-pressed=false]")
        page.select_option("#shown", "alarms")
        until(lambda: page.evaluate("document.querySelectorAll('article').length === 1"))

        # A promotion, and one that is refused, show without a reload.
        promote(root, "b/two", write_bundle(root / "b/two", colour=90))
        page.wait_for_selector("text=champion state-90")
        promote(root, "b/none", "0" * 64)
        page.wait_for_selector("text=A newer one is refused")
        assert {url.split("/")[2] for url in asked if not url.startswith("blob:")} == {f"127.0.0.1:{server.port}"}
    page.wait_for_selector("text=The server does not answer")


def test_a_token_is_asked_for_once(page: Any, root: Path, tmp_path: Path) -> None:
    with LineServer(root, tmp_path / "home", **{TOKEN: "geheim"}) as server:
        server.ask("POST", PREDICT, alarm(), Authorization="Bearer geheim")
        page.goto(server.url)
        page.wait_for_selector("dialog[open]")
        assert page.query_selector("article") is None
        page.fill("#token", "geheim")
        page.click("text=Go on")
        page.wait_for_selector("article")
        page.reload()
        page.wait_for_selector("article")
        until(lambda: page.evaluate("[...document.images].some(i => i.naturalWidth)"))
