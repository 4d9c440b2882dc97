"""Gives images back to the line: a false alarm becomes a nominal training image, a missed defect a test image.

    from ad_assets.prediction import give_feedback
    give_feedback("parts", "bolt", ["inbox/0123.png"], "false_alarm", reason="a reflection", config="parts.yaml")

What is said enters the ledger first (`ad_assets.production.feedback_ledger`), so that a run which sees the file knows
what a person said of it; then the file is written into the watched folder, where the next run finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError
from ad_assets.datasets import ImageFiles
from ad_assets.datasets.names import NOMINAL, is_nominal
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.graph.stages.known_files import read_known_files
from ad_assets.prediction.lookup import Lookup
from ad_assets.production.feedback_ledger import (
    Feedback,
    FeedbackError,
    Ledger,
    Verdict,
    add_entries,
    after,
    now,
    read_ledger,
)
from ad_assets.production.inspections import kept_images, read_kept_image
from ad_assets.production.review_decisions import count_reviews, has_admissions, read_admissions, update_admissions
from ad_assets_runtime.appearance import appearance_of, copies
from ad_assets_runtime.identity import content_id, content_of
from ad_assets_runtime.images import IMAGE_SUFFIXES, ImageError

Action = Verdict | Literal["undo"]
MOST_TRIES = 5
SHORTEST_ID = 6  # digits by which an image may be named


@dataclass(frozen=True)
class Given:
    """What became of feedback on one image.

    Args:
        image: sha256 of its file.
        name: as it was given.
        action: what was said.
        earlier: the verdict that stood before; None: none did.
        written: the file in the watched folder that it was written to; empty: it is there, or is not to be.
        removed: the file that an earlier verdict had written and that is gone now; empty: none.
    """

    image: str
    name: str
    action: Action
    earlier: Verdict | None
    written: str = ""
    removed: str = ""


def give_feedback(
    dataset: str | None,
    category: str | None,
    images: Iterable[str | Path | bytes],
    action: Action,
    *,
    reason: str = "",
    defect: str | None = None,
    config: str | Path | Benchmark | None = None,
    overrides: Iterable[str] = (),
    key: str = "",
) -> list[Given]:
    """Say of images what they are, so that the line learns it. Any number of processes may do so at once.

    Args:
        dataset: a production dataset; None: the only one.
        category: None: the only one.
        images: each the path of a file, its path below the dataset's root, its bytes, or the first six or more digits
            of the id of an inspected, held or indexed image.
        action: ``false_alarm``: it is nominal, the next run trains on it, and no gate holds it back. ``missed``: it is
            a defect that raised no alarm; it becomes a test image and is never trained on. ``confirmed``: the alarm was
            right; it is never trained on, and becomes a test image where `defect` is given. ``undo``: what was said of
            it stands no more, and the file that feedback wrote is removed.
        reason: recorded.
        defect: folder below ``test`` of missed and confirmed images; None: ``missed``.
        config: as `load_detector` takes it.
        overrides: as `load_detector` takes them.
        key: of a message about one image that may be handed in twice; the second time changes nothing.

    Returns:
        One result an image, in order.

    Raises:
        ConfigError: the benchmark file has faults, or no such production dataset or category.
        FeedbackError: it cannot be given of some image; nothing was changed for that one and those after it.
        DamagedRecordError: ledger, decisions or admissions cannot be read.
    """
    lookup = Lookup.of(config, overrides)
    found = lookup.dataset(dataset)
    if found.production is None:
        raise ConfigError(f"{found.name} is no production dataset: add the section production to it")
    known = lookup.category(found, category)
    if defect is not None and action not in ("missed", "confirmed"):
        raise ConfigError("a defect is named of missed and confirmed images alone")
    place = _Place(lookup.benchmark, found.name, known)
    kind = _defect_folder(defect) if defect is not None else ("missed" if action == "missed" else "")
    return [place.give(image, action, reason, kind, key) for image in images]


def _defect_folder(name: str) -> str:
    if is_nominal(name) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        raise ConfigError(f"defect {name!r}: expected letters, digits, _ . and -, and no name of nominal images")
    return name


@dataclass(frozen=True)
class _Named:
    """An image that was named: its content, its bytes where they could be had, and its file name."""

    content: str
    data: bytes | None
    name: str


def withdraw_files(benchmark: Benchmark, dataset: str, category: str, images: Iterable[str]) -> dict[str, str]:
    """Remove the files that feedback wrote of images whose verdicts a decision has withdrawn; image -> removed file."""
    files = ImageFiles(benchmark.datasets[dataset].reader.root)
    ledger, wanted = read_ledger(benchmark.store, dataset, category), set(images)
    standing = ledger.standing()
    written = {entry.image: entry.path for entry in ledger.entries if entry.path and entry.image in wanted}
    return {i: path for i, path in written.items() if i not in standing and files.remove(path, i)}


class _Place:
    """One category of a production dataset, to which feedback is given."""

    def __init__(self, benchmark: Benchmark, dataset: str, category: str) -> None:
        self._dataset, self._category = benchmark.datasets[dataset], category
        self._store = benchmark.store
        self._files = ImageFiles(self._dataset.reader.root)
        self._at = (self._store, dataset, category)

    def give(self, image: str | Path | bytes, action: Action, reason: str, kind: str, key: str) -> Given:
        """Feedback on one image; see `give_feedback`."""
        named = self._named(image)
        for _ in range(MOST_TRIES):
            if key and (given := self._given_before(named, action, key)):
                return given
            if given := self._try(named, action, reason, kind, key):
                return given
        raise FeedbackError(f"{named.name}: others give feedback on it at the same time: say it again")

    def _given_before(self, named: _Named, action: Action, key: str) -> Given | None:
        """What became of a message that was handed in before; None: it was not."""
        ledger = read_ledger(*self._at)
        entry = next((entry for entry in ledger.entries if entry.key == key), None)
        if entry is None:
            return None
        is_cut_off = ledger.standing().get(named.content) == entry and entry.path not in self._files.listing()
        if entry.path and entry.size and is_cut_off:
            self._write(named, entry.path, named.data or b"")
            return Given(named.content, named.name, action, None, entry.path)
        return Given(named.content, named.name, action, None)

    def _try(self, named: _Named, action: Action, reason: str, kind: str, key: str) -> Given | None:
        """As `give`; None where other feedback on the image came between."""
        standing = read_ledger(*self._at).standing().get(named.content)
        earlier = standing.verdict if standing else None
        try:
            after(None, earlier, action)
        except FeedbackError as error:
            raise FeedbackError(f"{named.name}: {error}") from None
        before = standing.path if standing else ""
        wanted = self._wanted(named, action, kind, standing)
        data = named.data or b""
        said = "undone" if action == "undo" else action
        entry = Feedback(named.content, said, now(), reason, wanted, len(data) if wanted != before else 0, key)
        if wanted and wanted == before and standing:
            entry = replace(entry, size=standing.size)

        def entries(ledger: Ledger) -> tuple[Feedback, ...]:
            return (entry,) if ledger.standing().get(named.content) == standing else ()

        if entry not in add_entries(*self._at, entries).entries:
            return None
        removed = before if before and wanted != before and self._files.remove(before, named.content) else ""
        if wanted and wanted != before:
            self._write(named, wanted, data)
        if action == "undo" and has_admissions(*self._at):
            # Without a decision of its own it is judged as any new image, should it still lie there.
            update_admissions(
                *self._at,
                lambda each: replace(each, admitted=tuple(i for i in each.admitted if i != named.content)),
            )
        count_reviews(*self._at)
        return Given(named.content, named.name, action, earlier, wanted if wanted != before else "", removed)

    def _write(self, named: _Named, path: str, data: bytes) -> None:
        try:
            self._files.write_new(path, data)
        except OSError as error:
            failed = Feedback(named.content, "withdrawn", now(), f"{path} could not be written")
            add_entries(*self._at, lambda _: (failed,))
            raise FeedbackError(
                f"{named.name}: {path} cannot be written below {self._files.root!r} ({error}); nothing was changed: "
                "allow it, or put the file there and admit it with ad-assets quarantine"
            ) from error

    def _wanted(self, named: _Named, action: Action, kind: str, standing: Feedback | None) -> str:
        """The file in the watched folder that feedback is to have written; empty: none.

        Raises:
            FeedbackError: the image is there already as something else, or cannot be written.
        """
        if action == "undo":
            return ""
        before = standing.path if standing else ""
        rows = [row for row in self._rows if row["path"] != before]
        same = [row for row in rows if content_of(row["image_id"]) == named.content]
        tests = [row for row in same if row["split"] == "test" and not row.get("held_out")]
        if action == "false_alarm":
            if tests:
                raise FeedbackError(
                    f"{named.name}: it is the test image {tests[0]['path']}; what is trained on is no test: remove it "
                    "there first"
                )
            if standing and standing.verdict == "false_alarm" and before:
                return before
            if self._lies_in_train(named.content):
                return ""
            self._refuse_copy(named, [row for row in rows if row["split"] == "test" and not row.get("held_out")])
            return self._path(named, "train", NOMINAL, "false_alarm")
        if not kind:
            return before if standing and standing.verdict in ("missed", "confirmed") else ""
        if good := [row["path"] for row in tests if row["label"] == 0]:
            raise FeedbackError(f"{named.name}: it is the nominal test image {good[0]}; move it to a defect's folder")
        if tests:
            return ""
        of_defect = standing is not None and standing.verdict != "false_alarm"
        return before if of_defect and f"/{kind}/" in before else self._path(named, "test", kind, action)

    def _lies_in_train(self, content: str) -> bool:
        """Whether a training image that was found, admitted or not, is this one."""
        known = read_known_files(self._store, self._files.root, self._category)
        paths = sorted(path for path, each in known.items() if each.sha256 == content)
        candidates = self._dataset.reader.assign(paths).get(self._category, [])
        return any(each.split == "train" for each in candidates)

    def _refuse_copy(self, named: _Named, tests: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a false alarm that shows the same picture as a test image.

        Raises:
            FeedbackError: it does, or cannot be read.
        """
        try:
            rgb = self._dataset.reader.decoding.identified(self._bytes(named), named.name)[1]
        except ImageError as error:
            raise FeedbackError(f"{named.name}: {error.message}") from error
        known = read_known_files(self._store, self._files.root, self._category)
        looks = {path: look for row in tests if (path := row["path"]) in known and (look := known[path].thumbnail)}
        shown = list(looks)
        for number in copies(appearance_of(rgb).thumbnail, list(looks.values())):
            raise FeedbackError(f"{named.name}: a copy of the test image {shown[number]}: remove that first")

    def _bytes(self, named: _Named) -> bytes:
        if named.data is None:
            raise FeedbackError(f"{named.name}: its file is not kept any more: give the path of the file")
        return named.data

    def _path(self, named: _Named, split: Literal["train", "test"], kind: str, what: str) -> str:
        """A new path for an image in the watched folder, which its reader takes for what it is.

        Raises:
            FeedbackError: the reader takes no such file, as with a manifest.
        """
        data = self._bytes(named)
        try:
            self._dataset.reader.decoding.identified(data, named.name)
        except ImageError as error:
            raise FeedbackError(f"{named.name}: {error.message}") from error
        suffix = PurePosixPath(named.name.lower()).suffix
        suffix = suffix if suffix in IMAGE_SUFFIXES else ".png"
        path = f"{self._folder(split, kind)}/{what}_{named.content[:16]}{suffix}"
        candidates = self._dataset.reader.assign([path]).get(self._category, [])
        if [(each.path, each.split, bool(each.label)) for each in candidates] != [(path, split, split == "test")]:
            raise FeedbackError(
                f"{named.name}: {self._dataset.name} takes no file {path}, as where a manifest says what images are: "
                "enter the image there, then admit or reject it with ad-assets quarantine"
            )
        return path

    def _folder(self, split: str, kind: str) -> str:
        """The folder of a kind of images of the category, after the folder that its training images lie in."""
        candidates = self._dataset.reader.assign(sorted(self._files.listing())).get(self._category, [])
        parts = [PurePosixPath(each.path).parts for each in candidates if each.split == split]
        of_split = next((each for each in parts if each), None)
        any_of = of_split or next((PurePosixPath(each.path).parts for each in candidates), (self._category, "train"))
        level = next((n for n, part in enumerate(any_of) if part.lower() in ("train", "test")), None)
        if level is None:
            return f"{self._category}/{split}/{kind}"
        own = any_of[level] if of_split else split
        nominal = next((each[level + 1] for each in parts if split == "train" and len(each) > level + 1), kind)
        return "/".join((*any_of[:level], own, nominal))

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        index = current_index(*self._at)
        if index is None:
            raise FeedbackError(
                f"{self._dataset.name} [{self._category}] has no image index: run ad-assets materialize first"
            )
        return read_index(index)

    def _named(self, image: str | Path | bytes) -> _Named:
        """The image that is meant.

        Raises:
            FeedbackError: no image is, or several are.
        """
        if isinstance(image, bytes):
            return _Named(content_id(image), image, f"image {content_id(image)[:12]}")
        name = str(image)
        try:
            if Path(name).is_file():
                data = Path(name).read_bytes()
                return _Named(content_id(data), data, name)
            if (path := self._files.relative(name) or name) in self._files.listing():
                data = self._files.read(path)
                return _Named(content_id(data), data, path)
        except (OSError, ValueError) as error:
            raise FeedbackError(f"{name}: cannot be read: {error}") from error
        found = self._by_id(name) if re.fullmatch(rf"[0-9a-f]{{{SHORTEST_ID},64}}", name) else {}
        if len(found) != 1:
            what = f"{len(found)} images have ids that begin with it" if found else "it is no file, and no image's id"
            raise FeedbackError(
                f"{name}: {what}: give the path of a file, or the first digits of the id of an inspected image, as "
                "predict and the inspections have it"
            )
        return next(iter(found.values()))

    def _by_id(self, beginning: str) -> dict[str, _Named]:
        """The images whose ids begin with some digits, with bytes where the store or the folder has them."""
        said = read_ledger(*self._at).images
        paths = {content_of(row["image_id"]): row["path"] for row in self._rows}
        paths |= {image: entry.path for image, entry in read_admissions(*self._at).held.items()}
        kept = {content_of(each.image_id): each for each in kept_images(*self._at)}
        found: dict[str, _Named] = {}
        for content in {*said, *paths, *kept}:
            if content.startswith(beginning):
                data = self._if_same(paths[content], content) if content in paths else None
                name = paths.get(content, content[:12])
                if data is None and content in kept:
                    data = read_kept_image(self._store, kept[content])
                    name = f"{content[:12]}{PurePosixPath(kept[content].path).suffix}"
                found[content] = _Named(content, data, name)
        return found

    def _if_same(self, path: str, content: str) -> bytes | None:
        try:
            data = self._files.read(path)
        except OSError:
            return None
        return data if content_id(data) == content else None
