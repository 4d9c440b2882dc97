"""``ad-assets table``: what it lists, computes, prints and refuses; on generated images with the embedded backbone."""

import csv
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ad_assets.cli import main
from ad_assets.commands.table.measured import Measurements, names
from ad_assets.papers.numbered_tables import numbered_tables
from tests.support.bench_graph import write_dataset
from tests.support.places import MAGNETIC_TILES
from tests.support.shipped import shipped
from tests.support.trees import mtd_tree

SMALL = Path(__file__).with_name("small.yaml")
PARTS = [(name, part) for name, table in numbered_tables().items() for part in table.parts]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images, and a store that the tests of this module share."""
    folder = tmp_path_factory.mktemp("tables")
    write_dataset(folder / "mvtec_ad", ("bottle", "cable"))
    mtd_tree(folder / "mtd", free=20)
    return folder


@pytest.fixture
def table(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs the command on the generated images; returns its exit status and what it printed."""
    monkeypatch.setenv("DAGSTER_HOME", str(place / "home"))
    monkeypatch.chdir(place)  # nothing is at the shipped files' relative roots
    monkeypatch.setenv("AD_ASSETS__STORE__ROOT", str(place / "store"))

    def run(*arguments: str, values: tuple[str, ...] = ()) -> tuple[int, str]:
        status = main(["table", *arguments, *(part for value in values for part in ("--set", value))])
        captured = capsys.readouterr()
        run.errors = captured.err  # type: ignore[attr-defined]
        return status, captured.out

    return run


def small(place: Path) -> tuple[str, ...]:
    return f"datasets.mvtec_ad.root={place / 'mvtec_ad'}", "compute.device=cpu"


def mtd(place: Path, *extractors: str) -> tuple[str, ...]:
    sizes = (f"extractors.{name}.resize=[64, 64]" for name in extractors)
    return f"datasets.mtd.root={place / 'mtd'}", "datasets.mtd.check_counts=false", *sizes


def lines(text: str) -> dict[str, str]:
    """The start of each line up to two blanks -> the rest."""
    return {key.strip(): rest.strip() for key, _, rest in (line.partition("  ") for line in text.splitlines())}


def listed(text: str) -> dict[str, str]:
    """Table -> its state, of what ``--list`` prints."""
    heads, states = text.splitlines()[::2], text.splitlines()[1::2]
    return {head.split()[0]: state.strip() for head, state in zip(heads, states, strict=True)}


def test_the_list_names_every_table_without_running(table: Any) -> None:
    started = time.perf_counter()
    status, out = table("--list")
    assert status == 0
    assert time.perf_counter() - started < 10
    states = listed(out)
    assert list(states) == list(numbered_tables())
    assert "not computed; no data at data/mtd; weights from the hub: wide_resnet101_2.tv_in1k" in states["hetmm/4"]
    assert "no statistics of adapted features" in states["simplenet/fig4"]
    assert not (Path.cwd() / "store").exists()


@pytest.mark.parametrize("benchmark", sorted({part.benchmark for _, part in PARTS}))
def test_every_part_finds_its_assets(benchmark: str) -> None:
    loaded = shipped(benchmark)
    try:
        graph = Measurements.of(loaded)
    except ValueError as error:
        pytest.skip(f"its categories are those of a folder: {error}")
    for table, part in PARTS:
        if part.benchmark == benchmark:
            found = {name: graph.target(part, name) for name in names(part)}
            assert found, table
            assert None not in found.values(), (table, found)
            assert graph.categories(part), table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hetmm/13"], "no numbered table 'hetmm/13'; known: hetmm/1"),
        ([], "give the id of a table, or --list"),
        (["hetmm/4", "--config", "/nowhere.yaml"], "no benchmark file '/nowhere.yaml'"),
        (["hetmm/4", "--config", "demo"], "has no dataset 'mtd'; it has: demo"),
        (["hetmm/4", "--category", "screw"], "no category 'screw'; there are: magnetic_tile"),
        (["hetmm/4", "--set", "datasets.mdt.root=/data"], "no such dataset or extractor in mtd_papers"),
        (["hetmm/4", "--set", "datasets.mtd.seed=-1"], "seed"),
    ],
)
def test_a_wrong_call_is_explained(table: Any, arguments: list[str], message: str) -> None:
    status, _ = table(*arguments)
    assert status == 2
    assert message in table.errors


