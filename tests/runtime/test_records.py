"""What a server remembers survives full disks, unreachable outboxes and restarts, within its bounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ad_assets_runtime import records as module
from ad_assets_runtime.bundle import Bundle, Inspected, open_bundle
from ad_assets_runtime.identity import content_id
from ad_assets_runtime.records import Records
from tests.support.line_bundles import PLACE, png, write_bundle
from tests.support.line_server import until

AT = (PLACE[0], PLACE[2])


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def inspected(bundle: Bundle, level: int, size: int = 20) -> Inspected:
    """A grey picture; those of more than 100 are alarms."""
    rgb = np.random.default_rng(level).integers(level, level + 5, (size, size, 3)).astype(np.uint8)
    return bundle.inspect(png(rgb), f"{level}.png", {})


def lines(folder: Path) -> list[str]:
    return [line for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]


def test_what_cannot_be_sent_waits_and_is_sent_once_the_outbox_is_there(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    remote = tmp_path / "remote"
    remote.write_text("no folder")
    records = Records(tmp_path / "home", outbox=str(remote))
    records.start()
    images = [inspected(bundle, level) for level in (30, 60, 120)]
    for image in images:
        records.add(image)
    until(lambda: records.image(AT, images[2].image_id))
    records.say(AT, images[2].image_id, "false_alarm", "dust", None)
    assert records.decided.keys() == {images[2].image_id}
    until(lambda: records.unsent == 3)  # a batch, a message, its image
    assert records.lost == 0
    remote.unlink()
    until(lambda: records.unsent == 0)
    records.stop()
    assert len(lines(remote)) == 3
    [message] = [json.loads(path.read_text()) for path in (remote / "feedback/parts/bolt").iterdir()]
    assert (remote / "images" / message["image"]).read_bytes() == images[2].data
    assert not [path for path in (tmp_path / "home/outbox").rglob("*") if path.is_file()]


def test_a_restart_forgets_neither_what_was_inspected_nor_what_was_said(bundle: Bundle, tmp_path: Path) -> None:
    first = Records(tmp_path)
    first.start()
    image = inspected(bundle, 120)
    first.add(image)
    until(lambda: first.image(AT, image.image_id))
    first.say(AT, image.image_id, "confirmed", "", "scratch")
    first.stop()
    with (tmp_path / "feedback.jsonl").open("a") as file:
        file.write('{"cut o')
    again = Records(tmp_path)
    [row] = again.recent(10, *AT)
    assert (row["image_id"], row["said"], row["anomalous"]) == (image.image_id, "confirmed", True)
    assert again.recent(10, "other") == []


def test_recent_images_keep_within_their_bound_and_nominal_ones_go_first(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(module, "_TRIM_SECONDS", 0.1)
    records = Records(tmp_path, kept_gb=150e-6)
    records.start()
    alarm = inspected(bundle, 200, 100)
    records.add(alarm)
    for level in range(30, 60):
        records.add(inspected(bundle, level, 100))
    assert content_id(alarm.data) == alarm.image_id

    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "images").rglob("*") if path.is_file())

    until(lambda: (records.image(AT, inspected(bundle, 59, 100).image_id) is not None) and size() < 150e3)
    records.stop()
    assert records.image(AT, alarm.image_id) == alarm.data
    assert records.image(AT, inspected(bundle, 30, 100).image_id) is None
