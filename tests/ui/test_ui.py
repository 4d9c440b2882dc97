"""The UI in a real browser: `make dev` serves the graph, and a category is materialized from the page."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ad_assets.config.load import load_config
from ad_assets.production.review_decisions import Admissions, Held, read_decisions, update_admissions
from tests.support.bench_graph import config_tree, write_dataset
from tests.support.dev_server import DevServer

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000  # milliseconds: a run worker imports torch on two shared cores

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `apt-get install chromium`"),
]


# What a page can send to another origin without being allowed to: only its effects can tell that it was served.
ATTACKS = """<iframe src="UI/overview"></iframe><script>
const mutation = "UI/graphql?query=" + encodeURIComponent(`mutation { reportRunlessAssetEvents(eventParams: {
    eventType: ASSET_MATERIALIZATION, assetKey: {path: ["parts", "image_index"]}, partitionKeys: ["bolt"]}
) { __typename } }`);
const picture = new Image(), socket = new WebSocket("UI/graphql".replace("http", "ws"), "graphql-ws");
Promise.allSettled([
    fetch(mutation, {mode: "no-cors"}),
    fetch(mutation, {mode: "no-cors", method: "POST"}),
    fetch("UI/report_asset_materialization/parts/image_index?partition=bolt", {mode: "no-cors", method: "POST"}),
    new Promise(done => { picture.onload = picture.onerror = done; picture.src = mutation; }),
    new Promise(done => { socket.onopen = () => done("opened"); socket.onerror = () => done("refused"); }),
]).then(ends => { document.title = "socket " + ends[4].value; });
</script>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """`make dev` on a small benchmark, on loopback."""
    folder = tmp_path_factory.mktemp("ui")
    write_dataset(folder / "images")
    (folder / "bench.yaml").write_text(yaml.safe_dump(config_tree(folder) | {"automation": {"every_seconds": 2}}))
    with DevServer(folder) as started:
        yield started


