"""What a server remembers: inspections on their way to the project, recent images, what people said of them.

Inspections are written in batches, and messages of people one by one, into an outbox, from which the project takes them
(`ad-assets take-outbox`, its own server, or its sensor: `ad_assets.prediction.line_outbox`). Where it lies on another
computer they are sent there, and stay here until they were. Nothing of it may cost a prediction: one thread writes, and
says so when it cannot.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from ad_assets_runtime.appearance import appearance_of
from ad_assets_runtime.bundle import Inspected
from ad_assets_runtime.identity import content_of
from ad_assets_runtime.pictures import heat_map_png
from ad_assets_runtime.results import decision_of
from ad_assets_runtime.root_folder import open_root, write_whole

Said = Literal["false_alarm", "missed", "confirmed", "undo"]
SAID: tuple[Said, ...] = ("false_alarm", "missed", "confirmed", "undo")
FLUSH_ROWS, FLUSH_SECONDS = 256, 5.0
RECENT = 500
_MOST_ROWS = 100_000  # that wait while the disk is full
_MOST_PICTURES = 64  # that wait to be written; further ones are not kept
_TRIM_SECONDS, _ROOM = 60.0, 0.8
_TIME = "%Y%m%dT%H%M%S%fZ"
_LOG = logging.getLogger(__name__)


class Records:
    """Records of one server, in its own folder; threads may share it.

    Args:
        home: that folder.
        outbox: folder or ``s3://`` prefix that all is sent to; empty: it stays in ``outbox`` of `home`.
        kept_gb: of recent images.

    Attributes:
        lost: inspections that could not be kept.
    """

    def __init__(self, home: Path, *, outbox: str = "", kept_gb: float = 2.0) -> None:
        self._home, self._own = home, home / "outbox"
        self._target, self._sender, self._kept_bytes = outbox, None if not outbox else open_root(outbox), kept_gb * 1e9
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._recent: deque[dict[str, Any]] = deque(_lines(home / "recent.jsonl"), maxlen=RECENT)
        self._pictures: queue.Queue[Inspected] = queue.Queue(_MOST_PICTURES)
        self._last = datetime.min.replace(tzinfo=UTC)
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._flushed, self._trimmed, self._fault = time.monotonic(), 0.0, ""
        self.lost = 0
        self._said = {line["image"]: line for line in _lines(home / "feedback.jsonl")}
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)

    def start(self) -> None:
        """Begin to write. An outbox in which nothing lies is there too: one that is not is a drive not connected."""
        self._own.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stopped.set()
        self._thread.join(timeout=60)

    @property
    def unsent(self) -> int:
        """Inspections that are not written yet, and files that were not sent yet."""
        waiting = sum(map(len, self._rows.values()))
        return waiting + (sum(1 for _ in self._files()) if self._sender else 0)

    @property
    def decided(self) -> Mapping[str, str]:
        """sha256 of each file that a person called a false alarm -> when."""
        return {image: line["when"] for image, line in self._said.items() if line["said"] == "false_alarm"}

    def add(self, image: Inspected) -> dict[str, Any]:
        """Record an inspection; its row."""
        dataset, lane, category = image.bundle.place
        prediction, looks = image.prediction, appearance_of(image.rgb)
        with self._lock:
            # No two rows at one time: the project tells repeated rows by it.
            self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
            row = {
                "image_id": image.image_id,
                "path": prediction.name.encode("utf-8", "backslashreplace").decode(),
                "time": self._last.isoformat(timespec="microseconds"),
                "source": "line",
                "champion": image.bundle.champion["state"],
                **decision_of(prediction),
                "brightness": looks.brightness,
                "contrast": looks.contrast,
            }
            if sum(map(len, self._rows.values())) < _MOST_ROWS:
                self._rows.setdefault((dataset, category), []).append(row)
            else:
                self.lost += 1
            self._recent.append(
                {**row, "dataset": dataset, "lane": lane, "category": category, "bundle": image.bundle.identity}
            )
        with suppress(queue.Full):
            self._pictures.put_nowait(image)
        return row

    def recent(self, most: int, dataset: str | None = None, category: str | None = None) -> list[dict[str, Any]]:
        """The last inspections, the newest first, each with what people said of it."""
        with self._lock:
            rows = list(self._recent)
        wanted = [
            row for row in reversed(rows) if dataset in (None, row["dataset"]) and category in (None, row["category"])
        ]
        return [{**row, "said": self.said(row["image_id"])} for row in wanted[:most]]

    def said(self, image_id: str) -> str:
        """What stands of what people said of an image; empty: nothing."""
        said = self._said.get(content_of(image_id), {}).get("said", "")
        return "" if said == "undo" else str(said)

    def image(self, place: tuple[str, str], image_id: str) -> bytes | None:
        """The bytes of a recent image of a dataset and category; None: they are not kept (any more)."""
        return _first(self._kept(place, image_id, verdict) for verdict in ("anomalous", "nominal"))

    def heat_map(self, place: tuple[str, str], image_id: str) -> bytes | None:
        """The heat map of a recent alarm, a PNG file; None: none is kept."""
        return _first([self._kept(place, image_id, "heat_maps")])

    def say(self, place: tuple[str, str], image_id: str, said: Said, reason: str, defect: str | None) -> None:
        """Send what a person said of a recent image.

        Raises:
            FileNotFoundError: the image is not kept any more.
            OSError: it cannot be written.
        """
        data, content = self.image(place, image_id), content_of(image_id)
        if data is None:
            raise FileNotFoundError(image_id)
        when, key = datetime.now(UTC), uuid.uuid4().hex[:12]
        write_whole(self._own / "images" / content, data)
        message = {
            "id": key,
            "image": content,
            "said": said,
            "reason": reason,
            "defect": defect,
            "when": when.isoformat(timespec="seconds"),
            "dataset": place[0],
            "category": place[1],
        }
        path = self._own.joinpath("feedback", *place, f"{when.strftime(_TIME)}-{key}.json")
        write_whole(path, json.dumps(message).encode())
        with self._lock:
            self._said = {**self._said, content: message}
            with (self._home / "feedback.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(message) + "\n")

    def _work(self) -> None:
        while not self._stopped.is_set() or not self._pictures.empty():
            with suppress(queue.Empty):
                self._keep(self._pictures.get(timeout=0.2))
            self._try_flush(force=False)
        self._try_flush(force=True)

    def _try_flush(self, *, force: bool) -> None:
        full = sum(map(len, self._rows.values())) >= FLUSH_ROWS
        if not force and not full and time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        self._flushed = time.monotonic()
        try:
            self._flush()
            self._send()
            if self._flushed - self._trimmed >= _TRIM_SECONDS:
                self._trimmed = self._flushed
                self._trim()
            self._fault = ""
        except Exception as error:  # noqa: BLE001 - object stores raise what they like; predictions go on
            if str(error) != self._fault:
                _LOG.warning("inspections wait: %s", error)
            self._fault = str(error)

    def _flush(self) -> None:
        for place in list(self._rows):
            with self._lock:
                rows = list(self._rows[place])
            if rows:
                times = [datetime.fromisoformat(row["time"]).strftime(_TIME) for row in (rows[0], rows[-1])]
                name = f"{times[0]}-{times[1]}-{len(rows)}-{uuid.uuid4().hex[:12]}.jsonl"
                text = "".join(json.dumps(row) + "\n" for row in rows)
                write_whole(self._own.joinpath("inspections", *place, name), text.encode())
                with self._lock:
                    del self._rows[place][: len(rows)]
        with self._lock:
            recent = "".join(json.dumps(row) + "\n" for row in self._recent)
        write_whole(self._home / "recent.jsonl", recent.encode())

    def _files(self) -> list[Path]:
        # Images before the messages that name them.
        folders = ("images", "inspections", "feedback")
        found = (path for name in folders for path in sorted((self._own / name).rglob("*")))
        return [path for path in found if path.is_file() and not path.name.startswith(".")]

    def _send(self) -> None:
        if self._sender is None:
            return
        for path in self._files():
            self._sender.write(path.relative_to(self._own).as_posix(), path.read_bytes())
            path.unlink()

    def _keep(self, image: Inspected) -> None:
        dataset, _, category = image.bundle.place
        verdict = "anomalous" if image.prediction.anomalous else "nominal"
        path = self._kept((dataset, category), image.image_id, verdict)
        try:
            if self._kept_bytes and not path.exists():
                write_whole(path, image.data)
                if image.prediction.anomalous:
                    picture = heat_map_png(image.rgb, image.prediction, image.bundle.colours)
                    write_whole(self._kept((dataset, category), image.image_id, "heat_maps"), picture)
        except OSError as error:
            if str(error) != self._fault:
                _LOG.warning("images are not kept: %s", error)
            self._fault = str(error)

    def _kept(self, place: tuple[str, str], image_id: str, what: str) -> Path:
        content = content_of(image_id)
        if not re.fullmatch(r"[0-9a-f]{64}", content):
            raise FileNotFoundError(image_id)
        return self._home.joinpath("images", *place, what, content)

    def _trim(self) -> None:
        """Let the oldest images go where they take more than the bound, nominal ones first."""
        found = [
            (("nominal", "heat_maps", "anomalous").index(path.parent.name), path.stat(), path)
            for path in (self._home / "images").rglob("*")
            if path.is_file()
        ]
        excess = sum(status.st_size for _, status, _ in found) - self._kept_bytes
        excess += self._kept_bytes * (1 - _ROOM) if excess > 0 else 0
        for _, status, path in sorted(found, key=lambda each: (each[0], each[1].st_mtime)):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= status.st_size


def _first(paths: Iterable[Path]) -> bytes | None:
    for path in paths:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that was cut off is left out."""
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    except OSError:
        return []
    return found
