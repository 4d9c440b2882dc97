"""Makes the pictures of docs/operators.md: a small watched line, driven into the states that the page explains.

python -m docs.take_operator_pictures
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

from ad_assets.datasets.readers.demo import board as demo_board
from ad_assets.datasets.readers.demo.reader import DemoReader
from tests.support.dev_server import DevServer

HERE = Path(__file__).parent
# The box around all nodes and groups of the graph: it grows with the graph.
WHOLE_GRAPH = """() => {
    const boxes = [...document.querySelectorAll("svg foreignObject")].map(each => each.getBoundingClientRect());
    const x = Math.min(...boxes.map(box => box.left)) - 10, y = Math.min(...boxes.map(box => box.top)) - 10;
    const right = Math.max(...boxes.map(box => box.right)), bottom = Math.max(...boxes.map(box => box.bottom));
    return {x, y, width: right - x + 10, height: bottom - y + 10};
}"""
LINE = {
    "store": {"root": "store"},
    "extractors": {
        "lite0": {
            "backbone": "tf_efficientnet_lite0",
            "weights": "bundled",
            "taps": ["blocks.2", "blocks.4"],
            "resize": [256, 256],
        }
    },
    "automation": {"mode": "eager", "every_seconds": 5},
    "datasets": {
        "line": {
            "reader": "folder",
            "root": "images",
            "production": {"settle_seconds": 3, "gatekeeper": "patchcore", "floors": {"image_auroc": 0.7}},
            "detectors": {
                "patchcore": {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.01}
            },
        }
    },
}
SENSORS = ["line_images", "bring_up_to_date"]
PATIENCE = 600
GROUPS = ("images", "features", "patchcore", "results")


def board(defect: str, seed: int) -> np.ndarray:
    """A board that the demo does not have."""
    image, _ = demo_board.draw(np.random.default_rng(seed), defect)
    return image.round().clip(0, 255).astype(np.uint8)


def take(page: Any, name: str, scale: float = 1.0, **clip: int) -> None:
    """Save the page, or a part of it, beside this script, with few colours to keep it small."""
    page.wait_for_timeout(1500)
    path = HERE / f"{name}.png"
    page.screenshot(path=path, clip=clip or None)
    with Image.open(path) as picture:
        width, height = (round(side * scale) for side in picture.size)
        small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small = small.quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    sys.stdout.write(f"{path.name} {path.stat().st_size} bytes\n")


def main(folder: Path) -> None:
    """Start the line, land images, take the pictures."""
    tree = yaml.safe_load(yaml.safe_dump(LINE))
    tree["store"]["root"], tree["datasets"]["line"]["root"] = str(folder / "store"), str(folder / "images")
    config = folder / "bench.yaml"
    config.write_text(yaml.safe_dump(tree, sort_keys=False))
    reader = DemoReader(root=str(folder / "images"))
    for category in ("board", "brick"):
        reader.prepare(category)
    with DevServer(folder) as server, sync_playwright() as playwright:
        server.wait_for(lambda: len(server.runs("brick")) > 0, "the first runs", PATIENCE)
        server.wait_until_quiet(SENSORS, PATIENCE)
        good = folder / "images/board/train/good"
        new_images = {f"camera{seed}": ("good", 100 + seed) for seed in range(5)}
        new_images |= {"camera_part_missing": ("part_missing", 7), "camera_dent": ("dent", 11)}
        for name, (defect, seed) in new_images.items():
            if not (good / f"{name}.png").exists():  # a folder may be used again
                Image.fromarray(board(defect, seed)).save(good / f"{name}.png")
        server.wait_for(lambda: len(server.runs("board")) > 1, "the run of the new images", PATIENCE)
        server.wait_until_quiet(SENSORS, PATIENCE)

        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(60_000)
        pictures(page, server)
        # The check `current`: another bank is asked for, and nothing runs by itself to hide that.
        tree["datasets"]["line"]["detectors"]["patchcore"]["coreset_ratio"] = 0.02
        tree["automation"]["mode"] = "manual"
        config.write_text(yaml.safe_dump(tree, sort_keys=False))
        server.stop()
        stopped = time.time()
        server.start()
        server.wait_for_tick("current_assets", "answered", PATIENCE, since=stopped)
        not_current(page, server)
        browser.close()


def pictures(page: Any, server: DevServer) -> None:
    """The graph, the check with its new_images, the champion."""
    unfolded = ",".join(f"global@global:line/{group}" for group in GROUPS)
    page.goto(f"{server.url}/asset-groups?expanded={unfolded}")
    page.get_by_text("champion", exact=True).first.wait_for()
    page.set_viewport_size({"width": 3300, "height": 2700})
    page.reload()
    page.get_by_text("champion", exact=True).first.wait_for()
    page.wait_for_timeout(6000)
    take(page, "operators_graph", scale=0.6, **page.evaluate(WHOLE_GRAPH))
    page.set_viewport_size({"width": 1500, "height": 900})

    page.goto(f"{server.url}/assets/line/image_index?view=checks&checkDetail=new_images_nominal")
    page.get_by_text("new_images_nominal").first.wait_for()
    page.wait_for_timeout(3000)
    take(page, "operators_check", x=0, y=0, width=1500, height=600)
    page.get_by_text("Show Markdown").first.click()
    page.get_by_role("dialog").locator("img").first.wait_for()
    take(page, "operators_held_back")

    page.goto(f"{server.url}/assets/line/patchcore/champion?view=partitions&partition=board")
    page.get_by_text("champion_image_auroc").first.wait_for()
    take(page, "operators_champion", x=0, y=0, width=1500, height=720)


def not_current(page: Any, server: DevServer) -> None:
    """What a changed setting leaves behind."""
    page.goto(f"{server.url}/assets/line/patchcore/memory_bank?view=checks&checkDetail=current")
    page.get_by_text("coreset_ratio").first.wait_for()
    take(page, "operators_not_current", x=0, y=0, width=1500, height=620)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary))
