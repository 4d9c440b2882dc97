"""Images that people give back: what is written, admitted, tested, refused and taken back."""

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from ad_assets.cli import main
from ad_assets.config.faults import ConfigError
from ad_assets.graph.build import materialize
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.prediction.feedback import Given, give_feedback
from ad_assets.production.feedback_ledger import FeedbackError, false_alarms, read_ledger
from ad_assets.production.inspections import keep_image
from ad_assets.production.review_decisions import decide, read_admissions
from ad_assets.production.store_identity import BESIDE, adopt_store
from ad_assets_runtime.identity import content_id
from tests.support.bench_graph import Bench, draw_image, write_image

PLACE = ("parts", "bolt")


@pytest.fixture
def line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A production dataset, one category of which is indexed; whatever lands is at rest at once."""
    monkeypatch.setenv("DAGSTER_HOME", str(bench.folder / "home"))
    bench.set("datasets.parts.production", {"settle_seconds": 0})
    index(bench)
    return bench


def index(line: Bench) -> dict[str, str]:
    """Index bolt; returns path -> split of what is in the index."""
    [stage] = [stage for stage in line.stages if stage.kind == "image_index"]
    store = line.benchmark.store
    materialize(stage, "bolt", store, line.benchmark.compute, logging.getLogger("test"))
    artifact = current_index(store, *PLACE)
    assert artifact
    return {row["path"].removeprefix("bolt/"): row["split"] for row in read_index(artifact)}


def inbox(line: Bench, seed: int = 7, *, defect: bool = True) -> Path:
    path = line.folder / "inbox" / f"{seed}.png"
    write_image(path, draw_image(seed, defect=defect))
    return path


def say(line: Bench, image: str | Path | bytes, action: str, **options: str) -> Given:
    [given] = give_feedback(*PLACE, [image], action, config=line.benchmark, **options)  # type: ignore[arg-type]
    return given


def test_a_false_alarm_is_trained_on_and_a_missed_defect_tests(line: Bench) -> None:
    image = inbox(line)
    content = content_id(image.read_bytes())
    given = say(line, image, "false_alarm", reason="a reflection")
    train = f"train/good/false_alarm_{content[:16]}.png"
    assert (given.image, given.earlier, given.written) == (content, None, f"bolt/{train}")
    assert false_alarms(line.benchmark.store, *PLACE).keys() == {content}
    assert index(line)[train] == "train"
    assert content in read_admissions(line.benchmark.store, *PLACE).admitted
    # Said again, it changes nothing but the ledger.
    assert say(line, image, "false_alarm").written == ""
    assert (line.images / "bolt" / train).read_bytes() == image.read_bytes()

    given = say(line, image, "missed")
    missed = f"test/missed/missed_{content[:16]}.png"
    assert (given.earlier, given.written, given.removed) == ("false_alarm", f"bolt/{missed}", f"bolt/{train}")
    rows = index(line)
    assert rows[missed] == "test"
    assert train not in rows
    given = say(line, image, "confirmed", defect="scratch")
    assert (given.written, given.removed) == (f"bolt/test/scratch/confirmed_{content[:16]}.png", f"bolt/{missed}")
    given = say(line, image, "undo", reason="by mistake")
    assert given.removed == f"bolt/test/scratch/confirmed_{content[:16]}.png"
    assert not {train, missed} & index(line).keys()
    ledger = read_ledger(line.benchmark.store, *PLACE)
    assert [entry.said for entry in ledger.entries] == ["false_alarm", "false_alarm", "missed", "confirmed", "undone"]
    assert ledger.entries[0].reason == "a reflection"
    with pytest.raises(FeedbackError, match="none to undo"):
        say(line, image, "undo")


def test_a_verdict_counts_before_its_file_is_seen_and_holds_for_a_held_image(line: Bench) -> None:
    # Far too bright, and of another size: the gate would hold both, and does hold what nobody said anything of.
    for name, pixels in (("one.png", draw_image(8) // 4 + 190), ("two.png", draw_image(9)[:60])):
        write_image(line.images / "bolt/train/good" / name, pixels)
    content = content_id((line.images / "bolt/train/good/one.png").read_bytes())
    given = say(line, (line.images / "bolt/train/good/one.png").read_bytes(), "false_alarm")
    write = Path(given.written)
    (line.images / write).unlink()  # seen or not
    rows = index(line)
    assert "train/good/one.png" in rows
    assert "train/good/two.png" not in rows
    # It lies there: feedback on what waits writes nothing more, and an image is named by its id.
    waits = next(iter(read_admissions(line.benchmark.store, *PLACE).held))
    assert say(line, waits[:8], "false_alarm").written == ""
    assert "train/good/two.png" in index(line)
    # Undone, it is judged as any new image, and waits again.
    say(line, waits[:8], "undo")
    assert "train/good/two.png" not in index(line)
    assert content in read_admissions(line.benchmark.store, *PLACE).admitted


def test_the_command_needs_neither_dagster_nor_torch_where_the_folder_names_its_store(line: Bench) -> None:
    adopt_store(line.benchmark.datasets["parts"], line.benchmark.store, line.instance)
    call = ["feedback", *PLACE, str(inbox(line)), "--false-alarm", "--config", str(line.folder / "bench.yaml")]
    heavy = {"dagster", "torch", "pandas", "scipy"}
    code = f"import sys; from ad_assets.cli import main; assert main({call}) == 0; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr
    (line.images / BESIDE).write_text(json.dumps({"parts": "of another store"}))
    assert main(call) == 2


def test_what_was_missed_in_training_is_rejected_there(line: Bench) -> None:
    path = line.images / "bolt/train/good/000.png"
    given = say(line, path, "missed", defect="crack")
    rows = index(line)
    assert "train/good/000.png" not in rows
    assert rows[given.written.removeprefix("bolt/")] == "test"
    # A decision to the contrary withdraws it, and removes what feedback had written.
    decide(line.benchmark.store, *PLACE, [given.image], "admit")
    assert read_ledger(line.benchmark.store, *PLACE).standing() == {}


def test_rejecting_a_false_alarm_withdraws_it_with_its_file(line: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(line.folder / "bench.yaml")]
    assert main(["feedback", "parts", "bolt", str(inbox(line)), "--false-alarm", "--reason", "dust", *config]) == 0
    told = capsys.readouterr().out
    assert "false alarm" in told
    written = told.split("written to ")[1].strip()
    assert written.removeprefix("bolt/") in index(line)
    name = written.rpartition("/")[2]
    assert main(["quarantine", "parts", "bolt", "--reject", name, *config]) == 0
    told = capsys.readouterr().out
    assert f"removed   {written}" in told
    assert "(was admitted)" in told
    assert not (line.images / written).exists()
    assert written.removeprefix("bolt/") not in index(line)


def test_a_copy_in_train_and_test_is_refused(line: Bench) -> None:
    before = line.benchmark.store.files("feedback")
    defect = line.images / "bolt/test/spot/000.png"
    with pytest.raises(FeedbackError, match=r"is the test image bolt/test/spot/000\.png"):
        say(line, defect, "false_alarm")
    copy = line.folder / "copy.png"
    with Image.open(defect) as pixels:
        pixels.save(copy, compress_level=1)
    with pytest.raises(FeedbackError, match=r"a copy of the test image bolt/test/spot/000\.png"):
        say(line, copy, "false_alarm")
    with pytest.raises(FeedbackError, match=r"is the nominal test image bolt/test/good/000\.png"):
        say(line, line.images / "bolt/test/good/000.png", "missed")
    assert say(line, defect, "confirmed", defect="spot").written == ""
    assert line.benchmark.store.files("feedback") != before


@pytest.mark.parametrize(
    ("image", "action", "options", "says"),
    [
        ("nowhere.png", "false_alarm", {}, "it is no file, and no image's id"),
        ("abcdef", "missed", {}, "it is no file, and no image's id"),
        (b"no image", "false_alarm", {}, "no format that is read|cannot be decoded|not"),
        ("bolt/train/good/000.png", "false_alarm", {"defect": "spot"}, "missed and confirmed images alone"),
        ("bolt/train/good/000.png", "missed", {"defect": "good"}, "no name of nominal images"),
        ("bolt/train/good/000.png", "missed", {"defect": "../x"}, "expected letters"),
    ],
)
def test_what_cannot_be_given_is_refused_by_name(
    line: Bench, image: str | bytes, action: str, options: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        say(line, image, action, **options)
    assert not line.benchmark.store.files("feedback")


def test_an_inspected_image_is_named_by_its_id_after_the_inbox_is_empty(line: Bench) -> None:
    data = inbox(line).read_bytes()
    content = content_id(data)
    keep_image(line.benchmark.store, *PLACE, content, "7.png", data, anomalous=True)
    given = say(line, content[:10], "false_alarm")
    assert (line.images / given.written).read_bytes() == data


def test_feedback_of_many_at_once_is_all_taken(line: Bench) -> None:
    images = [inbox(line, seed, defect=False) for seed in range(500, 512)]
    with ThreadPoolExecutor(max_workers=6) as pool:
        given = list(pool.map(lambda image: say(line, image, "false_alarm"), [*images, *images]))
    rows = index(line)
    assert {each.image for each in given} == false_alarms(line.benchmark.store, *PLACE).keys()
    assert sum(path.startswith("train/good/false_alarm_") for path in rows) == len(images)


def test_the_landing_sensor_takes_up_feedback_at_once(line: Bench) -> None:
    from ad_assets.defs.landing_sensor import Watch

    line.set("datasets.parts.production", {"settle_seconds": 600})
    dataset = line.benchmark.datasets["parts"]
    assert dataset.production
    given = say(line, inbox(line), "false_alarm")
    now = (line.images / given.written).stat().st_mtime + 1  # an upload of then would have to rest for ten minutes
    watch = Watch(dataset, dataset.production, line.benchmark.store, dg.DagsterInstance.ephemeral(), now)
    asked = watch.look(None)
    assert "bolt" in [request.partition_key for request in asked.run_requests or ()]
    assert given.written.removeprefix("bolt/") in index(line)
