"""Defect types and file names that are HTML or Markdown, from the folder to the report and the metadata in the UI."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import dagster as dg
import numpy as np
from markdown_it import MarkdownIt

from ad_assets.report.templates import TEMPLATES
from tests.support.bench_graph import Bench, draw_image, write_image

TYPES = ["<script>alert(1)<", "``` ````", "](javascript:alert(1)) | ![x](http:", '"onerror="alert(1)']
TEXT = {"paragraph_open", "inline", "text", "text_special", "softbreak", "fence", "image"}


class Tags(HTMLParser):
    """Names of tags, and where their attributes lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")


def test_names_from_a_folder_are_text_everywhere(bench: Bench) -> None:
    shutil.rmtree(bench.images / "nut")
    for part in ("test", "ground_truth"):
        shutil.rmtree(bench.images / "bolt" / part / "spot")
    for seed, name in enumerate(TYPES):
        clean, spoilt = draw_image(seed), draw_image(seed, defect=True)
        write_image(bench.images / "bolt" / "test" / name / f"{name}.png", spoilt)
        mask = (np.abs(clean.astype(int) - spoilt).max(axis=2) > 0).astype(np.uint8) * 255
        write_image(bench.images / "bolt" / "ground_truth" / name / f"{name}_mask.png", mask)
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    bench.tree["datasets"]["parts"]["studies"] = {"rates": {"base": "small", "vary": {"coreset_ratio": [0.1]}}}
    bench.tree["comparisons"] = {"both": {"datasets": ["parts"]}}
    bench.reload()
    built, _ = bench.run()
    assert ("parts/report", None) in built

    pages = [
        Path(bench.benchmark.store.root, found).read_text(encoding="utf-8")
        for found in bench.files()
        if ".html" in found
    ]
    assert len(pages) == 5  # two of the report, each with its copy, and the comparison
    assert any("alert(1)" in page for page in pages)
    own = TEMPLATES.joinpath("pages.js").read_text(encoding="utf-8")
    for page in pages:
        tags = Tags(page)
        assert page.count("<script>") == page.count(f"<script>{own}</script>") == ("script" in tags.names)
        assert not [name for name in tags.attributes if name.startswith("on")]
        leads = tags.attributes.get("href", set()) | tags.attributes.get("src", set())
        links = ("../index.html", "categories/bolt.html")
        assert all(address in links or address.startswith(("#", "data:")) for address in leads)

    texts = [
        value.value
        for stage in bench.stages
        for record in bench.instance.fetch_materializations(dg.AssetKey(list(stage.key)), limit=10).records
        if record.asset_materialization
        for value in record.asset_materialization.metadata.values()
        if isinstance(value, dg.MarkdownMetadataValue)
    ]
    assert len(texts) >= 4  # leaderboard, comparison, the study's table and plot, contact sheets
    assert any(TYPES[1] in (text or "") for text in texts)
    for text in texts:
        tokens = [
            each for token in MarkdownIt("commonmark").parse(text or "") for each in (token, *(token.children or ()))
        ]
        assert {token.type for token in tokens if token.nesting >= 0} <= TEXT
        assert all(str(token.attrs["src"]).startswith("data:") for token in tokens if token.type == "image")
