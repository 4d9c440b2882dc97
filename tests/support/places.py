"""Where things lie."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# The Magnetic Tile Defects, which are no part of this project: tests that need them skip themselves without.
MAGNETIC_TILES = Path(os.environ.get("AD_ASSETS_MTD", REPOSITORY.parent / "shared" / "data" / "mtd"))
