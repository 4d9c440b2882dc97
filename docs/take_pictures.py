"""Makes the pictures of the pages beside it from a running UI, in a browser.

python -m docs.take_pictures                          # a small watched line, driven into what the pages show
AD_ASSETS_CONFIG=demo_trained make dev
python -m docs.take_pictures http://127.0.0.1:3000    # graph.png: the materialized demo of trained detectors
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
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
OF_THE_DEMO = ("images", "features", "patchcore_10", "simplenet_quick", "results")
SENSORS = ["line_images", "bring_up_to_date"]
PATIENCE = 600
DECISION = """ops:
  line_decide:
    config:
      category: board
      reject:
        - camera_dent.png
        - camera_part_missing.png
"""
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
        # Of few pixels, such as those of a yellow triangle, the colour is kept too.
        small = small.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    sys.stdout.write(f"{path.name} {path.stat().st_size} bytes\n")


def opened(playwright: Any) -> Any:
    """A page of a browser, which waits a minute for what it is asked to find."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1500, "height": 900})
    page.set_default_timeout(60_000)
    return page


def of_the_line(folder: Path) -> None:
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

        page = opened(playwright)
        pictures(page, server)
        results(page, server)
        decided(page, server)
        # The check `current`: another bank is asked for, and nothing runs by itself to hide that.
        tree["datasets"]["line"]["detectors"]["patchcore"]["coreset_ratio"] = 0.02
        tree["automation"]["mode"] = "manual"
        config.write_text(yaml.safe_dump(tree, sort_keys=False))
        server.stop()
        stopped = time.time()
        server.start()
        server.wait_for_tick("current_assets", "answered", PATIENCE, since=stopped)
        not_current(page, server)
        page.context.browser.close()


def pictures(page: Any, server: DevServer) -> None:
    """The graph, the check with its new_images, the champion."""
    graph(page, server, "operators_graph", GROUPS, width=3300, scale=0.6)
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


def graph(page: Any, server: DevServer, name: str, unfolded: Sequence[str], width: int, scale: float) -> None:
    """The whole graph of the line with some of its groups unfolded, in a window that has room for it."""
    groups = ",".join(f"global@global:line/{group}" for group in unfolded)
    page.set_viewport_size({"width": width, "height": round(0.8 * width)})
    page.goto(f"{server.url}/asset-groups?expanded={groups}")
    page.get_by_text("memory_bank", exact=True).first.wait_for()
    page.wait_for_timeout(6000)
    page.wait_for_function("!document.body.innerText.includes('Loading...')")
    take(page, name, scale, **page.evaluate(WHOLE_GRAPH))
    page.set_viewport_size({"width": 1500, "height": 900})


def results(page: Any, server: DevServer) -> None:
    """The leaderboard, the settings of an asset, and the report on a desk and on a telephone."""
    page.goto(f"{server.url}/assets/line/leaderboard?view=events")
    page.get_by_text("image AUROC").first.wait_for()
    take(page, "ui_leaderboard")
    page.goto(f"{server.url}/assets/line/patchcore/memory_bank?view=overview")
    page.get_by_placeholder("Filter metadata keys").fill("settings/")
    page.get_by_text("settings/coreset_ratio").first.wait_for()
    take(page, "ui_settings")
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{server.url}/ad_assets/report/line")
        page.get_by_role("heading", name="line").first.wait_for()
        take(page, f"report_{width}")
    page.set_viewport_size({"width": 1500, "height": 900})


def decided(page: Any, server: DevServer) -> None:
    """A held image is rejected from the launchpad."""
    choose(page, f"{server.url}/locations/ad_assets/jobs/line_review/playground", DECISION)
    take(page, "ui_decide")
    page.get_by_role("button", name="Launch Run").click()
    page.get_by_text("RUN_SUCCESS").first.wait_for()
    take(page, "ui_decided")


def choose(page: Any, launchpad: str, config: str) -> None:
    """Open a launchpad and write a config into its editor."""
    page.goto(launchpad)
    page.locator(".CodeMirror").first.wait_for()
    page.wait_for_timeout(2000)  # the launchpad writes the default config a moment later
    page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", config)


def not_current(page: Any, server: DevServer) -> None:
    """What a changed setting leaves behind."""
    graph(page, server, "ui_not_current", ("patchcore",), width=2900, scale=0.7)
    page.goto(f"{server.url}/assets/line/patchcore/memory_bank?view=checks&checkDetail=current")
    page.get_by_text("coreset_ratio").first.wait_for()
    take(page, "operators_not_current", x=0, y=0, width=1500, height=620)


def of_the_demo(address: str) -> None:
    """The lineage of the demo with two lanes unfolded."""
    unfolded = ",".join(f"global@global:demo/{group}" for group in OF_THE_DEMO)
    with sync_playwright() as playwright:
        page = opened(playwright)
        page.set_viewport_size({"width": 2300, "height": 1500})
        page.goto(f"{address}/asset-groups?expanded={unfolded}")
        page.get_by_text("leaderboard", exact=True).first.wait_for()
        page.get_by_text("Hide navigation").click()
        page.wait_for_timeout(4000)
        for _ in range(2):
            page.get_by_label("zoom_out").click()  # the graph is fitted to the width alone
        page.wait_for_timeout(4000)
        take(page, "graph", x=600, y=110, width=1330, height=1345)
        page.context.browser.close()


if __name__ == "__main__":
    if sys.argv[1:] and "://" in sys.argv[1]:
        of_the_demo(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            of_the_line(Path(sys.argv[1]) if sys.argv[1:] else Path(temporary))
