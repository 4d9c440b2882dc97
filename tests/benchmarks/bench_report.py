"""A report of many categories and lanes: bytes of its pages, and seconds until headless Chromium has opened them.

    python -m tests.benchmarks.bench_report [--categories 100] [--lanes 10] [--pictures FOLDER]

Pictures are grain, nine a lane. A page is open when it is laid out and painted, from an empty browser on; the best and
the worst of five tries. `--pictures` keeps screenshots of both widths.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.support.stub_report import write_report

TRIES = 5
PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def main() -> None:
    """Write the report, open its pages, print the figures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--categories", type=int, default=100)
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = write_report(Path(name), options.categories, options.lanes)
        sizes = [path.stat().st_size for path in folder.rglob("*.html")]
        print(f"{options.categories} categories, {options.lanes} lanes: {len(sizes)} pages, {sum(sizes):,} bytes")
        for address in ("index.html", "categories/c000.html"):
            tries = []
            for _ in range(TRIES):
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                started = time.perf_counter()
                page.goto((folder / address).as_uri())
                page.evaluate(PAINTED)
                tries.append(time.perf_counter() - started)
                for width in (1440, 390) if options.pictures else ():
                    page.set_viewport_size({"width": width, "height": 900})
                    page.screenshot(path=options.pictures / f"{Path(address).stem}_{width}.png")
                browser.close()
            size = (folder / address).stat().st_size
            print(f"{address}: {size:,} bytes, open in {min(tries):.2f} s ({max(tries):.2f} s)")


if __name__ == "__main__":
    main()
