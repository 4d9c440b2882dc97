"""Takes in what computers of a line put into their outbox: inspections, and what people said there of images.

Each message is taken in once, however often this is cut off and by however many at once: a batch of inspections becomes
the file of the same name, feedback enters the ledger with the key of its message, and only then the message is deleted.
What cannot be taken in is moved to ``refused/`` in the outbox, with the reason beside it.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError
from ad_assets.datasets.names import CATEGORY_KEY
from ad_assets.prediction.feedback import give_feedback
from ad_assets.production.feedback_ledger import Verdict
from ad_assets.production.inspections import Inspection, append_batch
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.identity import content_id

_ROWS: TypeAdapter[Inspection] = TypeAdapter(Inspection)
_ACTIONS = (*get_args(Verdict), "undo")
KINDS = ("inspections", "feedback")
MESSAGES = (".jsonl", ".json")
_IMAGE_SECONDS = 3600.0
_LOG = logging.getLogger(__name__)


@dataclass
class Taken:
    """What was taken in: numbers of inspections and of messages of people; path -> why, of what was refused."""

    inspections: int = 0
    feedback: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def take_in(benchmark: Benchmark, outbox: str, dataset: str | None = None) -> Taken:
    """Take in all that lies in an outbox.

    Args:
        benchmark: whose production datasets it is of.
        outbox: a folder, or an address such as ``s3://bucket/prefix`` with the options of the store.
        dataset: only what is of this dataset; None: all.

    Raises:
        OSError: the outbox cannot be read, or the store not be written; what was taken in stays so.
        CorruptArtifactError: a record of the store is damaged.
    """
    files, taken = _outbox(benchmark, outbox), Taken()
    for kind, take in zip(KINDS, (_take_inspections, _take_feedback), strict=True):
        for file in files.files(f"{kind}/{dataset}" if dataset else kind):
            path = PurePosixPath(file.path)
            if not _is_message(path):
                continue
            try:
                data = files.fetch(file.path)
            except FileNotFoundError:  # taken in by another process
                continue
            try:
                take(benchmark, files, path, data, taken)
            except (ConfigError, ValueError, KeyError, TypeError) as error:
                _refuse(files, file.path, data, error, taken)
            else:
                files.delete([file.path])
    _tidy(files)
    return taken


@dataclass(frozen=True)
class Waiting:
    """What lies in an outbox: messages that were not taken in yet, since when, and those that were refused."""

    messages: int
    since: float | None
    refused: int


def waiting(benchmark: Benchmark, outbox: str) -> Waiting:
    """Look into an outbox, and take nothing in; the time is in seconds since 1970.

    Raises:
        OSError: it cannot be read, or a folder is not there.
    """
    files = _outbox(benchmark, outbox)
    own = [file for kind in KINDS for file in files.files(kind) if _is_message(PurePosixPath(file.path))]
    refused = sum(PurePosixPath(file.path).suffix in MESSAGES for file in files.files("refused"))
    return Waiting(len(own), min((file.changed for file in own), default=None), refused)


def _outbox(benchmark: Benchmark, outbox: str) -> ArtifactStore:
    """The outbox's files; a folder that is not there may be a drive that is not connected."""
    files = ArtifactStore(root=outbox, storage_options=benchmark.store.storage_options if "://" in outbox else {})
    if files.is_local and not files.local_path("").is_dir():
        raise FileNotFoundError(f"{outbox}: there is no such folder; is the computer's drive connected?")
    return files


def _is_message(path: PurePosixPath) -> bool:
    return not path.name.startswith(".") and path.suffix in MESSAGES


def _take_inspections(
    benchmark: Benchmark, files: ArtifactStore, path: PurePosixPath, data: bytes, taken: Taken
) -> None:
    del files
    dataset, category = _place(benchmark, path)
    rows = [_ROWS.validate_json(line) for line in data.splitlines()]
    append_batch(benchmark.store, dataset, category, rows, path.stem)
    taken.inspections += len(rows)


def _take_feedback(benchmark: Benchmark, files: ArtifactStore, path: PurePosixPath, data: bytes, taken: Taken) -> None:
    dataset, category = _place(benchmark, path)
    message: dict[str, Any] = json.loads(data)
    action, image = message["said"], str(message["image"])
    if action not in _ACTIONS:
        raise ValueError(f"said is {action!r:.40}, expected one of {', '.join(_ACTIONS)}")
    try:
        content = files.fetch(f"images/{image}")
    except FileNotFoundError:
        raise ValueError("its image is not in the outbox") from None
    if content_id(content) != image:
        raise ValueError("the image is not the one that was spoken of")
    give_feedback(
        dataset,
        category,
        [content],
        action,
        reason=str(message["reason"]),
        defect=message["defect"],
        config=benchmark,
        key=str(message["id"]),
    )
    taken.feedback += 1


def _tidy(files: ArtifactStore) -> None:
    """Delete images once no message is left; young ones may be of a message that is just being written."""
    if not files.files("feedback"):
        before = time.time() - _IMAGE_SECONDS
        files.delete([image.path for image in files.files("images") if image.changed < before])


def _place(benchmark: Benchmark, path: PurePosixPath) -> tuple[str, str]:
    """Dataset and category of a message, by its folders.

    Raises:
        ValueError: they are none.
    """
    dataset, category = path.parts[1:3] if len(path.parts) == 4 else ("", "")
    known = benchmark.datasets.get(dataset)
    if known is None or known.production is None or not CATEGORY_KEY.fullmatch(category):
        raise ValueError(f"{'/'.join(path.parts[1:-1])[:200]} is no category of a production dataset of this file")
    return dataset, category


def _refuse(files: ArtifactStore, path: str, data: bytes, error: Exception, taken: Taken) -> None:
    why = str(error.errors(include_url=False)[0]["msg"]) if isinstance(error, ValidationError) else str(error)
    _LOG.warning("%s is refused: %s", files.location(path), why)
    taken.refused[path] = why
    files.write_bytes(f"refused/{path}", data)
    files.write_bytes(f"refused/{path}.reason.txt", why.encode())
    files.delete([path])
