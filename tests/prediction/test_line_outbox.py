"""What a line's computer puts aside is taken in, each once, and the rest is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from ad_assets.cli import main
from ad_assets.commands.doctor import outboxes
from ad_assets.defs.inspections import look
from ad_assets.prediction.line_outbox import Taken, take_in
from ad_assets.production.feedback_ledger import read_ledger
from ad_assets.production.inspections import read
from ad_assets_runtime.bundle import Bundle, open_bundle
from ad_assets_runtime.identity import content_id
from ad_assets_runtime.records import Records
from tests.prediction.test_feedback import PLACE, inbox, index, line  # noqa: F401 - a fixture
from tests.support.bench_graph import Bench
from tests.support.line_bundles import png, write_bundle
from tests.support.line_server import until


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def spoken(home: Path, bundle: Bundle, images: list[bytes], said: str = "") -> Path:
    """The outbox of a line's computer that inspected images, and on which a person spoke of each."""
    records = Records(home)
    records.start()
    for number, data in enumerate(images):
        records.add(bundle.inspect(data, f"camera/{number}.png", {}))
    if said:
        for data in images:
            until(lambda data=data: records.image(PLACE, content_id(data)))
            records.say(PLACE, content_id(data), said, "at the line", None)  # type: ignore[arg-type]
    records.stop()
    return home / "outbox"


def test_inspections_are_taken_in_once_however_often_they_are_handed_in(
    line: Bench,  # noqa: F811
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    images = [png(np.full((20, 20, 3), 10 * number, np.uint8)) for number in range(5)]
    outbox = spoken(tmp_path / "home", bundle, images)
    shutil.copytree(outbox, tmp_path / "again")
    for handed_in in (outbox, tmp_path / "again"):
        assert take_in(line.benchmark, str(handed_in)) == Taken(5, 0, {})
        assert not [path for path in handed_in.rglob("*") if path.is_file()]
    rows = read(line.benchmark.store, *PLACE)
    assert [row.image_id for row in rows] == list(map(content_id, images))
    predictions = [bundle.predict(data) for data in images]
    assert [(row.score, row.anomalous, row.p_value, row.regions) for row in rows] == [
        (each.score, each.anomalous, each.p_value, each.regions) for each in predictions
    ]
    assert {(row.source, row.champion) for row in rows} == {("line", "state-60")}
    assert rows[3].brightness == pytest.approx(30, abs=0.01)


def test_a_false_alarm_at_the_line_enters_ledger_and_folder_once(
    line: Bench,  # noqa: F811
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = inbox(line).read_bytes()
    outbox = spoken(tmp_path / "home", bundle, [data], "false_alarm")
    shutil.copytree(outbox, tmp_path / "again")
    assert main(["take-outbox", str(outbox), "--config", str(line.folder / "bench.yaml")]) == 0
    assert "1 inspections and 1 verdicts" in capsys.readouterr().out
    written = line.images / "bolt" / "train" / "good" / f"false_alarm_{content_id(data)[:16]}.png"
    assert written.read_bytes() == data
    written.unlink()  # as if it had been cut off between ledger and folder
    assert take_in(line.benchmark, str(tmp_path / "again")).feedback == 1
    [entry] = read_ledger(line.benchmark.store, *PLACE).entries
    assert (entry.said, entry.reason, written.read_bytes()) == ("false_alarm", "at the line", data)
    assert index(line)[f"train/good/{written.name}"] == "train"


def test_an_outbox_may_lie_in_an_object_store(
    line: Bench,  # noqa: F811
    bundle: Bundle,
    tmp_path: Path,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    s3fs.S3FileSystem(endpoint_url=s3_endpoint).mkdir("outbox-bucket")
    records = Records(tmp_path / "home", outbox="s3://outbox-bucket/line1")
    records.start()
    records.add(bundle.inspect(inbox(line).read_bytes(), "a.png", {}))
    records.stop()
    assert records.unsent == 0
    assert take_in(line.benchmark, "s3://outbox-bucket/line1") == Taken(1, 0, {})
    assert take_in(line.benchmark, "s3://outbox-bucket/line1") == Taken(0, 0, {})
    assert [row.source for row in read(line.benchmark.store, *PLACE)] == ["line"]


def test_what_cannot_be_taken_in_is_put_aside_with_the_reason(line: Bench, bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    outbox = spoken(tmp_path / "home", bundle, [inbox(line).read_bytes()], "missed")
    [message] = (outbox / "feedback").rglob("*.json")
    told = json.loads(message.read_text())
    for name, changed in {
        "parts/bolt/a.json": "{",
        "parts/bolt/b.json": json.dumps(told | {"said": "nonsense"}),
        "parts/bolt/c.json": json.dumps(told | {"image": "0" * 64}),
        "other/bolt/d.json": message.read_text(),
        "parts/e/f/g.json": message.read_text(),
    }.items():
        (outbox / "feedback" / name).parent.mkdir(parents=True, exist_ok=True)
        (outbox / "feedback" / name).write_text(changed)
    [batch] = (outbox / "inspections").rglob("*.jsonl")
    batch.with_name("no-name.jsonl").write_text(batch.read_text())
    taken = take_in(line.benchmark, str(outbox))
    assert (taken.inspections, taken.feedback, len(taken.refused)) == (1, 1, 6)
    for name, words in {"b": "nonsense", "c": "not in the outbox", "d": "other/bolt is no category"}.items():
        [reason] = (outbox / "refused").rglob(f"{name}.json.reason.txt")
        assert words in reason.read_text()
    assert take_in(line.benchmark, str(outbox)) == Taken(0, 0, {})


def test_the_sensor_takes_in_the_outboxes_and_one_that_is_not_there_holds_up_none(
    line: Bench,  # noqa: F811
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    outbox = spoken(tmp_path / "home", bundle, [inbox(line).read_bytes()], "confirmed")
    unknown, absent = "nowhere://x", str(tmp_path / "not-connected")
    line.set("datasets.parts.production.outboxes", [unknown, absent, str(outbox)])
    dataset = line.benchmark.datasets["parts"]
    assert dataset.production
    answer = look(line.benchmark, dataset, dataset.production, line.instance, None, 1.0)
    assert f"{absent}: there is no such folder" in str(answer.skip_reason)
    assert f"{unknown} cannot be taken in" in str(answer.skip_reason)
    assert [row.source for row in read(line.benchmark.store, *PLACE)] == ["line"]
    assert [entry.said for entry in read_ledger(line.benchmark.store, *PLACE).entries] == ["confirmed"]


def test_doctor_looks_into_the_outboxes_and_takes_nothing_in(
    line: Bench,  # noqa: F811
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    outbox = spoken(tmp_path / "home", bundle, [inbox(line).read_bytes()], "confirmed")
    line.set("datasets.parts.production.outboxes", [str(outbox), str(tmp_path / "not-connected")])
    there, absent = outboxes(line.benchmark, "parts")
    assert (there.healthy, absent.healthy) == (True, False)
    assert "2 messages to be taken in, the oldest 0.0 hours old" in there.message
    assert "no such folder" in absent.message
    assert "production.outboxes of parts" in absent.message
    [message] = (outbox / "feedback").rglob("*.json")
    message.write_text("{")
    assert take_in(line.benchmark, str(outbox)) == Taken(1, 0, {message.relative_to(outbox).as_posix(): ANY})
    [there, _] = outboxes(line.benchmark, "parts")
    assert there.message == f"0 messages to be taken in; warning: 1 refused, with reasons in {outbox}/refused"
