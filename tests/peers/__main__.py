"""Compares this project with anomalib on the same images, weights and settings, and writes the page: ``make peers``.

Run: ``python -m tests.peers [--seeds 3] [--page docs/peers.md] [--work FOLDER]``; `AD_ASSETS_MTD` adds the magnetic
tiles. anomalib runs in the environment ``.venv-peers``, which ``make peers`` makes. What was measured stays in the work
folder: a comparison that was cut off goes on, and another folder begins anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.peers.comparison import Comparison
from tests.peers.head import head
from tests.peers.lanes import datasets
from tests.peers.page import page
from tests.peers.records import Records
from tests.peers.sides import PEER
from tests.support.places import REPOSITORY


def main() -> int:
    """Compare what was not compared yet, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each detector that draws")
    parser.add_argument("--measured", action="store_true", help="measure nothing: a page of what was measured so far")
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "peers.md", help="the page that is written")
    parser.add_argument(
        "--work", type=Path, default=REPOSITORY / ".ad_assets" / "peers", help="folder of what was measured"
    )
    parser.add_argument("--remark", default="", help="what else a reader should know of the runs")
    options = parser.parse_args()
    if not PEER.is_file():
        print(f"{PEER} is not there: run `make peers`, which makes its environment", file=sys.stderr)
        return 2
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    records = Records(work / "records.jsonl")
    tiles = os.environ.get("AD_ASSETS_MTD")
    compared = datasets(work / "demo_images", Path(tiles).resolve() if tiles else None)
    for dataset in compared:
        if not options.measured:
            Comparison(dataset, records, work / "runs").run(options.seeds)
    changed = {detector.name: detector.changed_text for dataset in compared for detector in dataset.detectors}
    asked = [record for record in records.all if record.seed < options.seeds]
    options.page.write_text(page(asked, head(asked, compared, options.remark), changed), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