def test_what_cannot_be_had_is_named_beside_the_paper(table: Any, place: Path, monkeypatch: Any) -> None:
    status, out = table("hetmm/4")
    assert status == 0
    assert "not computed: the dataset folder 'data/mtd' does not exist" in out
    assert f"it was looked for in {str(Path.cwd())!r}" in out
    assert lines(out)["HETMM-ALL"] == "– (98.7)"
    assert lines(out)["GANomaly"] == "(76.6)"
    status, out = table("hetmm/4", "--json")
    rows = {(row["line"], row["column"]): row for row in json.loads(out)}
    assert rows["GANomaly", next(column for line, column in rows if line == "GANomaly")]["paper"] == 76.6
    assert "not computed: the dataset folder" in table.errors
    status, out = table("simplenet/fig4")
    assert (status, "not computed: The trained model" in out) == (0, True)

    monkeypatch.setattr("ad_assets.backbones.weights._from_hub", no_hub)
    status, out = table("hetmm/4", values=mtd(place, "wrn50", "wrn101"))
    assert status == 0
    assert re.search(
        r"not computed: (hetmm_all|patchcore_10): no weights for wide_resnet\S+ \(licence: \S+\); tried the test", out
    )
    assert "the hub could not be reached" in out  # it is asked once


def no_hub(extractor: Any) -> None:
    from ad_assets.backbones.weights import _missing

    raise _missing(extractor, "the test's hub")


def test_magnetic_tiles_of_two_papers(table: Any, place: Path) -> None:
    values = mtd(place, "wrn50", "wrn101")
    twice = (*values, "datasets.mtd.detectors.patchcore_10.draws=2")
    status, out = table("hetmm/4", "--bundled", values=twice)
    assert status == 0
    seeds = lines(out)["PatchCore"]
    assert re.fullmatch(r"\d+\.\d ±\d+\.\d \(97\.9, [+-]\d+\.\d\)", seeds)
    assert "±: sample standard deviation over draws" in out
    status, out = table("hetmm/4", "--bundled", "--no-run", values=(*twice[:-1], twice[-1].replace("2", "3")))
    assert lines(out)["PatchCore"] == seeds
    assert "draws: patchcore_10_draw_3 not up to date, so without them" in out
    assert re.fullmatch(r"\d+\.\d \(98\.7, [+-]\d+\.\d\)", lines(out)["HETMM-ALL"])
    assert "tf_efficientnet_lite0 (bundled weights) in place of wide_resnet101_2.tv_in1k" in out
    assert not list((place / "store").glob("heads/mtd/*/*board*"))
    assert not (place / "store/heads/mtd/leaderboard").exists()  # only what the table reads

    status, out = table("patchcore/6", "--bundled", values=values)
    assert status == 0
    assert "not computed (mSTC): " in out  # its folder is not there, or it has no reader yet
    assert re.search(r"PatchCore-10 +\d+\.\d \(97\.9", out)
    assert "built" not in table.errors  # it has the bank of hetmm/4
    status, out = table("--list", "--bundled", values=values)
    states = listed(out)
    assert states["hetmm/4"] == "computed"
    assert states["patchcore/6"].startswith("partly computed (1 of ")

    # Another split is not the papers': no difference.
    status, out = table("hetmm/4", "--bundled", values=(*values, "datasets.mtd.split=exposure"))
    assert re.fullmatch(r"\S+ \(98\.7\)", lines(out)["HETMM-ALL"])
    assert "data: not the protocol of the paper's numbers" in out


@pytest.mark.slow
def test_blind_settings(table: Any, place: Path) -> None:
    values = (*small(place), "datasets.mvtec_ad.check_counts=false")
    values = (*values, "extractors.wrn50.resize=[64, 64]", "extractors.wrn50.crop=null")
    status, out = table("patchcluster/1", "--bundled", values=values)
    assert status == 0
    # 6 + 3 nominal images and 3 with a square of 14 x 14 of 64 x 64 pixels; on 2 of 15 categories.
    found = re.split(r" {2,}", lines(out)["Mix"])
    assert found[:3] == ["9* (273)", "3* (83)", "75.0* (77.0)"]
    assert lines(out)["Ano"].startswith("0* (0)")
    assert "categories (Mix): bottle, cable; 2 of 15" in out
    status, out = table("patchcluster/3", "--bundled", "--category", "cable", values=values)
    assert status == 0
    assert "bottle" not in out
    assert re.search(r"cable +\d+\.\d \(98\.\d, ", out)
    assert "and the paper's with a difference over the same ones" in out


