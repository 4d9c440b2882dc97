"""A loaded detector: from the bytes of an image to its score, its map and a decision.

An image passes the dataset's `Decoding`, the extractor's `Backbone` and `Scorer`, as it would in the graph; its
features stay in memory. What the graph does over a test set is done here for a batch, whose size changes no score.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.geometry import unfit_map
from ad_assets.datasets.images import ROOM, ImageError, RgbImage
from ad_assets.graph.stages.features import decoded_batches, positions_of, stacked
from ad_assets.graph.stages.score_maps import Scorer
from ad_assets.methods import Features, ScoreMaps
from ad_assets.methods.data import NominalScores
from ad_assets.settings.compute import Compute

if TYPE_CHECKING:
    from torch import Tensor

Image = str | Path | bytes | NDArray[np.uint8]
Keep = Callable[[Extractor, str, "Sequence[Tensor]", float], None]


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image.

    Args:
        name: the path as it was given; ``image <number>``, from 1, of what came without one.
        score: raw image score, higher is more anomalous.
        threshold: from nominal training images alone; None where there are none to take it from (blind settings, one
            training image, a trained method that held none out).
        score_map: ``(h, w)`` float32, raw, in the frame of the extractor's input.
        shape: height and width of the image.
        extractor: whose resizing and crop led to that frame.
        step_seconds: what the image took, by step: its share of its batch.
    """

    name: str
    score: float
    threshold: float | None
    score_map: NDArray[np.float32]
    shape: tuple[int, int]
    extractor: Extractor
    step_seconds: Mapping[str, float]

    @property
    def anomalous(self) -> bool | None:
        """Whether the score lies above the threshold, as the metrics decide; None without a threshold."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def seconds(self) -> float:
        """What the image took: its share of its batch."""
        return sum(self.step_seconds.values())

    def full_map(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The map in the frame of the whole image, ``(H, W)`` float32; see `unfit_map` for what a crop cut off.

        Args:
            size: another height and width than the image's.
        """
        return unfit_map(self.score_map, self.shape, *self.extractor.geometry, size)


