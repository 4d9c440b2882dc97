"""The folder of Dagster's records: its settings are one file, which counts whenever it is edited."""

from pathlib import Path

import pytest

from ad_assets.config.load import CONFIGS
from ad_assets.defs import home
from ad_assets.defs.home import open_home
from ad_assets.defs.runs import open_instance


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shipped.yaml"
    path.write_bytes(home.SHIPPED.read_bytes())
    monkeypatch.setattr(home, "SHIPPED", path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return path


def most_runs() -> int:
    with open_instance("bench.yaml") as instance:
        queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    return queue.max_concurrent_runs


def test_an_edit_of_the_shipped_settings_counts_from_the_next_start(shipped: Path) -> None:
    assert most_runs() == 2
    shipped.write_text(shipped.read_text().replace("max_concurrent_runs: 2", "max_concurrent_runs: 3"))
    assert most_runs() == 3


def test_settings_of_ones_own_stay(shipped: Path) -> None:
    own = open_home("bench.yaml") / "dagster.yaml"
    own.unlink()
    own.write_text("concurrency: {runs: {max_concurrent_runs: 5}}\n")
    assert most_runs() == 5
    assert own.read_text().startswith("concurrency: {")


def test_a_link_to_a_package_that_has_gone_is_renewed(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_home("bench.yaml")
    moved = shipped.rename(shipped.with_name("moved.yaml"))
    monkeypatch.setattr(home, "SHIPPED", moved)
    assert most_runs() == 2


def test_without_links_the_settings_are_copied(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", refused)
    assert (open_home("bench.yaml") / "dagster.yaml").read_bytes() == shipped.read_bytes()


def test_it_lies_beside_the_benchmark_file_and_of_shipped_ones_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    (tmp_path / "line").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_home("line/bench.yaml") == tmp_path / "line" / ".dagster_home"
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert open_home(CONFIGS / "demo.yaml") == tmp_path / ".dagster_home"
