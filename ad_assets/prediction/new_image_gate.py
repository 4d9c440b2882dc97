"""Holds back new training images that do not look nominal until a person decides; admitted images stay admitted.

The first images of a category are all admitted, since a person chose them. After that a new image in the training
folder is held if its size is outside the range of the admitted ones, if it is darker or brighter than all of them, if
it is a copy of a test image, or if the champion of the gatekeeper scores it above its threshold. Held images are not
indexed, so nothing is fitted on them; they are listed with reasons and pictures. A person's decision to admit or reject
one is final.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Dataset, Production
from ad_assets.config.faults import ConfigError
from ad_assets.datasets import ImageFiles, KnownFile
from ad_assets.datasets.base import Problem
from ad_assets.datasets.files import read_image_bytes
from ad_assets.datasets.index import ImageIndex
from ad_assets.graph.progress import Progress
from ad_assets.graph.stages.feature_files import known_features, write_features
from ad_assets.graph.stages.features import features_address
from ad_assets.graph.stages.image_index import read_stamps
from ad_assets.prediction.recording import Inspected, Recorder
from ad_assets.production.champion_history import read_history
from ad_assets.production.review_decisions import (
    DECISIONS,
    Admissions,
    Held,
    counted,
    has_admissions,
    held_picture_path,
    read_admissions,
    read_reviews,
    refuse_loss,
    update_admissions,
)
from ad_assets.production.store_identity import REMEDY
from ad_assets.report import panels, picture_files, pictures
from ad_assets_runtime.appearance import appearance_of, copies
from ad_assets_runtime.identity import content_of

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.prediction import Predictor

# A new image may be outside the brightness range of admitted images by a share of the range plus so many levels.
BRIGHTNESS_LEVELS = 8.0
PICTURE_BYTES = 12_000


class NewImageGate:
    """Decides which new images of a production dataset are held.

    Args:
        benchmark: provides detector and store.
        dataset: the dataset.
    """

    def __init__(self, benchmark: Benchmark, dataset: Dataset) -> None:
        self._benchmark, self._dataset = benchmark, dataset
        self._production = dataset.production or Production()
        self._store = benchmark.store

    def filter(self, index: ImageIndex, category: str, progress: Progress) -> tuple[ImageIndex, Admissions]:
        """The index without held and rejected images, and the new admissions.

        Raises:
            ConfigError: the category was indexed before, and its admissions are lost.
            DamagedRecordError: its admissions or decisions are unreadable or lost.
        """
        reviews = read_reviews(self._store, self._dataset.name, category)
        decisions = reviews.in_force
        if read_admissions(self._store, self._dataset.name, category).decided is None:
            # Older admissions have no count; the stamps of the last index have it.
            stamps = read_stamps(self._store, self._dataset.name, category)
            refuse_loss(self._store, self._dataset.name, category, reviews.count, stamps.get(DECISIONS, [0])[0])
        if not has_admissions(self._store, self._dataset.name, category) and (decisions or self._was_judged(category)):
            raise ConfigError(
                f"{self._dataset.name} [{category}]: its admissions, which say which images are admitted and held, are "
                f"missing from the store {self._store.root!r}, though it was indexed before: restore them; {REMEDY}"
            )
        rows = index.rows
        # Decisions refer to the content of the file, however it is decoded later.
        train = {content_of(row["image_id"]): row for row in rows if row["split"] == "train"}
        rejected = {image for image, decision in decisions.items() if decision == "reject"}
        new_images: dict[str, Held | None] = {}  # new image -> why it is held; None: it is not

        def change(before: Admissions) -> Admissions:
            admitted = {image for image in before.admitted if image in train}
            admitted |= {image for image in train if decisions.get(image) == "admit"}
            admitted -= rejected
            held = {i: h for i, h in before.held.items() if i in train and i not in admitted and i not in rejected}
            settled = admitted | held.keys() | rejected
            new = [image for image in train if image not in settled]
            if before.admitted:
                fresh = [train[image] for image in new if image not in new_images]
                newly_held = self._judge(index, fresh, admitted, category, progress)
                new_images.update({image: newly_held.get(image) for image in new if image not in new_images})
                held |= {image: why for image in new if (why := new_images[image])}
            everyone = tuple(sorted(admitted | (set(new) - held.keys())))
            return counted(replace(before, admitted=everyone, held=held), reviews.count)

        after = update_admissions(self._store, self._dataset.name, category, change)
        admitted = set(after.admitted)
        # By content, not by path: what is held or rejected may lie there under several names.
        taken = [row for row in rows if row["split"] != "train" or content_of(row["image_id"]) in admitted]
        held_back = tuple(
            Problem(entry.path, f"held back: {'; '.join(entry.reasons)}", "warning") for entry in after.held.values()
        )
        told = replace(index, problems=(*index.problems, *held_back))
        return told.with_rows(taken), after

    def _was_judged(self, category: str) -> bool:
        """Whether an index was made with this gate, or a detector of the category was ever champion."""
        head = self._store.read_head((self._dataset.name, "image_index"), category)
        if head is None:
            return False
        artifact = self._store.artifact("image_index", head["version"])
        if not artifact.exists() or "held_back" in artifact.record()["metadata"]:
            return True
        lanes = (name for name, lane in self._dataset.detectors.items() if lane.has_champions)
        return any(read_history(self._store, self._dataset.name, lane, category).champion for lane in lanes)

    def _judge(
        self, index: ImageIndex, rows: Sequence[dict[str, Any]], admitted: set[str], category: str, progress: Progress
    ) -> dict[str, Held]:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if not rows:
            return {}
        statistics = NominalStatistics(index, admitted, self._production.size_room, self._production.brightness_room)
        reasons = {content_of(row["image_id"]): statistics.objections(row) for row in rows}
        odd = {image for image, objections in reasons.items() if objections}
        try:
            scored = self._score(rows, odd, category, progress)
        except ConfigError as error:
            # Images that cannot be scored are held, until a person decides or the cause is fixed.
            scored = {}
            for objections in reasons.values():
                objections.append(f"{self._production.gatekeeper} could not judge it: {error}")
        held = {}
        for row in rows:
            image = content_of(row["image_id"])
            score, threshold = scored.get(image, (None, None))
            objections = list(reasons[image])
            if score is not None and threshold is not None and score > threshold:
                objections.append(
                    f"{self._production.gatekeeper} scores it {score:.4g}, nominal images up to {threshold:.4g}"
                )
            if objections:
                held[image] = Held(row["path"], tuple(objections), now, score, threshold)
                if score is None:
                    self._draw(row, category)
        return held

    def _draw(self, row: dict[str, Any], category: str) -> None:
        """Store the picture of a held image that no detector scored, for the person who decides."""
        data = read_image_bytes(ImageFiles(self._dataset.reader.root), row)
        rgb = self._dataset.reader.decoding.of(row["image_id"]).rgb(data, row["path"])
        picture = panels.captioned(rgb, f"{rgb.shape[1]} x {rgb.shape[0]}  {row['path'].rpartition('/')[2]}", 160)
        path = held_picture_path(self._dataset.name, category, content_of(row["image_id"]))
        self._store.write_bytes(path, picture_files.to_jpeg(picture, max_bytes=PICTURE_BYTES))

    def _score(
        self, rows: Sequence[dict[str, Any]], odd: Collection[str], category: str, progress: Progress
    ) -> dict[str, tuple[float, float]]:
        """Image content -> score and threshold by the champion of the gatekeeper; empty without a champion.

        Features are stored where the features asset finds them, and taken from there where an image has some, as one
        that was a test image before has: no image passes the backbone twice. Each score is recorded as an inspection.
        Of images above the threshold, and of those that are `odd` otherwise, a picture is stored for the person who
        decides.

        Raises:
            DetectorError: the champion cannot be loaded.
        """
        lane = self._production.gatekeeper
        if lane is None or read_history(self._store, self._dataset.name, lane, category).champion is None:
            return {}
        from ad_assets.prediction import load_detector

        detector = load_detector(self._dataset.name, lane, category, self._benchmark, record=False)
        threshold = suspicion_threshold(detector, self._production.suspicious_rate)
        if threshold is None:
            return {}
        files = ImageFiles(self._dataset.reader.root)
        scores: dict[str, tuple[float, float]] = {}
        images = (read_image_bytes(files, row) for row in rows)
        recorder = Recorder(
            self._benchmark, self._dataset, category, detector.versions[lane], source="landed", keep=False
        )
        predictions = detector.predict_pictures(images, keep=self._keep_features, known=self._known_features)
        for number, (row, (prediction, rgb)) in enumerate(zip(rows, predictions, strict=True)):
            image = content_of(row["image_id"])
            scores[image] = prediction.score, threshold
            recorder.add(Inspected(row["image_id"], None, row["path"], appearance_of(rgb)), prediction)
            if prediction.score > threshold or image in odd:
                full = prediction.full_map()
                scale = detector.colour_scale or (float(np.nanmin(full)), float(np.nanmax(full)))
                name = row["path"].rpartition("/")[2]
                seen, inside = prediction.seen_mask(), prediction.inspected
                shown = rgb if inside is None else pictures.inspected(rgb, inside)
                label = int(prediction.score > threshold)
                picture = panels.ScoredPicture(shown, full, scale, seen=seen)
                panel = panels.panel(picture, score=prediction.score, label=label, title=name)
                path = held_picture_path(self._dataset.name, category, image)
                self._store.write_bytes(path, picture_files.to_jpeg(panel, max_bytes=PICTURE_BYTES))
            progress("new images judged", number + 1, len(rows))
        recorder.flush()
        return scores

    def _known_features(self, extractor: Extractor, image_id: str) -> list[Tensor] | None:
        return known_features(self._store, features_address(extractor), image_id)

    def _keep_features(self, extractor: Extractor, image_id: str, taps: Sequence[Tensor], seconds: float) -> None:
        write_features(self._store, features_address(extractor), image_id, taps, seconds)


class NominalStatistics:
    """Sizes, brightness and thumbnails of a category, against which new images are compared.

    Args:
        index: with brightness and thumbnail of every image.
        admitted: content hashes of the admitted training images.
        size_room: see `Production`.
        brightness_room: see `Production`.
    """

    def __init__(
        self, index: ImageIndex, admitted: set[str], size_room: float | None, brightness_room: float | None
    ) -> None:
        rows = index.rows
        train = [row for row in rows if row["split"] == "train" and content_of(row["image_id"]) in admitted]
        self._files = index.files
        self._sizes = [_Range.of([row[side] for row in train], size_room) for side in ("width", "height")]
        self._grey = _Range.of(
            [self._looks(row).brightness or 0.0 for row in train], brightness_room, BRIGHTNESS_LEVELS
        )
        self._tests = [row["path"] for row in rows if row["split"] == "test"]
        self._thumbnails = [index.files[path].thumbnail or "" for path in self._tests]

    def objections(self, row: dict[str, Any]) -> list[str]:
        """Reasons to hold an image that need no detector."""
        reasons: list[str] = []
        size = row["width"], row["height"]
        if not all(side in allowed for side, allowed in zip(size, self._sizes, strict=True)):
            reasons.append(f"{size[0]} x {size[1]} pixels, the others have {self._sizes[0]} x {self._sizes[1]}")
        grey = self._looks(row).brightness or 0.0
        if grey not in self._grey:
            reasons.append(f"mean grey {grey:.0f}, the others have {self._grey}")
        same = copies(self._looks(row).thumbnail or "", self._thumbnails)
        return [*reasons, *(f"a copy of the test image {self._tests[number]}" for number in same[:1])]

    def _looks(self, row: dict[str, Any]) -> KnownFile:
        return self._files[row["path"]]


@dataclass(frozen=True)
class _Range:
    """The range of a value over the admitted images, and how far outside it a new one may lie; infinite: anywhere."""

    low: float
    high: float
    room: float

    @classmethod
    def of(cls, values: Sequence[float], share: float | None, more: float = 0.0) -> _Range:
        if share is None or not values:
            return cls(0.0, 0.0, math.inf)
        low, high = min(values), max(values)
        return cls(low, high, share * (high - low) + more)

    def __contains__(self, value: float) -> bool:
        return self.low - self.room <= value <= self.high + self.room

    def __str__(self) -> str:
        return f"{self.low:.0f}" if self.low == self.high else f"{self.low:.0f} to {self.high:.0f}"


def suspicion_threshold(detector: Predictor, rate: float) -> float | None:
    """Score above which a new image is held; None without nominal scores.

    The conformal (1 - rate) quantile of nominal scores, or the outlier fence if that is higher: with few images the
    quantile cannot guarantee a small rate.
    """
    from ad_assets.metrics.thresholds import nominal_quantile, outlier_fence

    scores, groups = detector.nominal.scores, detector.nominal.groups
    return max(nominal_quantile(scores, rate, groups), outlier_fence(scores)) if scores else None
