"""The pages of a report: one a category, made without lanes that failed, where people open them, and by the UI."""

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from dagster._serdes import serialize_value
from starlette.testclient import TestClient

from ad_assets.graph.stages.published_pages import asset_of_page, read_page
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.ui import report_pages
from tests.support.bench_graph import Bench, draw_image, write_image


@pytest.fixture
def ready(materialized: Bench, tmp_path: Path) -> Bench:
    return materialized.copied(tmp_path)


def published(bench: Bench) -> dict[str, str]:
    """Address of each published page, from the folder of the dataset, and its text."""
    folder = Path(bench.benchmark.store.root, "reports/parts")
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


def test_links_lead_from_page_to_page_in_the_store_and_in_the_ui(ready: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = published(ready)
    assert set(pages) == {"index.html", "categories/bolt.html", "categories/nut.html"}
    for address, text in pages.items():
        links = {urljoin(address, link) for link in re.findall(r'href="([^"#]+)"', text)}
        assert links == (set(pages) - {address} if address == "index.html" else {"index.html"})
        assert read_page(ready.benchmark.store, "parts", address).decode() == text

    async def behind(scope: object, receive: object, send: object) -> None:
        raise AssertionError("passed on")

    monkeypatch.setattr(report_pages, "load_config", lambda: ready.benchmark)
    client = TestClient(report_pages.ReportPages(behind))
    first = client.get("/ad_assets/report/parts")
    assert first.url.path == "/ad_assets/report/parts/index.html"
    assert first.text == pages["index.html"]
    for link in re.findall(r'href="(categories/[^"]+)"', first.text):
        answer = client.get(urljoin(str(first.url), link))
        assert answer.text == pages[link]
        assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts")
    for wrong in ("parts/categories/<i>.html", "parts/categories/gone.html", "<i>", "parts/../parts/index.htm"):
        answer = client.get(f"/ad_assets/report/{wrong}")
        assert answer.status_code == 404
        assert "<i>" not in answer.text
    assert asset_of_page("parts", "categories/../index.html") is None


def test_a_lane_that_fails_is_left_out_of_its_page_until_it_is_made(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = published(ready)
    write_image(ready.images / "nut/train/good/new.png", draw_image(77))
    score = PatchCore.score
    with monkeypatch.context() as broken:
        ratio = {"small": 0.1, "full": 1.0}["small"]

        def fails(self: PatchCore, *args: object) -> object:
            if self.coreset_ratio == ratio:
                raise ValueError("broken on purpose")
            return score(self, *args)  # type: ignore[arg-type]

        broken.setattr(PatchCore, "score", fails)
        outcome = ready.outcome()
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["parts [nut] parts__small__score_maps"]
    for run in ready.instance.get_runs():
        events = [serialize_value(event) for event in ready.instance.all_logs(run.run_id)]
        assert max(map(len, events)) < 20_000  # with a picture of less than 10 kB
        assert sum(map(len, events)) < 200_000
    after = published(ready)
    assert after["categories/bolt.html"] == before["categories/bolt.html"]
    assert "Left out, not up to date: small." in after["categories/nut.html"]
    assert 'id="lane-1"' in after["categories/nut.html"]
    assert ("parts/category_report", "nut") in ready.plan()
    built, _ = ready.run()
    assert built >= {("parts/category_report", "nut"), ("parts/report", None)}
    assert "Left out" not in published(ready)["categories/nut.html"]
    assert ready.plan() == {}


def test_the_page_of_a_category_that_is_gone_is_withdrawn_and_what_is_lost_is_published_again(ready: Bench) -> None:
    folder = Path(ready.benchmark.store.root, "reports/parts")
    (folder / "categories/gone.html").write_text("old")
    (folder / "categories/bolt.html").unlink()
    (folder / "index.html").write_text("torn")
    _, found = ready.run(force=False, verify=True)
    assert ("parts/report", None) in found
    pages = published(ready)
    assert set(pages) == {"index.html", "categories/bolt.html", "categories/nut.html"}
    assert pages["index.html"].startswith("<!doctype html>")
