"""The parity fixtures: outputs of the authors' code, or of naive float64 formulas."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "parity"


def fixture(name: str) -> dict[str, np.ndarray]:
    """The arrays of one fixture file."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
