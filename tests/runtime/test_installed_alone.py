"""The runtime installs alone, without PyTorch, and says how much room it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.line_bundles import picture, png, write_bundle
from tests.support.places import REPOSITORY

ABSENT = ("torch", "dagster", "scipy", "pandas", "pyarrow", "timm", "onnx")


def test_what_is_imported_to_predict_is_small(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    (tmp_path / "x.png").write_bytes(png(picture(1)))
    code = f"""
import sys
from ad_assets_runtime.bundle import open_bundle
print(open_bundle({str(tmp_path)!r}).predict({str(tmp_path / "x.png")!r}).score)
from ad_assets_runtime.server.app import LineServer
print([name for name in {ABSENT!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.slow
def test_an_environment_of_its_own_runs_a_bundle_and_a_server(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: object) -> str:
        called = list(map(str, command))
        done = subprocess.run(called, capture_output=True, text=True, check=False, cwd=tmp_path, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python, size = tmp_path / "line" / "bin" / "python", {}
    run(sys.executable, "-m", "venv", tmp_path / "line")
    for extra in ("", "[server]"):
        run(
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{REPOSITORY / 'runtime'}{extra}"
        )
        size[extra] = sum(path.stat().st_size for path in (tmp_path / "line").rglob("*") if path.is_file()) / 1e6
    print({extra or "alone": f"{megabytes:.0f} MB" for extra, megabytes in size.items()})
    installed = json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    assert not {each["name"].lower() for each in installed} & set(ABSENT)
    write_bundle(tmp_path / "bundle")
    (tmp_path / "x.png").write_bytes(png(picture(1)))
    assert "whole, and 2 images" in run(python, "-m", "ad_assets_runtime", "verify", "bundle")
    assert json.loads(run(python.with_name("ad-assets-runtime"), "predict", "bundle", "x.png"))["anomalous"] is not None
    run(python, "-c", "from ad_assets_runtime.server.app import _text; assert '<title>Line' in _text('page.html')")
    assert size["[server]"] < 300
