"""Large images of small files, decoded within the budget: measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

INDEX = """
import sys
from pathlib import Path
from ad_assets.datasets import READERS, build_index
from ad_assets_runtime.images import ROOM
# Not ru_maxrss, which a process inherits from the one that started it.
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1e6
before = peak()
for budget in sys.argv[2:]:
    ROOM.limit(float(budget))
    build_index(READERS["folder"](root=sys.argv[1]), "part")
    print(peak() - before)
"""


def gigabytes(root: Path, *budgets: float) -> list[float]:
    """By how much the memory of a process grows that indexes a folder within one budget after another, rising."""
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INDEX, str(root), *map(str, budgets)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(line) for line in told.stdout.splitlines()]


def write_blank(root: Path, side: int, images: int) -> Path:
    for number in range(images):
        path = root / "part/train/good" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (side, side), 10 + number).save(path)
    return root


def test_images_that_are_decoded_at_once_keep_to_the_budget(tmp_path: Path) -> None:
    root = write_blank(tmp_path, 4000, 8)
    within, without = gigabytes(root, 0.4, 8)
    assert within < 0.4 < without


@pytest.mark.slow
def test_images_of_13_000_pixels_a_side_keep_to_the_usual_budget(tmp_path: Path) -> None:
    [grown] = gigabytes(write_blank(tmp_path, 13_000, 4), 4)
    assert grown < 4