def test_an_asset_that_fails_is_named_and_the_rest_printed(table: Any, place: Path) -> None:
    values = (*small(place), "datasets.mvtec_ad.check_counts=false")
    values = (*values, "extractors.wrn50.resize=[64, 64]", "extractors.wrn50.crop=null")
    status, out = table("patchcluster/7", "--bundled", "--category", "cable", values=values)
    assert status == 1
    assert re.search(r"25 % +100\.0\* \(97\.5\)", out)
    assert "failed: mvtec_ano [cable] mvtec_ano__studies__ratios: ValueError: a score reads 5 neighbours" in out


@pytest.mark.slow
def test_trained_systems_have_both_epochs(table: Any, place: Path) -> None:
    call = ("--config", str(SMALL), "--bundled", "--category", "bottle")
    status, out = table("fod/2", *call, "--format", "csv", values=small(place))
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    cells = {(row["line"], row["column"]): row for row in rows}
    oracle, honest = (cells["bottle", f"FOD, {epoch}"] for epoch in ("best epoch (oracle)", "last epoch"))
    assert float(oracle["paper"]) == 100
    assert float(oracle["ours"]) >= float(honest["ours"])
    assert honest["paper"] == ""
    assert cells["bottle", "DRAEM"]["ours"] == ""
    assert cells["mean", "PatchCore(effnet-b6)"]["categories"] == "1"

    once = "datasets.mvtec_ad.detectors.fod_b6.oracle_every=null"
    status, out = table("fod/2", *call, values=(*small(place), once))
    assert "protocol: ours is standard, the paper's own system is oracle_best_epoch" in out

    status, out = table("simplenet/fig2", *call, "--format", "markdown", values=small(place))
    assert status == 0
    assert re.search(r"\| SimpleNet, best epoch \(oracle\) \| \d+\.\d\* ", out)
    assert re.search(r"\| SimpleNet \| \S+ \(77, \S+\) \|", out)
    assert "speeds: of the machine that measured them" in out


def test_studies_counts_and_curves(table: Any, place: Path) -> None:
    call = ("--config", str(SMALL), "--bundled", "--category", "bottle")
    status, out = table("simplenet/3", *call, values=small(place))
    assert status == 0
    assert re.search(r"Ours-CE +\d+\.\d\* \(99\.4\) +\d+\.\d\* \(97\.8\)", out)
    status, out = table("simplenet/fig5", *call, values=small(place))
    assert re.search(r"bottle +\d+\.\d +\d+\.\d", out)
    status, out = table("patchcore/1", *call, values=small(place))
    assert status == 0
    assert re.search(r"PatchCore-25 +\d+\* \(42\) +\d+\* \(19\) +\d+\* \(23\)", out)
    assert f"not in {SMALL}: spade" in out
    status, out = table("simplenet/fig7", *call, "--out", str(place / "out"), values=small(place))
    assert status == 0
    assert re.search(r"mean over categories +epoch 1 +epoch 2", out)
    status, _ = table("patchcore/figs3", *call, "--no-run", "--out", str(place / "out"), values=small(place))
    assert status == 0
    for picture in ("simplenet_fig7.png", "patchcore_figs3.png"):
        assert (place / "out" / picture).read_bytes().startswith(b"\x89PNG")
    assert str(place / "out" / "patchcore_figs3.png") in table.errors


@pytest.mark.real
@pytest.mark.skipif(not (MAGNETIC_TILES / "MT_Free").is_dir(), reason=f"no Magnetic Tile Defects in {MAGNETIC_TILES}")
def test_real_magnetic_tiles(table: Any) -> None:
    # A tenth of the papers' bank, which alone would take most of ten minutes.
    values = (f"datasets.mtd.root={MAGNETIC_TILES}", "datasets.mtd.detectors.patchcore_10.coreset_ratio=0.01")
    status, out = table("hetmm/4", "--bundled", values=values)
    assert status == 0
    ours = {name: float(text.split()[0]) for name, text in lines(out).items() if name in ("PatchCore", "HETMM-ALL")}
    assert min(ours.values()) > 80
    status, out = table("patchcore/6", "--bundled", values=values)
    assert status == 0
    assert "not computed (mSTC): " in out
    assert f"{ours['PatchCore']} (97.9, " in out
