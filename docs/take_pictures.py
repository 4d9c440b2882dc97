"""Makes the README's picture of the graph from a running UI: ``make dev``, then ``python docs/take_pictures.py``.

python docs/take_pictures.py [http://127.0.0.1:3000]
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

GROUPS = ("images", "features", "hetmm_10", "studies", "results")


def main(address: str) -> None:
    """Open the lineage of the demo with one lane unfolded and save it beside this script."""
    unfolded = ",".join(f"global@global:demo/{group}" for group in GROUPS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1900, "height": 1600})
        page.goto(f"{address}/asset-groups?expanded={unfolded}")
        page.get_by_text("leaderboard", exact=True).first.wait_for(timeout=60_000)
        page.get_by_text("Hide navigation").click()
        page.wait_for_timeout(1000)
        page.mouse.move(1000, 700)
        page.mouse.wheel(0, -60)  # the graph is fitted to the width; bring its top into view
        page.wait_for_timeout(1500)
        clip = {"x": 425, "y": 112, "width": 1250, "height": 1488}
        page.screenshot(path=Path(__file__).with_name("graph.png"), clip=clip)
        browser.close()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["http://127.0.0.1:3000"]))
