"""A report with any number of categories and lanes, of drawn pictures and made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ad_assets.graph.stages.published_pages import FROM_CATEGORY, INDEX, category_address
from ad_assets.report import picture_files
from ad_assets.report.category_page import CategoryPage, render_category
from ad_assets.report.gallery import GalleryItem
from ad_assets.report.index_page import IndexPage, render_index
from ad_assets.report.leaderboard import BoardRow, build

PICTURES = 9  # of a lane, as many as there are by default


def write_report(folder: Path, categories: int, lanes: int) -> Path:
    """Write the pages as they are published; returns the folder."""
    random = np.random.default_rng(0)
    names, detectors = [f"c{n:03}" for n in range(categories)], [f"lane_{n}" for n in range(lanes)]
    x = np.linspace(0, 1, 200)
    photos = [_textured(random, (160, 323)) for _ in range(PICTURES)]
    heats = [_textured(random, (160, 160)) for _ in range(PICTURES)]
    rows: list[dict[str, Any]] = []
    for name in names:
        own = [row for detector in detectors for row in _rows(random, name, detector)]
        rows += own
        page = CategoryPage(
            dataset="stub",
            category=name,
            created="2026-01-02 03:04 UTC",
            config_name="stub.yaml",
            detectors=detectors,
            rows=[_board_row(row) for row in own],
            index=FROM_CATEGORY,
            curves={d: {"roc": (x, x**0.2), "pr": (x, 1 - x**4), "pro": (x, x**0.3)} for d in detectors},
            gallery={
                d: _gallery(name, photos, heats[k % PICTURES :] + heats[: k % PICTURES])
                for k, d in enumerate(detectors)
            },
            problems=["warning: train/good/000.png: 12 bytes after its end"],
            fingerprints={"image index": "0123abcd"},
        )
        path = folder / category_address(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_category(page), encoding="utf-8")
    addresses = {name: category_address(name) for name in names}
    index = IndexPage("stub", "2026-01-02 03:04 UTC", "stub.yaml", "2 CPU cores", build(rows, {}), addresses)
    (folder / INDEX).write_text(render_index(index), encoding="utf-8")
    return folder


def _textured(random: np.random.Generator, shape: tuple[int, int]) -> bytes:
    """A picture of some grain, about as large as a JPEG of a surface."""
    noise = random.normal(120, 18, (*shape, 1)).clip(0, 255).astype(np.uint8)
    return picture_files.to_jpeg(np.repeat(noise, 3, axis=2), quality=80)


def _rows(random: np.random.Generator, category: str, detector: str) -> list[dict[str, Any]]:
    shared = {"dataset": "stub", "category": category, "detector": detector, "n": 40, "seconds": None, "seed": 0}
    metrics = [("standard", name) for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro_0.30")]
    metrics += [("nominal_threshold", "image_f1"), ("oracle_f1", "image_f1"), ("oracle_threshold", "best_iou")]
    values = [(protocol, metric, 0.8 + 0.2 * random.random()) for protocol, metric in metrics]
    values += [("nominal_threshold", "false_positives", 3.0), ("nominal_threshold", "false_negatives", 3.0)]
    return [
        {**shared, "protocol": protocol, "metric": metric, "value": value, "fingerprint": "abcdef0123456789"}
        for protocol, metric, value in values
    ]


def _board_row(row: dict[str, Any]) -> BoardRow:
    paper = {"aggregate": "", "paper_system": "", "paper_dataset": "", "paper_value": None, "delta": None}
    return BoardRow(**row, **paper)


def _gallery(category: str, photos: list[bytes], heats: list[bytes]) -> list[GalleryItem]:
    items = []
    for number, (photo, heat) in enumerate(zip(photos, heats, strict=True)):
        kind, score = ("good" if number < 3 else "scratch"), (0.5 if 3 <= number < 6 else 2.0)
        name = f"{category}/test/{kind}/{number % 3:03}.png"
        items.append(GalleryItem(name, kind, int(number >= 3), score, 1.5, photo, heat))
    return items
