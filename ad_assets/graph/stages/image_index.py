"""The root of each dataset: the image index of a category, and what has changed in its folder since."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ad_assets.config.benchmark import Dataset, Production, fingerprint
from ad_assets.datasets import build_index
from ad_assets.datasets.base import Candidate, DatasetError, FileStamp, Problem, Reader
from ad_assets.datasets.index import GROUP, ImageIndex, list_categories
from ad_assets.datasets.listing import Listing
from ad_assets.graph.categories import categories_of
from ad_assets.graph.progress import Progress
from ad_assets.graph.stage import (
    AfterHead,
    Build,
    Check,
    CheckReport,
    CheckResult,
    Head,
    Parts,
    Stage,
    StageSettings,
    Upstream,
    Work,
    read_head,
)
from ad_assets.graph.stages.index_history import begin_history, record_landing
from ad_assets.graph.stages.index_summary import summary_of
from ad_assets.graph.stages.known_files import read_known_files, write_known_files
from ad_assets.graph.stages.region_of_interest import PART, region_files, write_region
from ad_assets.production.arrivals import Watched
from ad_assets.production.hold_out import hold_out
from ad_assets.production.landing_history import KEPT
from ad_assets.production.review_decisions import (
    NONE_ADMITTED,
    Admissions,
    admitted_categories,
    decision_stamp,
    held_picture_path,
    read_admissions,
)
from ad_assets.production.store_identity import enter_store
from ad_assets.store.compare_and_swap import ABSENT
from ad_assets.store.records import recall, update_record
from ad_assets.store.store import Artifact, ArtifactStore, CorruptArtifactError
from ad_assets_runtime.identity import depth_of

VERSION = 3
INDEX, PROBLEMS = "index.parquet", "problems.json"
GROUPS = "groups"  # part of an index
PICTURES = 8
HELD_BYTES = 3_000  # of each, in Dagster's events
ON_THEIR_WAY = "on_their_way"  # metadata: files that were not taken, because they changed just now or lack their ends
UNKNOWN = "there is no record of the files that it was made from"
CHECKS = (
    Check("images_readable", "Every image and mask in the folder could be read; those that could not are left out."),
    Check("new_images_nominal", "No new training image is held back and waits for a person to decide."),
)


class Gate(Protocol):
    """Judges new images before an index takes them."""

    def filter(self, index: ImageIndex, category: str, progress: Progress) -> tuple[ImageIndex, Admissions]:
        """The index without what is held or rejected, and who is held."""


@dataclass(frozen=True)
class IndexSettings(StageSettings):
    """The reader with all its options, and what share of the nominal images a watched dataset keeps for judging."""

    reader: Reader
    held_out: str | float = "auto"

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`; where the images lie is no part of it."""
        own = {} if self.held_out == "auto" else {"held_out": self.held_out}
        return self._with_version({**self.reader.index_config(), **own})


