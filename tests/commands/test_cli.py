"""``ad-assets`` as a user meets it: status, doctor, failures, and what they say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ad_assets.cli import MODULES, main, parser
from ad_assets.commands.common import Commands
from ad_assets.commands.examples import EXAMPLES, commands_of
from ad_assets.defs.runs import Outcome, open_instance
from ad_assets.defs.tags import PROCESS_TAG
from ad_assets.graph.stages import feature_files
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import config_tree, draw_image, write_dataset, write_image


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    write_dataset(tmp_path / "images")
    tree = config_tree(tmp_path)
    del tree["datasets"]["parts"]["detectors"]["full"]
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def run(config: Path, command: str, *arguments: str) -> int:
    return main([command, "--config", str(config), *arguments])


def broken(*_: Any) -> None:
    raise ValueError("broken on purpose")


def test_from_nothing_to_a_report_and_back_to_nothing(config: Path, capsys: Any) -> None:
    assert run(config, "status") == 0
    assert "16 would run: 16 to compute or scan" in capsys.readouterr().out
    assert run(config, "materialize") == 0
    out = capsys.readouterr()
    assert "image AUROC" in out.out
    assert "16 built, 0 found in the store, 0 failed" in out.out
    assert "parts/small/metrics [bolt]: built in" in out.err  # progress is visible in the terminal
    report = next(line.split()[1] for line in out.out.splitlines() if line.startswith("report:"))
    assert Path(report).read_text().startswith("<!doctype html>")
    assert run(config, "materialize") == 0
    assert "everything is up to date" in capsys.readouterr().out
    assert run(config, "status") == 0
    assert capsys.readouterr().out == "everything is up to date\n"

    changed = ["--set", "datasets.parts.detectors.small.sigma=1.5"]
    assert run(config, "status", *changed) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "parts",
        "  compute  small: score_maps, metrics  [bolt, nut]  made under another setting: sigma 4.0 -> 1.5",
    ]
    assert lines[-1].startswith("8 would run")

    # What was made before a change, or of a part of the categories, is never shown as if it were what is asked for.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchCore, "score", broken)
        assert run(config, "materialize", *changed) == 1
    out = capsys.readouterr().out
    marked = "OUT OF DATE parts/leaderboard: made from something else; what follows was made before\nparts: image AUROC"
    assert marked in out
    assert "OUT OF DATE parts/report: made from something else; what follows was made before\nreport: " in out
    assert run(config, "materialize", *changed, "--category", "bolt") == 0
    out = capsys.readouterr().out
    assert "OUT OF DATE" not in out
    assert re.search(r"^mean +[\d.]+ \[1 of 2\]$", out, re.MULTILINE)
    assert "left out, not up to date: small [nut]" in out
    page = Path(next(line.split()[1] for line in out.splitlines() if line.startswith("report:"))).read_text()
    assert '<small class="part">1 of 2</small>' in page
    assert "left out, not up to date: small [nut]" in page
    write_image(config.parent / "images/bolt/train/good/new.png", draw_image(5))
    assert run(config, "status", "parts", "--category", "bolt") == 0
    assert re.search(r"scan +image_index +\[bolt\] +files 1 added", capsys.readouterr().out)


def test_status_says_which_setting_changed_from_what_to_what(config: Path, capsys: Any) -> None:
    shutil.rmtree(config.parent / "images" / "nut")
    assert run(config, "materialize") == 0
    for key, value, asset, change in (
        ("datasets.parts.detectors.small.coreset_ratio", "0.3", "small/memory_bank", "coreset_ratio 0.1 -> 0.3"),
        ("evaluation.fpr_limits", "[0.2]", "small/metrics", "fpr_limits [0.3, 0.05] -> [0.2]"),
        (
            "extractors.lite0.taps",
            "[blocks.1]",
            "features/lite0",
            "extractor.taps ['blocks.2', 'blocks.4'] -> ['blocks.1']",
        ),
    ):
        capsys.readouterr()
        assert run(config, "status", "--json", "--set", f"{key}={value}") == 0
        steps = json.loads(capsys.readouterr().out)
        assert {"asset": f"parts/{asset}", "category": "bolt", "action": "compute"}.items() <= steps[0].items()
        assert steps[0]["reason"] == f"made under another setting: {change}"


def test_a_corrupt_image_fails_its_category_and_no_other(config: Path, capsys: Any) -> None:
    (config.parent / "images/bolt/train/good/000.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    (config.parent / "images/bolt/test/good/note.png").write_text("no image")
    assert run(config, "materialize") == 1
    out = capsys.readouterr()
    assert "FAILED parts [bolt] parts__image_index" in out.err
    for name in ("bolt/train/good/000.png", "bolt/test/good/note.png"):
        assert name in out.err
    assert "on_problem: skip" in out.err
    assert "Dependencies for step" not in out.err  # what follows from what failed
    assert "DatasetError" not in out.err
    assert "nut" in out.out  # the other category is on the leaderboard
    # Left out and recorded on request; the rest of the category is used.
    assert run(config, "materialize", "--set", "datasets.parts.on_problem=skip") == 0
    assert "bolt" in capsys.readouterr().out


def test_a_damaged_feature_file_is_made_again_where_its_size_tells_and_named_where_only_its_content_does(
    config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(config, "materialize", "--category", "bolt") == 0
    store = ArtifactStore(root=str(config.parent / "store"))
    broken = store.files("features")[0].path
    whole, tensors = store.read_bytes(broken), store.read_tensors(broken)
    changed = ["--category", "bolt", "--set", "datasets.parts.detectors.small.coreset_ratio=0.5"]
    store.write_bytes(broken, b"cut off")
    monkeypatch.setattr(feature_files, "_CACHE", feature_files._Cache())  # as in a new process
    assert run(config, "materialize", *changed) == 0
    assert all(value.equal(tensors[name]) for name, value in store.read_tensors(broken).items())
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    store.write_bytes(broken, bytes(flipped))
    monkeypatch.setattr(feature_files, "_CACHE", feature_files._Cache())
    changed[-1] = changed[-1].replace("0.5", "0.75")
    capsys.readouterr()
    assert run(config, "materialize", *changed) == 1
    assert re.search(rf"{broken} is damaged .*materialize --verify", capsys.readouterr().err)
    assert run(config, "materialize", "--verify", *changed) == 0
    assert all(value.equal(tensors[name]) for name, value in store.read_tensors(broken).items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "datasets.parts.root=/nowhere"], "'/nowhere' does not exist.*--set datasets"),
        (["other"], "has no dataset 'other'; it has: parts"),
        (["--category", "screw"], "no category 'screw'; there are: bolt, nut"),
        (["--select", 'key:"nothing"'], "no asset matches"),
        (["--select", "((("], "--select"),
        (["--set", "datasets.parts.detectors.small.coreset_ratio=3"], "coreset_ratio"),
    ],
)
def test_a_wrong_call_is_explained(config: Path, capsys: Any, arguments: list[str], message: str) -> None:
    assert run(config, "materialize", *arguments) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["materialise"], "no command 'materialise'; did you mean 'materialize'?"),
        (["status", "--confg", "x.yaml"], "no option --confg; did you mean '--config'?"),
        (["data", "check", "--categroy=x"], "no option --categroy=x; did you mean '--category'?"),
        (["status", "--config", "PLACE/benhc.yaml"], "did you mean 'PLACE/bench.yaml'?"),
        (["status", "--config", "PLACE"], "'PLACE' is a folder; `ad-assets init`"),
        (["predict", "--config", "PLACE/bench.yaml", "no.png", "no2.png"], "no.png, no2.png does not exist"),
    ],
)
def test_what_is_misspelt_is_named_with_what_was_meant(
    config: Path, capsys: Any, call: list[str], message: str
) -> None:
    place = str(config.parent)
    try:
        status = main([word.replace("PLACE", place) for word in call])
    except SystemExit as leave:  # as argparse does
        status = int(leave.code or 0)
    assert status == 2
    assert message.replace("PLACE", place) in capsys.readouterr().err


def test_a_run_beside_is_named(config: Path, capsys: Any) -> None:
    instance = open_instance(str(config))
    instance.add_run(dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: "elsewhere:7"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ad_assets.defs.runs.execute", lambda *_, **__: Outcome(0, 0, ()))
        assert run(config, "materialize") == 0
    assert "BESIDE elsewhere, process 7: it makes assets of this file now" in capsys.readouterr().err


def test_doctor_tells_what_would_fail(config: Path, capsys: Any, tmp_path: Path) -> None:
    assert run(config, "doctor") == 0
    out = capsys.readouterr().out
    assert "ok    dataset parts: 2 categories, 24 images" in out
    told = (
        "ok    false alarms of parts: warning: small [bolt]: 5 % of false alarms needs 19 nominal scores, there are 6"
    )
    assert told in out
    told = "ok    extractor lite0: tf_efficientnet_lite0, bundled weights, float32, images 64x64, taps "
    assert told + "blocks.2 (40, 8, 8), blocks.4 (112, 4, 4)" in out
    assert re.search(r"ok    device: .*CPU threads? a run \(\d+ usable, shared by runs at once\)", out)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"no weights")
    assert run(config, "doctor", "--set", f"extractors.lite0.weights={file}") == 1
    out = capsys.readouterr().out
    assert "ok    device: cpu" in out
    assert re.search(f"FAIL  extractor lite0: .*{file}", out)
    assert run(config, "doctor", "--set", "compute.device=cuda:99") == 1
    assert "FAIL  device: compute.device: cuda:99 is not there" in capsys.readouterr().out


def test_doctor_looks_at_what_a_backbone_gives(config: Path, capsys: Any, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("test_resnet").state_dict()
    file = tmp_path / "test_resnet.safetensors"
    save_file(
        {name: each.fill_(float("nan")) if name == "layer1.0.bn1.weight" else each for name, each in state.items()},
        file,
    )
    extractor = f"{{backbone: test_resnet, weights: {file}, taps: [act1, layer1], resize: [64, 64]}}"
    assert run(config, "doctor", "--set", f"extractors.lite0={extractor}") == 1
    out = capsys.readouterr().out
    assert re.search(r"FAIL  extractor lite0: .*act1 \(32, 32, 32\), layer1 \(32, 16, 16\): not all .* finite", out)


def test_a_backbone_of_another_size_is_told_by_doctor_and_by_the_run(config: Path, capsys: Any) -> None:
    told = r"swin_tiny_patch4_window7_224 fails at images of 64x64 .*made for 224x224: write resize: \[224, 224\]"
    swin = "{backbone: swin_tiny_patch4_window7_224, weights: random(0), taps: [patch_embed.proj], resize: [64, 64]}"
    wrong = ["--set", f"extractors.lite0={swin}"]
    assert run(config, "doctor", *wrong) == 1
    assert re.search(f"FAIL  extractor lite0: {told}", capsys.readouterr().out)
    assert run(config, "materialize", "--category", "bolt", *wrong) == 1
    assert re.search(rf"FAILED parts \[bolt\] parts__features__lite0: ValueError: {told}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("taps", "size", "told"),
    [
        ("/16", 64, r"ok    extractor lite0: test_vit, .*images 64x64, taps /16 \(64, 4, 4\)"),
        ("fc_norm", 64, r"FAIL  extractor lite0: taps: 'fc_norm' gives \(1, 64\) .*no map"),
        (
            "/16",
            70,
            r"FAIL  extractor lite0: images of 70x70 are no .*write resize: \[64, 64\] or \[80, 80\]",
        ),
    ],
)
def test_doctor_says_what_a_transformer_gives(config: Path, capsys: Any, taps: str, size: int, told: str) -> None:
    vit = f"{{backbone: test_vit, weights: random(0), taps: [{taps}], resize: [{size}, {size}]}}"
    run(config, "doctor", "--set", f"extractors.lite0={vit}")
    assert re.search(told, capsys.readouterr().out)


def test_gc_lists_first_and_deletes_on_request(config: Path, capsys: Any) -> None:
    assert run(config, "materialize", "--category", "bolt") == 0
    other = ["--set", "datasets.parts.detectors.small.sigma=1.0"]
    assert run(config, "materialize", "--category", "bolt", *other) == 0
    capsys.readouterr()
    assert run(config, "gc", *other, "--older-than", "0") == 0
    out = capsys.readouterr().out
    assert "artifacts/score_maps/" in out
    assert "unreferenced files" in out
    assert run(config, "gc", *other, "--older-than", "0", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert f"{len(rows)} unreferenced files, {sum(row['bytes'] for row in rows) / 1e6:.1f} MB" in out
    store = ArtifactStore(root=str(config.parent / "store"))
    before = store.usage()
    assert run(config, "gc", *other, "--older-than", "0", "--delete") == 0
    assert store.usage() < before
    capsys.readouterr()
    assert run(config, "materialize", "--category", "bolt", *other) == 0
    assert "up to date" in capsys.readouterr().out


def test_each_command_is_named_beside_its_module() -> None:
    for module in set(MODULES.values()):
        commands = Commands(None)
        import_module(f"ad_assets.commands.{module}").add(commands)
        names = re.findall(r"^    ([\w-]+)", commands.parser.format_help(), re.MULTILINE)
        assert set(names) == {name for name, own in MODULES.items() if own == module}


COMMANDS = dict(commands_of(parser()))


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_of_every_command_ends_with_examples_that_it_takes(words: str) -> None:
    help_text = COMMANDS[words].format_help()
    assert "\nexample" in help_text, "give it an example in commands/examples.py"
    for example in EXAMPLES[words]:
        assert f"  {example}\n" in help_text
        arguments = shlex.split(example.split(" | ")[0].split(" >> ")[0], comments=True)
        assert arguments[0] == "ad-assets"
        assert parser().parse_args(arguments[1:]).run
        assert " ".join(arguments[1 : 1 + len(words.split())]) == words


def test_examples_are_of_commands() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        (["mat"], ["materialize"]),
        (["materialize", "--cat"], ["--category"]),
        (["data", "d"], ["describe", "diff"]),
        (["export", "maps", "--lay"], ["--layout"]),
    ],
)
def test_bash_completes_commands_and_options(line: list[str], completed: list[str], capsys: Any) -> None:
    assert main(["completion"]) == 0
    words = " ".join(["ad-assets", *line])
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(line)}; _ad_assets; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{capsys.readouterr().out}\n{asked}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == completed


def test_the_command_is_the_module(capsys: Any) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    assert "materialize" in capsys.readouterr().out
    assert sys.modules["ad_assets.cli"].main is main
