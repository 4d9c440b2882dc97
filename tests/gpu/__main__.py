"""Verifies this project on the GPU of this machine, and writes a page of what it measured: ``make verify-gpu``.

Run: ``python -m tests.gpu [--page gpu.md] [pytest's options]``. Ends with 0 where every comparison held, with 1 where
one did not (the page is written all the same), and with 2, at once, where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.hardware import PAGE


def missing() -> str:
    """What this machine lacks; empty if it has a GPU that torch can use."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        lacks = f"torch {torch.__version__} is built without CUDA: install a CUDA build of it"
    elif not any(Path("/dev").glob("nvidia[0-9]*")):
        lacks = (
            "this machine shows no NVIDIA device (/dev/nvidia0): run it where there is one, with its driver installed"
        )
    else:
        lacks = (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the device: see nvidia-smi, its driver"
        )
    return f"make verify-gpu needs a CUDA device. {lacks}. Without one, `make test` runs the same checks in small."


def main() -> int:
    """Verify, or say what is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--page", default="gpu.md", help="the Markdown page that is written")
    args, others = parser.parse_known_args()
    if lacks := missing():
        print(lacks, file=sys.stderr)
        return 2
    os.environ[PAGE] = str(Path(args.page).resolve())
    return int(pytest.main([str(Path(__file__).parent), "-m", "gpu", *others]))


if __name__ == "__main__":
    sys.exit(main())
