"""A report of many categories in a real browser: how fast it opens, what it lets a person do, and who can read it.

axe-core, which audits pages for people who see, hear or move otherwise, comes from the npm registry when the test
starts; where it cannot be had the audit is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stub_report import write_report

CHROMIUM = shutil.which("chromium")
AXE = "axe-core@4.14.1"
WIDTHS = (1440, 390)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of twelve categories and three lanes."""
    return write_report(tmp_path_factory.mktemp("report"), categories=12, lanes=3)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: axe-core, which audits accessibility, cannot be fetched")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    packed = next(folder.glob("axe-core-*.tgz"), None)
    if packed is None:
        pytest.skip(f"{AXE} is not to be had: {done.stderr.strip()[-200:]}")
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_audit_finds_nothing(browser: Any, pages: Path, axe: str, width: int, scheme: str) -> None:
    # The policy of the pages admits no other script: the audit's is let in past it.
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for address in ("index.html", "categories/c000.html"):
        page.goto((pages / address).as_uri())
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        page.add_script_tag(content=axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == [], address
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_person_finds_a_picture_by_keyboard_and_nothing_complains(browser: Any, pages: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((pages / "index.html").as_uri())
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url
        page.goto((pages / "categories/c003.html").as_uri())
    page.goto((pages / "index.html").as_uri())
    # A category by its name.
    page.keyboard.press("/")
    page.keyboard.type("c00")
    assert page.inner_text("#told") == "10 of 12 categories"
    assert page.locator("main th[scope=row] a:visible").all_inner_texts() == [f"c{n:03}" for n in range(10)]
    page.keyboard.press("Escape")
    page.keyboard.type("c011")
    page.locator("main th[scope=row] a:visible").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/categories/c011.html")
    # Folded at first; a verdict, a lane and a file name show what fits.
    assert page.locator("figure[data-name]:visible").count() == 0
    everything = page.locator("figure[data-name]").count()
    page.select_option("[name=verdict]", "false alarm")
    page.select_option("[name=lane]", "lane_1")
    alarms = page.locator("figure[data-name]:visible").count()
    assert 0 < alarms < everything
    assert page.inner_text("#told") == f"{alarms} of {everything} pictures"
    page.select_option("[name=verdict]", "")
    page.select_option("[name=lane]", "")
    page.fill("[name=name]", "SCRATCH/000")
    names = page.locator("figure[data-name]:visible").evaluate_all("all => all.map(each => each.dataset.name)")
    assert names
    assert all("scratch/000" in name for name in names)
    # A link to a lane unfolds it.
    page.fill("[name=name]", "")
    assert page.locator("details.gallery[open]").count() == 0
    page.goto(f"{(pages / 'categories/c011.html').as_uri()}#lane-2")
    page.wait_for_selector("details.gallery[open]")
    assert page.locator("details.gallery[open]").count() == 1
    assert page.evaluate("[...document.images].every(each => each.loading === 'lazy')")
    assert complaints == []
    page.close()


def test_on_paper_nothing_is_folded_and_no_controls_are_left(browser: Any, pages: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "categories/c000.html").as_uri())
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()
    assert not page.locator("#filters").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.gallery[open]").count() == 0
    page.close()
