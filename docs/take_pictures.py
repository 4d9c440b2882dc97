"""Makes the picture of the graph in docs/design/graph.md from a running UI of a materialized benchmark file.

AD_ASSETS_CONFIG=demo_trained make dev
python docs/take_pictures.py [http://127.0.0.1:3000]
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

GROUPS = ("images", "features", "patchcore_10", "simplenet_quick", "results")


def main(address: str) -> None:
    """Open the lineage of the demo with two lanes unfolded and save it beside this script."""
    unfolded = ",".join(f"global@global:demo/{group}" for group in GROUPS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 2300, "height": 1500})
        page.goto(f"{address}/asset-groups?expanded={unfolded}")
        page.get_by_text("leaderboard", exact=True).first.wait_for(timeout=60_000)
        page.get_by_text("Hide navigation").click()
        page.wait_for_timeout(4000)
        for _ in range(2):
            page.get_by_label("zoom_out").click()  # the graph is fitted to the width alone
        page.wait_for_timeout(4000)
        clip = {"x": 600, "y": 110, "width": 1330, "height": 1345}
        page.screenshot(path=Path(__file__).with_name("graph.png"), clip=clip)
        browser.close()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:3000"]))