def image_index_stage(dataset: Dataset, categories: Sequence[str] | None = None, gate: Gate | None = None) -> Stage:
    """The asset ``<dataset>/image_index``.

    Args:
        dataset: the dataset.
        categories: in place of those that its reader finds.
        gate: judges new images, where there are any. Without one, a stage of a production dataset says what the asset
            is, and makes no index.
    """
    held_out = dataset.production.held_out if dataset.production else "auto"
    settings, name = IndexSettings(VERSION, dataset.reader, held_out), dataset.name

    def scan(partition: str, store: ArtifactStore, progress: Progress, verify: bool) -> tuple[Parts, Build, AfterHead]:
        if dataset.production and gate is None:
            raise TypeError(f"{dataset.name}: an index of a production dataset is made behind a gate alone")
        reader = settings.reader
        reader.prepare(partition, progress)
        found = _look(dataset, partition, store)
        known = {} if verify else read_known_files(store, reader.root, partition)
        # A champion goes on with the depth that it learnt at: an image beyond it is a problem of that image.
        depth = _recorded_depth(store, dataset.name, partition) if dataset.production else None
        index = build_index(
            reader,
            partition,
            known_files=known,
            listing=found.listing,
            candidates=found.candidates,
            report=progress,
            appearance=gate is not None,
            bit_depth=depth,
        )
        index = dataclasses.replace(index, problems=(*index.problems, *found.warnings))
        stamps = stamps_of(found.candidates, found.listing, reader.tables(partition))
        last_version = begin_history(store, dataset.name, partition, _rows_of_history)
        held = NONE_ADMITTED
        if gate:
            stamps |= decision_stamp(store, dataset.name, partition)
            index, held = gate.filter(index, partition, progress)
        if dataset.production:
            index = hold_out(index, dataset.production, store, dataset.name, partition)
        files = {path: entry for path, entry in {**known, **index.files}.items() if path in found.listing}
        if files != known:
            write_known_files(store, reader.root, partition, files)

        def after_head(head: Head) -> None:
            first = last_version[0] == 0
            if _write_stamps(store, (dataset.name, partition), head, stamps, first=first):
                record_landing(store, dataset.name, partition, head, index.rows, _rows_of_history, last_version)

        def build(work: Work) -> dict[str, Any]:
            work.store.write_table(work.artifact.at(INDEX), index.table)
            problems = [dataclasses.asdict(problem) for problem in index.problems]
            work.store.write_json(work.artifact.at(PROBLEMS), problems)
            return {
                **summary_of(index),
                **(write_region(work, index, index.region, reader) if index.region else {}),
                **({ON_THEIR_WAY: found.on_their_way} if found.on_their_way else {}),
                **({"passed_over": found.passed_over} if found.passed_over else {}),
                **({"held_back": len(held.held)} if gate else {}),
            }

        return index_parts(index), build, after_head

    def answer_checks(work: Work) -> CheckReport:
        problems = read_problems(work.artifact)
        waiting = read_admissions(work.store, name, work.partition).held
        shown = _held_pictures(work.store, name, work.partition, waiting)
        broken = [f"{each.path}: {each.message}" for each in problems if each.severity == "error"]
        listed = "\n".join(f"{held.path}: {'; '.join(held.reasons)}" for held in list(waiting.values())[:20])
        remedy = f"the job {name}_review, or: ad-assets quarantine {name} {work.partition}"
        return CheckReport(
            (
                CheckResult("images_readable", not broken, {"left_out": "\n".join(broken[:20]) or "none"}),
                CheckResult(
                    "new_images_nominal",
                    not waiting,
                    {
                        "held_back": listed or "none",
                        **({"pictures": {"md": shown}} if shown else {}),
                        **({"to_decide": remedy} if waiting else {}),
                    },
                ),
            )
        )

    return Stage(
        key=(dataset.name, "image_index"),
        kind="image_index",
        settings=settings,
        deps=(),
        scan=scan,
        checks=CHECKS if gate else (),
        answer_checks=answer_checks if gate else None,
        shared_files=region_files if dataset.reader.has_regions else None,
        check_store=partial(enter_store, dataset) if dataset.production else None,
        gated=partial(admitted_categories, dataset=name) if gate else None,
        partitions=categories_of(dataset) if categories is None else categories,
        group=f"{dataset.name}/images",
        kinds=frozenset({"parquet"}),
        description="Every image of a category by content: split, label, defect type, mask. Its version is the content "
        "of the files, so nothing downstream runs when nothing changed.",
    )


def _write_stamps(
    store: ArtifactStore, place: tuple[str, str], head: Head, stamps: Mapping[str, Any], *, first: bool
) -> bool:
    """Record what files an index was made from; returns whether it is the head.

    After the head, and only for it: a run that was killed, or another that ended later, leaves no stamps of files that
    its head was not made from.

    Args:
        store: the store.
        place: dataset and category.
        head: the index.
        stamps: of its files.
        first: there hardly is a record as yet.
    """
    dataset, category = place
    is_head = False

    def own_or_before(before: dict[str, Any] | None) -> dict[str, Any]:
        nonlocal is_head
        is_head = read_head(store, (dataset, "image_index"), category) == head
        return dict(stamps) if is_head else before or {}

    update_record(store, stamps_path(dataset, category), own_or_before, seen=ABSENT if first else None)
    return is_head


def _recorded_depth(store: ArtifactStore, dataset: str, category: str) -> int | None:
    """The bit depth that a category was last indexed with; None where it has no deep images or no index."""
    artifact = current_index(store, dataset, category)
    ids = image_ids(artifact) if artifact else []
    return max((depth for image in ids if (depth := depth_of(image))), default=None)


def current_index(store: ArtifactStore, dataset: str, category: str) -> Artifact | None:
    """The image index that a category has now; None where it has none."""
    head = read_head(store, (dataset, "image_index"), category)
    artifact = store.artifact("image_index", head.version) if head else None
    return artifact if artifact and artifact.exists() else None