@pytest.fixture
def foreign_page(server: DevServer) -> Iterator[str]:
    """The address of a page of somebody else, which attacks the UI."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACKS.replace("UI", server.url).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://localhost:{http.server_port}"
        http.shutdown()


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


def test_a_foreign_page_in_the_same_browser_changes_nothing(server: DevServer, page: Any, foreign_page: str) -> None:
    page.goto(foreign_page)
    page.wait_for_function("document.title != ''")
    assert page.title() == "socket refused"
    [frame] = page.frames[1:]
    assert "a page of another site" in (frame.text_content("body") or "")
    index = dg.AssetKey(["parts", "image_index"])
    assert not server.instance.fetch_materializations(index, limit=1).records


def test_a_category_is_materialized_from_the_page(server: DevServer, page: Any, tmp_path: Path) -> None:
    address = server.url
    received: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(str(frame))))
    shots = Path(os.environ.get("AD_ASSETS_SCREENSHOTS", tmp_path))

    # The graph shows, with its groups open.
    groups = ",".join(f"global@global:parts/{group}" for group in ("images", "features", "small", "full", "results"))
    page.goto(f"{address}/asset-groups?expanded={groups}")
    page.get_by_text("image_index").first.wait_for(timeout=PATIENCE)
    for asset in ("lite0", "memory_bank", "score_maps", "metrics", "leaderboard", "category_report", "report"):
        page.get_by_text(asset, exact=True).first.wait_for()
    page.screenshot(path=str(shots / "graph.png"))
    assert any("connection_ack" in frame for frame in received)  # subscriptions pass the guard

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

    # What an asset is made with stands on its page, whether it was made or not.
    page.goto(f"{address}/assets/parts/small/memory_bank?view=overview")
    page.get_by_placeholder("Filter metadata keys").fill("settings/")
    for name in ("settings/coreset_ratio", "settings/backbone"):
        page.get_by_text(name).first.wait_for()

    # The assets over all categories were made by the same run.
    wait_for_text(page, f"{address}/assets/parts/leaderboard?view=events", "left_out")
    table, further = page.get_by_text("parts: image AUROC, %").first, page.get_by_text("left_out").first
    table.wait_for()
    assert table.bounding_box()["y"] < further.bounding_box()["y"]  # the table that people read comes first
    page.screenshot(path=str(shots / "leaderboard.png"))

    # The report opens from its page; what it holds cannot drive the UI whose address it has.
    wait_for_text(page, f"{address}/assets/parts/report?view=events", "/ad_assets/report/parts/index.html")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="/ad_assets/report/parts/index.html").click()
    report = opened.value
    report.get_by_role("heading", name="parts").first.wait_for()
    assert report.evaluate("window.origin") == "null"
    report.get_by_role("link", name="bolt").first.click()
    report.get_by_role("heading", name="bolt").first.wait_for()
    report.get_by_role("link", name="parts: all categories").click()
    report.get_by_role("heading", name="parts").first.wait_for()
    missing = page.request.get(f"{address}/ad_assets/report/<i>")
    assert missing.status == 404
    assert "&lt;i&gt;" in missing.text()


@pytest.mark.slow
def test_a_changed_setting_shows_and_a_job_mends_it(server: DevServer, page: Any, tmp_path: Path) -> None:
    shots = Path(os.environ.get("AD_ASSETS_SCREENSHOTS", tmp_path))
    bank = dg.AssetKey(["parts", "small", "memory_bank"])
    current = dg.AssetCheckKey(bank, "current")

    def answer() -> bool | None:
        records = server.instance.event_log_storage.get_asset_check_execution_history(current, limit=1)
        told = [record.evaluation for record in records if record.evaluation]
        return told[0].passed if told and isinstance(told[0], dg.AssetCheckEvaluation) else None  # else it is planned

    def bring_up_to_date() -> None:
        page.goto(f"{server.url}/locations/ad_assets/jobs/bring_up_to_date/playground")
        page.get_by_role("button", name="Launch Run").click()
        server.wait_for(lambda: answer() is True, "the bank is current", PATIENCE / 1000)

    bring_up_to_date()
    file = server.folder / "bench.yaml"
    tree = yaml.safe_load(file.read_text())
    tree["datasets"]["parts"]["detectors"]["small"]["coreset_ratio"] = 0.5
    file.write_text(yaml.safe_dump(tree))
    page.goto(f"{server.url}/asset-groups?asset-selection=key:%22parts/small/*%22")
    page.get_by_role("button", name="Reload definitions").click()
    server.wait_for(lambda: answer() is False, "the bank is not current", PATIENCE / 1000)
    wait_for_text(page, f"{server.url}/assets/parts/small/memory_bank?view=checks", "coreset_ratio 0.1")
    page.screenshot(path=str(shots / "not_current.png"))

    bring_up_to_date()
    assert not [each for each in server.runs() if each.dagster_run.status is dg.DagsterRunStatus.FAILURE]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[DevServer]:
    """`make dev` on a line with two images that wait for a decision, and nothing else to do."""
    write_dataset(tmp_path / "images", ("bolt",))
    tree = config_tree(tmp_path) | {"automation": {"mode": "manual"}}
    tree["datasets"]["parts"]["production"] = {}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    store = load_config(tmp_path / "bench.yaml").store
    held = {letter * 64: Held(f"bolt/train/good/{letter}.png", ("odd",), "now") for letter in "ab"}
    update_admissions(store, "parts", "bolt", lambda _: Admissions((), held, 0))
    with DevServer(tmp_path) as started:
        yield started


@pytest.mark.slow
def test_a_held_image_is_decided_in_the_launchpad(line: DevServer, page: Any) -> None:
    config = {"ops": {"parts_decide": {"config": {"category": "bolt", "admit": [], "reject": ["a.png"]}}}}
    launchpad = f"{line.url}/locations/ad_assets/jobs/parts_review/playground"
    page.goto(launchpad)
    page.get_by_text("parts_decide").first.wait_for(timeout=PATIENCE)  # what to fill in stands there
    editor = page.locator(".CodeMirror").first
    page.wait_for_timeout(2000)  # the launchpad writes it a moment later
    editor.evaluate("(editor, text) => editor.CodeMirror.setValue(text)", yaml.safe_dump(config, sort_keys=False))
    page.get_by_role("button", name="Launch Run").click()
    store = load_config(line.folder / "bench.yaml").store
    line.wait_for(lambda: bool(read_decisions(store, "parts", "bolt")), "the image is decided on", PATIENCE / 1000)
    assert read_decisions(store, "parts", "bolt") == {"a" * 64: "reject"}


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
