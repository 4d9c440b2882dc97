"""Results in a notebook: the frames hold what the store holds, and say what is not there or no longer true."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ad_assets import results
from ad_assets.config.load import ConfigError
from tests.support.places import REPOSITORY

EARLIER = Path(__file__).parent / "data" / "earlier_store"
HERE = "bench.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replace(text: str, other: str) -> None:
    path = Path(HERE)
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, other))


@pytest.mark.filterwarnings("error")
def test_everything_that_is_current_as_frames_and_arrays() -> None:
    board = results.leaderboard("parts", HERE)
    means = board[(board.category == "mean") & (board.protocol == "standard")]
    table = means.pivot_table(index="detector", columns="metric", values="value")
    assert table.loc["gauss", "image_auroc"] == 1.0
    assert board.seed.dtype == "Int64"
    assert board.query("detector == 'gauss'").settings.str.startswith("padim(").all()
    rows = results.metrics("parts", HERE)
    assert set(rows.detector) == set(board.detector)
    own = board[board.category != "mean"].merge(rows, on=["category", "detector", "protocol", "metric"])
    assert len(own) == len(rows)
    assert np.array_equal(own.value_x, own.value_y, equal_nan=True)
    assert own.fingerprint_x.equals(own.fingerprint_y)
    index = results.image_index("parts", HERE)
    assert set(index.category) == set(rows.category)
    assert (index.query("split == 'train'").label == 0).all()
    [(ids, maps)] = results.score_maps("parts", "gauss", "bolt", HERE)
    assert set(ids) == set(index.query("split == 'test' and category == 'bolt'").image_id)
    assert (maps.shape, maps.dtype) == ((len(ids), 64, 64), np.float32)


def test_what_is_out_of_date_is_left_out_and_named() -> None:
    replace("channels: 20", "channels: 19")
    with pytest.warns(
        results.OutOfDateWarning, match=r"left out: parts/gauss/metrics \[bolt\]: made from something else"
    ):
        rows = results.metrics("parts", HERE)
    assert set(rows.detector) == {"patchcore_10", "cluster", "lof", "sheets", "pyramid", "simple", "reference"}
    with pytest.warns(results.OutOfDateWarning, match="parts/leaderboard is incomplete or out of date"):
        assert "gauss" in set(results.leaderboard("parts", HERE).detector)
    with pytest.raises(
        results.ResultsError, match=r"gauss/score_maps \[bolt\]: made from something else; first run: ad-assets mat"
    ):
        results.score_maps("parts", "gauss", "bolt", HERE)


def test_other_options_of_the_reader_make_all_of_it_out_of_date() -> None:
    replace("root: images", "root: images\n    on_problem: skip")
    for read in (results.metrics, results.image_index):
        with pytest.raises(results.ResultsError, match=r"made under another setting|made from"):
            read("parts", HERE)


def test_what_is_not_there_is_named_with_the_remedy(folder: Path) -> None:
    shutil.rmtree(folder / "store")
    for read, asset in (
        (results.leaderboard, "leaderboard"),
        (results.metrics, "patchcore_10/metrics"),
        (results.image_index, "image_index"),
    ):
        with pytest.raises(results.ResultsError, match=rf"parts/{asset}.* not in this store.*ad-assets materialize"):
            read("parts", HERE)
    with pytest.raises(ConfigError, match=r"bench\.yaml has no dataset 'part'; did you mean 'parts'"):
        results.leaderboard("part", HERE)
    with pytest.raises(ConfigError, match="no detector 'gaus'; did you mean 'gauss'"):
        results.score_maps("parts", "gaus", "bolt", HERE)
    with pytest.raises(ConfigError, match="no category 'bold'; did you mean 'bolt'"):
        results.score_maps("parts", "gauss", "bold", HERE)


def test_the_documented_calls_run_without_the_images_and_without_dagster(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    documented = (
        (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    )
    (folder / HERE).rename("parts.yaml")
    done = subprocess.run(
        [sys.executable, "-c", f"{documented}\nimport sys; print(len(board), maps.shape, 'dagster' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d{3} \(6, 64, 64\) False\n", done.stdout), done.stdout
