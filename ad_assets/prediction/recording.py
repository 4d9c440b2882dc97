"""Records what a champion says of images as inspections, and keeps recent images with their features within a bound.

A store that cannot be written never costs a prediction: the recorder says so, once a fault, and goes on.
"""

from __future__ import annotations

import datetime
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.graph.garbage import is_needed
from ad_assets.graph.stages.feature_files import feature_path, write_features
from ad_assets.graph.stages.features import features_address
from ad_assets.production.inspections import (
    Inspection,
    KeptImage,
    Source,
    append,
    compact,
    keep_image,
    kept_images,
)
from ad_assets.store.store import CorruptArtifactError
from ad_assets_runtime.appearance import Appearance
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets_runtime.prediction import Prediction

FLUSH_ROWS, FLUSH_SECONDS = 256, 5.0
TIDY_SECONDS = 60.0
PAUSE_SECONDS = 30.0  # without a try after a fault, since each may take the store's retries
ROOM = 0.8  # of the bound is left after images had to go, so that this is seldom
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inspected:
    """An image of a prediction: its id, where they are to be kept the bytes of its file, and what it looks like."""

    image_id: str
    data: bytes | None
    path: str
    appearance: Appearance


class Recorder:
    """Writes the inspections of one champion and category. Threads may share it.

    Args:
        benchmark: has the store.
        dataset: a production dataset.
        category: the category.
        champion: address of the champion.
        source: what inspects.
        keep: whether bytes and features of the images are kept.
    """

    def __init__(
        self, benchmark: Benchmark, dataset: Dataset, category: str, champion: str, source: Source, *, keep: bool
    ) -> None:
        self._store, self._dataset, self._category = benchmark.store, dataset, category
        self._champion, self.source = champion, source
        self._keep = keep
        self._bound = dataset.production.kept_gb * 1e9 if dataset.production else 0.0
        self._addresses = [features_address(benchmark.extractors[name]) for name in dataset.extractors]
        self._rows: list[Inspection] = []
        self._flushed = time.monotonic()
        self._tidied = -TIDY_SECONDS
        self._paused_until = 0.0
        self._last = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._lock = Lock()
        self.lost = 0  # inspections that could not be recorded
        self.fault = ""  # why, of the last time

    @property
    def keeps(self) -> bool:
        """Whether bytes and features of images are kept."""
        return self._keep and self._bound > 0

    def add(self, image: Inspected, prediction: Prediction) -> None:
        """Record one prediction, at the latest when `flush` is called."""
        with self._lock:
            # No two rows at one time: repeated rows are told by it.
            self._last = max(datetime.datetime.now(datetime.UTC), self._last + datetime.timedelta(microseconds=1))
            self._rows.append(
                Inspection(
                    image.image_id,
                    image.path.encode("utf-8", "backslashreplace").decode(),
                    self._last,
                    self.source,
                    self._champion,
                    prediction.score,
                    prediction.threshold,
                    prediction.p_value,
                    prediction.anomalous,
                    prediction.regions,
                    image.appearance.brightness,
                    image.appearance.contrast,
                )
            )
            full = len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed >= FLUSH_SECONDS
        if self.keeps and image.data is not None:
            place = (self._store, self._dataset.name, self._category)
            anomalous = bool(prediction.anomalous)
            name = Path(image.path).name
            self._try(partial(keep_image, *place, image.image_id, name, image.data, anomalous=anomalous))
        if full:
            self.flush()

    def keep_features(self, extractor: Extractor, image_id: str, taps: Sequence[Tensor], seconds: float) -> None:
        """Store the features of an image where the features asset finds them."""
        if self.keeps:
            self._try(partial(_keep_features, self._store, extractor, image_id, taps, seconds))

    def flush(self) -> None:
        """Write what was added, and from time to time merge files and let the oldest images go."""
        with self._lock:
            rows, self._rows, self._flushed = self._rows, [], time.monotonic()
        place = (self._store, self._dataset.name, self._category)
        if rows and not self._try(partial(append, *place, rows)):
            self.lost += len(rows)
        if time.monotonic() - self._tidied >= TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._try(partial(compact, *place))
            if self._keep:
                self._try(self._trim)

    def _try(self, write: Callable[[], object]) -> bool:
        """Whether a change of the store succeeded; says why where it did not."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            write()
        except (OSError, CorruptArtifactError) as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            if str(error) != self.fault:
                _LOG.warning("inspections of %s [%s] are not recorded: %s", self._dataset.name, self._category, error)
            self.fault = str(error)
            return False
        return True

    def _trim(self) -> None:
        """Let the oldest images go where they take more than the bound, with those features that nothing else needs."""
        store = self._store
        kept = kept_images(store, self._dataset.name, self._category)
        features = self._bytes_of_features(kept)
        sizes = [image.size + features for image in kept]
        excess = sum(sizes) - self._bound
        if excess <= 0:
            return
        excess = sum(sizes) - ROOM * self._bound
        going: list[KeptImage] = []
        for image, size in zip(kept, sizes, strict=True):
            if excess <= 0:
                break
            going.append(image)
            excess -= size
        store.delete(image.path for image in going)
        gone = {image.image_id for image in going}
        ids = gone - is_needed(store, gone)
        store.delete(feature_path(address, image_id) for address in self._addresses for image_id in ids)

    def _bytes_of_features(self, kept: Sequence[KeptImage]) -> int:
        """What the features of one image take at most: all of an extractor are files of one size."""
        if not kept:
            return 0
        newest = kept[-1].image_id
        return sum(file.size for a in self._addresses for file in self._store.files(feature_path(a, newest)))


def _keep_features(store: Any, extractor: Extractor, image_id: str, taps: Sequence[Tensor], seconds: float) -> None:
    """Store the features of an image where the features asset finds them, unless they are there."""
    address = features_address(extractor)
    if not store.exists(feature_path(address, image_id)):
        write_features(store, address, image_id, taps, seconds)


def png_of(rgb: RgbImage) -> bytes:
    """Pixels ``(H, W, 3)`` as a PNG file, quickly rather than small."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
