"""The UI in a real browser: `make dev` serves the graph, and a category is materialized from the page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench_graph import config_tree, write_dataset
from tests.dev_server import DevServer

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000  # milliseconds: a run worker imports torch on two shared cores

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """`make dev` on a small benchmark, on loopback."""
    write_dataset(tmp_path / "images")
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(config_tree(tmp_path)))
    with DevServer(tmp_path) as server:
        yield server.url


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(20_000)
        yield page
        page.screenshot(path=os.environ.get("AD_ASSETS_SCREENSHOTS", str(tmp_path)) + "/last.png")
        browser.close()


def test_a_category_is_materialized_from_the_page(address: str, page: Any, tmp_path: Path) -> None:
    shots = Path(os.environ.get("AD_ASSETS_SCREENSHOTS", tmp_path))

    # The graph shows, with its groups open.
    groups = ",".join(f"global@global:parts/{group}" for group in ("images", "features", "small", "full", "results"))
    page.goto(f"{address}/asset-groups?expanded={groups}")
    page.get_by_text("image_index").first.wait_for(timeout=PATIENCE)
    for asset in ("lite0", "memory_bank", "score_maps", "metrics", "leaderboard", "report"):
        page.get_by_text(asset, exact=True).first.wait_for()
    page.screenshot(path=str(shots / "graph.png"))

    # One category, from the page: Materialize all, choose the partition, launch.
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog").first
    dialog.get_by_text("Select a partition").click()
    page.get_by_text("bolt").first.click()
    dialog.get_by_text("Launch runs to materialize").click()  # closes the list
    page.screenshot(path=str(shots / "dialog.png"))
    dialog.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="detached")

    # Its metrics and its picture show on the asset's page.
    wait_for_text(page, f"{address}/assets/parts/small/metrics?view=partitions&partition=bolt", "image_auroc")
    page.screenshot(path=str(shots / "metrics.png"))
    page.get_by_text("Show Markdown").first.click()
    picture = page.get_by_role("dialog").locator("img")
    picture.wait_for()
    assert picture.get_attribute("src").startswith("data:image/jpeg;base64,")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.screenshot(path=str(shots / "picture.png"))

    # The assets over all categories were made by the same run.
    wait_for_text(page, f"{address}/assets/parts/leaderboard?view=events", "left_out")
    page.screenshot(path=str(shots / "leaderboard.png"))


def wait_for_text(page: Any, url: str, text: str) -> None:
    """Open a page again and again until it shows a text: the page does not refresh by itself."""
    from playwright.sync_api import TimeoutError as TooLate

    for _ in range(PATIENCE // 5000):
        page.goto(url)
        try:
            page.get_by_text(text).first.wait_for(timeout=5000)
        except TooLate:
            continue
        return
    pytest.fail(f"{url} never showed {text!r}")