def read_index(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of an image index."""
    rows: list[dict[str, Any]] = artifact.store.read_table(artifact.at(INDEX)).to_pylist()
    return rows


def _rows_of_history(artifact: Artifact) -> list[dict[str, Any]]:
    """As `read_index`, with the columns alone that the history of versions keeps; others take five times as long."""
    table = artifact.store.read_table(artifact.at(INDEX))
    rows: list[dict[str, Any]] = table.select([name for name in table.column_names if name in KEPT]).to_pylist()
    return rows


def image_ids(artifact: Artifact) -> list[str]:
    """The ids of the images of an image index, one a row."""
    ids: list[str] = artifact.store.read_table(artifact.at(INDEX)).column("image_id").to_pylist()
    return ids


def read_problems(artifact: Artifact) -> list[Problem]:
    """What was wrong or odd in the folder that an image index was made from."""
    return [Problem(**each) for each in artifact.store.read_json(artifact.at(PROBLEMS))]


@dataclass(frozen=True)
class _Look:
    """What lies in the folders of a category.

    Args:
        listing: the files that may be taken.
        candidates: what the reader makes of them.
        warnings: of those that may not be, and of clocks.
        on_their_way: how many files of the category may not be taken yet.
        passed_over: counts of the clutter beside its files.
    """

    listing: Listing
    candidates: Sequence[Candidate]
    warnings: Sequence[Problem]
    on_their_way: int
    passed_over: str


def _look(dataset: Dataset, category: str, store: ArtifactStore) -> _Look:
    """List the folders of a category; errors as `_arrived` and `list_categories`."""
    reader = dataset.reader
    listing = everything = list_categories(reader, [category])
    candidates = reader.assign(list(everything)).get(category, [])
    own = {path for each in candidates for path in (each.path, *each.masks)}
    warnings: list[Problem] = []
    if dataset.production:
        resting, warnings = _arrived(dataset, dataset.production, category, everything, candidates, store)
        if len(resting) < len(everything):
            listing = everything.only(resting.__contains__)
            candidates = reader.assign(list(listing)).get(category, [])
    passed_over = everything.clutter_beside(own) if everything.passed_over else ""
    return _Look(listing, candidates, warnings, len(own - listing.keys()), passed_over)


def _arrived(
    dataset: Dataset,
    production: Production,
    category: str,
    listing: Mapping[str, FileStamp],
    candidates: Sequence[Candidate],
    store: ArtifactStore,
) -> tuple[dict[str, FileStamp], list[Problem]]:
    """The files of a listing that are not being written any more, and the files of other categories; with warnings.

    Raises:
        DatasetError: files that were indexed are being written again, so that an index without them would be smaller;
            or all files of the category are being written.
    """
    now = time.time()
    watched = Watched(dataset, production, store, lambda each: read_stamps(store, dataset.name, each))
    arrivals = watched.look(listing, now, part=True)
    region = dataset.reader.region_path(category)
    own = stamps_of(candidates, listing, (region,) if region else ())
    halves = watched.incomplete(own, arrivals, category, now)
    left_out = {path for path in own if path in halves or path in arrivals.moving}
    uploading = [
        Problem(path, "not taken, an upload goes on: it is new or changed, and incomplete or not at rest", "warning")
        for path in sorted(left_out)
    ]
    missed = left_out & read_stamps(store, dataset.name, category).keys()
    if left_out and (missed or len(left_out) == len(own) or region in left_out):
        which = f"{len(missed)} files that it was indexed from are" if missed else "all its files are"
        what = f"its region of interest {region} is on its way" if region in left_out else f"{which} on their way"
        where = f"{dataset.name} [{category}]: {what}"
        remedy = f"wait until they rest for {production.settle_seconds:g} s (production.settle_seconds), then run again"
        raise DatasetError(f"{where}; {remedy}", [each for each in uploading if not missed or each.path in missed])
    resting = {path: stamp for path, stamp in arrivals.resting.items() if path not in left_out}
    return resting, [*uploading, *(each for each in arrivals.warnings() if each.path in own and each.path in resting)]


def index_parts(index: ImageIndex) -> Parts:
    """What stages downstream read of an index, each with its own fingerprint.

    ``train`` and ``test`` cover image contents only (no label, no name): no label can reach a detector. ``truth``
    covers labels, defect types and masks of the test images; ``all`` the whole table; ``roi``, which only exists where
    there is one, is the region of interest; ``groups``, likewise, those of the training images.
    """
    rows = index.rows
    ids = {split: [row["image_id"] for row in rows if row["split"] == split] for split in ("train", "test")}
    truth = sorted(_truth(row) for row in rows if row["split"] == "test")
    groups = sorted([row["image_id"], row[GROUP]] for row in rows if row["split"] == "train" and row.get(GROUP))
    return {
        **{split: images_part(image_ids) for split, image_ids in ids.items()},
        "truth": fingerprint(truth),
        "all": fingerprint([rows, list(map(str, index.problems))]),
        **({PART: index.region.digest} if index.region else {}),
        **({GROUPS: fingerprint(groups)} if groups else {}),
    }


def group_parts(upstream: Upstream, source: Sequence[Stage]) -> Parts:
    """The part ``groups`` of an image index that a stage reads; empty where it has none, or none is read."""
    found = upstream.of(source[0]).parts.get(GROUPS) if source else None
    return {GROUPS: found} if found else {}


def declared_groups(artifact: Artifact) -> list[frozenset[str]]:
    """The training images of an image index that belong together, by their ids; empty where it has no groups."""
    groups: dict[str, set[str]] = {}
    for row in read_index(artifact):
        if row["split"] == "train" and row.get(GROUP):
            groups.setdefault(row[GROUP], set()).add(row["image_id"])
    return [frozenset(group) for group in groups.values()]


def images_part(image_ids: Iterable[str]) -> str:
    """The fingerprint of a set of images."""
    return fingerprint(sorted(set(image_ids)))


NO_IMAGES = images_part(())


def _truth(row: dict[str, Any]) -> list[Any]:
    truth = [row["image_id"], row["label"], row["defect_type"], row["mask_id"]]
    return [*truth, *([row["anomaly_kind"], row["mask_saturations"]] if row["anomaly_kind"] else [])]


def changed_files(dataset: Dataset, store: ArtifactStore, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Category -> what changed in its folder since it was indexed, in words; lists the folders, opens nothing."""
    categories = dataset.reader.categories() if wanted is None else wanted
    try:
        listing = list_categories(dataset.reader, categories)
    except ValueError:
        # Generated datasets make their files on demand; for others the run will say what is missing.
        return dict.fromkeys(categories, "its folder is missing or empty")
    try:
        assigned = dataset.reader.assign(sorted(listing))
    except DatasetError:
        return dict.fromkeys(categories, "the table that says what its images are cannot be read")
    changes: dict[str, str] = {}
    stamps = store.each(partial(read_stamps, store, dataset.name), categories)
    for category, before in zip(categories, stamps, strict=True):
        now = stamps_of(assigned.get(category, []), listing, dataset.reader.tables(category))
        if dataset.production:
            try:
                now |= decision_stamp(store, dataset.name, category)
            except CorruptArtifactError as error:  # the run of this category will say it, and no other waits for it
                changes[category] = str(error)
                continue
        if before and before != now:
            added, removed = len(now.keys() - before.keys()), len(before.keys() - now.keys())
            changed = sum(before[path] != now[path] for path in before.keys() & now.keys())
            counts = {"added": added, "removed": removed, "changed": changed}
            changes[category] = "files " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        elif not before:
            changes[category] = UNKNOWN
    return changes


def stamps_of(
    candidates: Sequence[Candidate], listing: Mapping[str, FileStamp], tables: tuple[str, ...]
) -> dict[str, list[Any]]:
    """Path -> [size, stamp] of the files that an index of some candidates is made from, tables among them."""
    paths = sorted({*tables, *(path for c in candidates for path in (c.path, *c.masks))})
    return {path: [listing[path].size, listing[path].stamp] for path in paths if path in listing}


def read_stamps(store: ArtifactStore, dataset: str, category: str) -> dict[str, list[Any]]:
    """The stamps of the files that a category was last indexed from; empty where it never was."""
    return recall(store, stamps_path(dataset, category)) or {}


def stamps_path(dataset: str, category: str) -> str:
    """Size and stamp of the files of a category, as it was indexed."""
    return f"scans/{dataset}/{category}.json"


def _held_pictures(store: ArtifactStore, dataset: str, category: str, waiting: Iterable[str]) -> str:
    """The pictures of held images as Markdown, the first few; empty where none has one."""
    from ad_assets.report.thumbnails import thumbnail_uri

    kept = {file.path for file in store.files(f"held/{dataset}/{category}")}
    paths = [path for image in waiting if (path := held_picture_path(dataset, category, image)) in kept]
    return "\n\n".join(
        f"![held back]({thumbnail_uri(store.read_bytes(path), HELD_BYTES)})" for path in paths[:PICTURES]
    )
