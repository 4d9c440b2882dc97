"""Odd things beside a production line, and a broken dataset beside a sound one: told, and nothing is lost for them."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ad_assets.cli import main
from ad_assets.defs.build import build_definitions
from ad_assets.defs.landing_sensor import Watch
from ad_assets.defs.partitions import register_categories
from ad_assets.prediction.files import image_paths
from tests.support.bench_graph import Bench, config_tree, draw_image, write_dataset, write_image

PRODUCTION = {"settle_seconds": 0, "patience_seconds": 0}


def categories(bench: Bench) -> set[str]:
    """What the instance knows after a command's and the sensor's look."""
    _, stages = build_definitions(bench.benchmark)
    register_categories(stages, bench.instance)
    dataset = bench.benchmark.datasets["parts"]
    assert dataset.production
    result = Watch(dataset, dataset.production, bench.benchmark.store, bench.instance, 9e9).look(None)
    for request in result.dynamic_partitions_requests or ():
        assert not isinstance(request, dg.DeleteDynamicPartitionsRequest)
        assert set(request.partition_keys) <= {"bolt", "nut"}
    return set(bench.instance.get_dynamic_partitions("parts"))


def test_categories_go_only_when_their_folder_is_seen_to_be_gone(bench: Bench) -> None:
    bench.set("datasets.parts.production", PRODUCTION)
    shutil.copytree(bench.images / "bolt", bench.images / "bolt (copy)")
    assert categories(bench) == {"bolt", "nut"}
    away = bench.images.with_name("away")
    bench.images.rename(away)  # no share
    assert categories(bench) == {"bolt", "nut"}
    bench.images.mkdir()  # a share that is not mounted
    assert categories(bench) == {"bolt", "nut"}
    bench.images.rmdir()
    away.rename(bench.images)
    (bench.images / "bolt/train").rename(bench.images / "bolt/Training")
    shutil.rmtree(bench.images / "bolt/test")
    assert categories(bench) == {"bolt", "nut"}
    shutil.rmtree(bench.images / "bolt")
    _, stages = build_definitions(bench.benchmark)
    register_categories(stages, bench.instance)
    assert set(bench.instance.get_dynamic_partitions("parts")) == {"nut"}


def test_a_wrong_row_of_a_manifest_takes_no_category_away(bench: Bench) -> None:
    table = bench.images / "images.csv"
    rows = [f"{category}/train/good/00{i}.png,train,good,{category}" for category in ("bolt", "nut") for i in range(6)]
    table.write_text("\n".join(["image_path,split,label,category", *rows]))
    bench.tree["datasets"]["parts"]["manifest"] = "images.csv"
    bench.set("datasets.parts.production", PRODUCTION)
    assert categories(bench) == {"bolt", "nut"}
    table.write_text("\n".join(["image_path,split,label,category", *rows[:6], "x.png,val,good,nut"]))
    assert categories(bench) == {"bolt", "nut"}
    table.write_text("\n".join(["image_path,split,label,category", *rows[:6]]))
    _, stages = build_definitions(bench.benchmark)
    register_categories(stages, bench.instance)
    assert set(bench.instance.get_dynamic_partitions("parts")) == {"bolt"}


@pytest.mark.parametrize("production", [False, True])
def test_a_broken_dataset_does_not_keep_another_from_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, production: bool
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    write_dataset(tmp_path / "images", ["bolt"])
    shutil.copytree(tmp_path / "images/bolt", tmp_path / "images/bolt (copy)")
    tree = config_tree(tmp_path)
    parts = tree["datasets"]["parts"]
    del parts["detectors"]
    (tmp_path / "none").mkdir()
    gone = {**parts, "root": str(tmp_path / "none")}
    if production:
        gone["production"] = PRODUCTION
    tree["datasets"] = {"gone": gone, "parts": parts}
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert main(["materialize", "parts", "--config", str(path)]) == 0
    said = capsys.readouterr()
    assert "1 built, 0 found in the store, 0 failed" in said.out
    assert "LEFT OUT parts: bolt (copy): 15 images" in said.err
    assert "is empty" not in said.err
    assert main(["materialize", "--config", str(path)]) == 1
    said = capsys.readouterr()
    assert "FAILED gone: the dataset folder" in said.err
    assert "is empty" in said.err
    assert main(["status", "--config", str(path)]) == 1
    assert "up to date" not in capsys.readouterr().out
    assert main(["materialize", "--category", "screw", "--config", str(path)]) == 2
    assert "there are: bolt; gone: the dataset folder" in capsys.readouterr().err
    for command in ("status", "materialize"):  # nothing can be done
        assert main([command, "gone", "--config", str(path)]) == 2
        assert "ad-assets: gone: the dataset folder" in capsys.readouterr().err


def test_what_a_folder_to_predict_holds_is_scored_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ad_assets.commands.predict import _from_stdin

    for name in ("1.png", "2.jfif", "3.heic", "notes.txt", "@eaDir/1.png", "-x.png", "new\nline.png"):
        write_image(tmp_path / "1.png", draw_image(1))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / os.fsdecode(b"\xe4.png")).symlink_to("/nowhere")
    paths, others = image_paths([str(tmp_path)])
    names = ["-x.png", "1.png", "2.jfif", "3.heic", "new\nline.png", os.fsdecode(b"\xe4.png")]
    assert [Path(path).name for path in paths] == names
    assert [Path(path).name for path in others] == ["notes.txt", "@eaDir"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffa.png\r\nb c.png\r\n\r\nd.png\n"))
    assert _from_stdin() == ["a.png", "b c.png", "d.png"]