class Laps:
    """Seconds by step, from the end of one step to the end of the next; the device has finished by then."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._last = 0.0
        self._seconds: dict[str, float] = {}

    def start(self) -> None:
        """Begin a batch."""
        self._seconds = {}
        self._last = self._now()

    def __call__(self, step: str) -> None:
        """A step ends now; steps of one name add up."""
        now = self._now()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now

    def share(self, images: int) -> dict[str, float]:
        """Seconds by step since the start, of each of so many images."""
        return {step: seconds / images for step, seconds in self._seconds.items()}

    def _now(self) -> float:
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class Member:
    """One method of a detector, ready to score.

    Args:
        lane: its name.
        version: address of what it learnt.
        images: ids of the images that it learnt from.
        extractor: where it has its features from.
        layers: taps that it reads, from 1; None: all.
        scorer: the method with what it learnt; its `lap` is that of the predictor.
        nominal: left-out scores of nominal images.
    """

    lane: str
    version: str
    images: Sequence[str]
    extractor: Extractor
    layers: tuple[int, ...] | None
    scorer: Scorer
    nominal: NominalScores


@dataclass(frozen=True)
class _Decoded:
    """An image that could be read, or the error that says why it could not."""

    name: str
    image_id: str = ""
    rgb: RgbImage = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    inputs: tuple[Tensor, ...] = ()
    error: ImageError | None = None


class Predictor:
    """A detector of one category; `load_detector` makes it. Threads may share it, and then wait for each other.

    Attributes:
        dataset: name of the dataset.
        detector: name of the lane.
        category: the category.
        versions: address of what each member learnt, by its lane; one but for ensembles.
        threshold: as `Prediction` has it.
        nominal: the left-out scores of nominal images behind the threshold.
        compute: where it runs.
        precisions: of its backbones, each once.
        colour_scale: lowest and highest score of the category's pictures in the report; None before it had metrics.
        stale: how what was loaded differs from what the benchmark file says, where that was allowed.
    """

    def __init__(
        self,
        place: tuple[str, str, str],
        members: Sequence[Member],
        threshold: float | None,
        nominal: NominalScores,
        decoding: Decoding,
        compute: Compute,
        laps: Laps,
        colour_scale: tuple[float, float] | None = None,
        stale: tuple[str, ...] = (),
    ) -> None:
        self.dataset, self.detector, self.category = place
        self.versions = {member.lane: member.version for member in members}
        self.threshold = threshold
        self.nominal = nominal
        self.compute = compute
        ROOM.limit(compute.memory_gb)
        self._decoding = decoding
        self.colour_scale = colour_scale
        self.stale = stale
        self._members = tuple(members)
        self._laps = laps
        # Members on one extractor share its features.
        self._extractors = list(dict.fromkeys(member.extractor for member in members))
        self.precisions = sorted({extractor.precision for extractor in self._extractors})
        self._backbones = [load_backbone(extractor, compute) for extractor in self._extractors]
        self._lock = Lock()

    def predict(self, image: Image) -> Prediction:
        """Score one image.

        Args:
            image: its path, the bytes of its file, or its pixels ``(H, W, 3)`` uint8, RGB.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        return next(self.predict_batch([image]))

    def predict_batch(
        self,
        images: Iterable[Image],
        *,
        batch_size: int | None = None,
        failed: Callable[[ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Score images in their order, decoding ahead of the backbone; at most a few batches are in memory.

        Args:
            images: as `predict` takes them.
            batch_size: images a batch; changes no score. None: as the benchmark file says.
            failed: called with the error of an image that cannot be read, which is then passed over.

        Raises:
            ImageError: an image cannot be read, and there is no `failed`.
        """
        for prediction, _ in self.predict_pictures(images, batch_size=batch_size, failed=failed):
            yield prediction

    def predict_pictures(
        self,
        images: Iterable[Image],
        *,
        batch_size: int | None = None,
        failed: Callable[[ImageError], None] | None = None,
        keep: Keep | None = None,
    ) -> Iterator[tuple[Prediction, RgbImage]]:
        """As `predict_batch`, each with the decoded image ``(H, W, 3)`` uint8.

        Args:
            images: as `predict` takes them.
            batch_size: as `predict_batch` has it.
            failed: as `predict_batch` has it.
            keep: called with the extractor, the image's id, its taps and the seconds they took, of every image.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:
            numbered = enumerate(images, start=1)
            batches = decoded_batches(pool, self._decode, numbered, batch_size or self.compute.batch_size)
            while True:
                with self._lock:
                    self._laps.start()
                    batch = next(batches, None)
                    if batch is None:
                        return
                    good = [image for image in batch if image.error is None]
                    predictions = self._predict(good, keep) if good else []
                for error in (image.error for image in batch if image.error):
                    if failed is None:
                        raise error
                    failed(error)
                yield from zip(predictions, (image.rgb for image in good), strict=True)

    def _decode(self, numbered: tuple[int, Image]) -> _Decoded:
        number, image = numbered
        name = str(image) if isinstance(image, (str, Path)) else f"image {number}"
        try:
            image_id, rgb = _read(image, name, self._decoding)
            return _Decoded(name, image_id, rgb, tuple(backbone.preprocess(rgb) for backbone in self._backbones))
        except ImageError as error:
            return _Decoded(name, error=error)

    def _predict(self, batch: Sequence[_Decoded], keep: Keep | None) -> list[Prediction]:
        import torch

        self._laps("decode")
        taps: dict[Extractor, list[Tensor]] = {}
        for number, (extractor, backbone) in enumerate(zip(self._extractors, self._backbones, strict=True)):
            started = time.perf_counter()
            taps[extractor] = backbone.extract(torch.stack([image.inputs[number] for image in batch]))
            seconds_each = (time.perf_counter() - started) / len(batch)
            for row, image in enumerate(batch if keep else ()):
                if keep:
                    keep(extractor, image.image_id, [tap[row] for tap in taps[extractor]], seconds_each)
        self._laps("backbone")
        ids = [image.image_id for image in batch]
        scores = self._fused([self._score(member, ids, taps[member.extractor]) for member in self._members])
        seconds = self._laps.share(len(batch))
        return [
            Prediction(
                image.name,
                float(score),
                self.threshold,
                score_map.numpy().copy(),  # a view would hold the maps of the whole batch
                image.rgb.shape[:2],
                self._extractors[0],
                seconds,
            )
            for image, score, score_map in zip(batch, scores.image_scores, scores.maps, strict=True)
        ]

    def _score(self, member: Member, ids: Sequence[str], taps: list[Tensor]) -> ScoreMaps:
        import torch

        by_id = {image_id: [tap[row] for tap in taps] for row, image_id in enumerate(ids)}

        def load(wanted: Sequence[str], positions: tuple[int, ...] | None) -> list[Tensor]:
            return stacked([by_id[image_id] for image_id in wanted], positions)

        # The same image twice in a batch is scored twice, as its place in the result asks for.
        features = Features(tuple(ids), load, len(ids), positions_of(member.layers))
        pieces = [scores for _, scores in member.scorer(features, new=True)]
        return ScoreMaps(
            torch.cat([piece.maps for piece in pieces]), torch.cat([piece.image_scores for piece in pieces])
        )

    def _fused(self, scores: list[ScoreMaps]) -> ScoreMaps:
        if len(scores) == 1:
            return scores[0]
        import torch

        from ad_assets.methods.ensemble import fuse

        nominal = [torch.tensor(member.nominal.scores) for member in self._members]
        fused = fuse([each.maps for each in scores], [each.image_scores for each in scores], nominal)
        self._laps("fuse")
        return fused


def _read(image: Any, name: str, decoding: Decoding) -> tuple[str, RgbImage]:
    """An image's id and pixels.

    The id is the content of the file and how it is decoded, by which blind settings recognise an image that they have
    learnt; pixels alone are never recognised.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(name, f"expected pixels (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        rgb = np.ascontiguousarray(image)
        return f"pixels:{hashlib.sha256(rgb.tobytes()).hexdigest()}", rgb
    if not isinstance(image, (str, Path, bytes)):
        raise ImageError(name, f"expected a path, bytes or pixels (H, W, 3) of uint8, got {type(image).__name__}")
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror or error}") from error
    return decoding.identified(data, name)
