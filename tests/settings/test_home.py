"""Paths with ``~``: of a user that is not there they name their key, and no code fails on them."""

from pathlib import Path
from typing import Any

import pytest

import ad_assets
import resources
from ad_assets.commands.doctor import Finding, _store, _stored_files
from ad_assets.config.load import ConfigError, load_config
from ad_assets.datasets.files import ImageFiles
from ad_assets.settings.home import known_home, without_tilde

NOBODY = "~nobody-of-that-name/x"
LITE = "{backbone: tf_efficientnet_lite0, taps: [blocks.2], resize: [64, 64], weights: %s}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store.root", NOBODY),
        ("datasets.demo.root", NOBODY),
        ("datasets.a", {"reader": "folder", "root": NOBODY}),
        ("datasets.a", {"reader": "cifar10_one_class", "root": "/x", "source": NOBODY}),
        ("datasets.a", {"reader": "mstc", "root": "/x", "source": NOBODY}),
        ("extractors.lite0.weights", f"{NOBODY}.pth"),
    ],
)
def test_a_home_that_nobody_has_names_its_key_and_the_remedy(key: str, value: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"{key}[.\w]*: there is no user 'nobody-of-that-name' here; write the whole"
    ):
        load_config("demo", [f"{key}={value}"])


def test_a_home_that_is_known_is_put_in_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert without_tilde("~/images") == tmp_path / "images"
    for path in ("~/images", "~", "/images", "./~x", "s3://bucket/~x", "a~b"):
        assert known_home(path) == path


@pytest.mark.parametrize("root", ["~/store", "file://{home}/store", "{home}/store"])
def test_doctor_finds_a_store_however_its_place_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written = root.format(home=tmp_path)
    benchmark = load_config("demo", [f"store.root={written}", f"datasets.demo.root={tmp_path / 'images'}"])
    findings = {finding.subject: finding for finding in map(_healthy, (_store(benchmark), _stored_files(benchmark)))}
    assert findings["store"].message.startswith(f"{written}, 0 MB used, ")
    assert (tmp_path / "store").is_dir()


def _healthy(finding: Finding) -> Finding:
    assert finding.healthy, finding.message
    return finding


def test_what_a_manifest_names_is_nobodys_fault(tmp_path: Path) -> None:
    assert ImageFiles(str(tmp_path)).relative(NOBODY) is None


def test_no_other_code_puts_homes_in_place() -> None:
    packages = [Path(str(package.__file__)).parent for package in (ad_assets, resources)]
    sources = [path for package in packages for path in package.rglob("*.py") if path.name != "home.py"]
    assert len(sources) > 100
    assert [path.name for path in sources if "expanduser" in path.read_text(encoding="utf-8")] == []
