"""Where the parity fixtures lie: outputs of the authors' code or of naive float64 formulas, kept beside the project."""

import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(os.environ.get("AD_ASSETS_FIXTURES", Path(__file__).parents[2] / "shared" / "reference" / "fixtures"))


def fixture(name: str) -> dict[str, np.ndarray]:
    """The arrays of one fixture file; skips the test when the folder is absent."""
    path = FOLDER / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"parity fixtures are not here: {path} (set AD_ASSETS_FIXTURES)")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
