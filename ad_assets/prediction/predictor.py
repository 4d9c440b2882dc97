"""A loaded detector, which maps the bytes of an image to its score, score map and decision.

An image passes the dataset's `Decoding`, the extractor's `Backbone` and `Scorer`, as in the graph, but features stay in
memory. Images are scored in batches, whose size changes no score.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.datasets.decoding import Decoding
from ad_assets.graph.stages.feature_files import positions_of, stacked
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features, ScoreMaps
from ad_assets.methods.data import NominalScores
from ad_assets.metrics.thresholds import nominal_quantile, promise
from ad_assets.prediction.recording import Inspected, Recorder, png_of
from ad_assets.settings.compute import Compute
from ad_assets_runtime.appearance import appearance_of
from ad_assets_runtime.conformal import p_values
from ad_assets_runtime.geometry import Mask
from ad_assets_runtime.identity import content_id, content_of
from ad_assets_runtime.images import ROOM, ImageError, RgbImage, decoded_batches
from ad_assets_runtime.prediction import Prediction

if TYPE_CHECKING:
    from torch import Tensor

AHEAD = 1e9 / 8  # bytes a GB of the budget, of images decoded ahead
Image = str | Path | bytes | NDArray[np.uint8]
Keep = Callable[[Extractor, str, "Sequence[Tensor]", float], None]
Known = Callable[[Extractor, str], "Sequence[Tensor] | None"]


class StepTimer:
    """Measures seconds by step, from the end of the last one; synchronises the device at the end of each."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._last = 0.0
        self._seconds: dict[str, float] = {}

    def start(self) -> None:
        """Begin a batch."""
        self._seconds = {}
        self._last = self._now()

    def __call__(self, step: str) -> None:
        """End a step now; times of steps with the same name are added."""
        now = self._now()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now

    def share(self, images: int) -> dict[str, float]:
        """Seconds by step since the start, divided by the number of images."""
        return {step: seconds / images for step, seconds in self._seconds.items()}

    def _now(self) -> float:
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class Member:
    """One fitted method of a detector; an ensemble has several.

    Args:
        lane: name of the detector.
        version: address of its fitted state.
        images: ids of the images that it was fitted on.
        extractor: the extractor of its features.
        layers: taps that it reads, counted from 1; None: all.
        scorer: the method with its state; its `step_done` is the timer of the predictor.
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
    """A decoded image, or the error that occurred."""

    name: str
    image_id: str = ""
    rgb: RgbImage = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    inputs: tuple[Tensor, ...] = ()
    error: ImageError | None = None
    inspected: Inspected | None = None

    def weigh(self) -> int:
        """Its bytes in memory."""
        data = self.inspected.data if self.inspected else None
        return self.rgb.nbytes + sum(tensor.nbytes for tensor in self.inputs) + len(data or b"")


class Predictor:
    """A detector of one category, made by `load_detector`. Threads may share it and then run one at a time.

    Attributes:
        dataset: name of the dataset.
        detector: name of the detector.
        category: the category.
        versions: detector name -> address of its fitted state; several entries for ensembles only.
        false_alarm_rate: that the threshold aims at, as the benchmark file has it now.
        threshold: see `Prediction`.
        pixel_threshold: see `Prediction`.
        nominal: the left-out scores of nominal images that set the threshold.
        compute: device and limits.
        precisions: of its backbones, without duplicates.
        engines: of its backbones, without duplicates.
        colour_scale: lowest and highest score of the category's pictures in the report; None without metrics.
        members: its fitted methods; several for ensembles only.
        stale: how the loaded states differ from the benchmark file, where that was allowed, and that the region of
            interest is another by now than the champion was promoted with.
        recorder: records each prediction as an inspection; None: none is recorded.
        inspected: ``(H, W)`` bool, the region of interest; None: images are inspected whole.
    """

    def __init__(
        self,
        place: tuple[str, str, str],
        members: Sequence[Member],
        false_alarm_rate: float,
        nominal: NominalScores,
        decoding: Decoding,
        compute: Compute,
        timer: StepTimer,
        colour_scale: tuple[float, float] | None = None,
        stale: tuple[str, ...] = (),
        recorder: Recorder | None = None,
        inspected: Mask | None = None,
        false_alarms: Mapping[str, str] | None = None,
    ) -> None:
        self._false_alarms = false_alarms or {}
        self.dataset, self.detector, self.category = place
        self.versions = {member.lane: member.version for member in members}
        self.false_alarm_rate, self.nominal, self.recorder = false_alarm_rate, nominal, recorder
        self.threshold, self.pixel_threshold = (
            nominal_quantile(values, false_alarm_rate, nominal.groups) if values else None
            for values in (nominal.scores, nominal.map_maxima)
        )
        self.compute = compute
        ROOM.limit(compute.memory_gb)
        self._decoding = decoding
        self.colour_scale = colour_scale
        self.stale = stale
        self.inspected = inspected
        self.members = tuple(members)
        self._timer = timer
        # Members with the same extractor share its features.
        self._extractors = list(dict.fromkeys(member.extractor for member in members))
        self.precisions = sorted({extractor.precision for extractor in self._extractors})
        self.engines = sorted({extractor.engine for extractor in self._extractors})
        self._backbones = [load_backbone(extractor, compute) for extractor in self._extractors]
        self._lock = Lock()

    def view(self, shapes: Iterable[tuple[int, int]]) -> View:
        """What is seen of images of some heights and widths, in cells of the finest map of its first member."""
        rows, columns = self._backbones[0].tap_shapes[0][1:]
        return View.of(self._extractors[0], shapes, (rows, columns))

    @property
    def promise(self) -> str:
        """What the threshold promises, in a sentence."""
        nominal = self.nominal
        return promise(len(nominal.scores), self.false_alarm_rate, nominal.groups, nominal.left_out)

    def predict(self, image: Image) -> Prediction:
        """Score one image.

        Args:
            image: its path, the bytes of its file, or its pixels ``(H, W, 3)`` uint8, RGB.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        [prediction] = self.predict_batch([image])
        return prediction

    def predict_batch(
        self,
        images: Iterable[Image],
        *,
        batch_size: int | None = None,
        failed: Callable[[ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Score images in order, decoding ahead of the backbone; at most a few batches are in memory.

        Args:
            images: as for `predict`.
            batch_size: images per batch, or tiles; changes no score. None: that of the benchmark file.
            failed: called with the error of an image that cannot be read, which is then skipped.

        Raises:
            ImageError: an image cannot be read, and `failed` is None.
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
        known: Known | None = None,
    ) -> Iterator[tuple[Prediction, RgbImage]]:
        """As `predict_batch`, with the decoded image ``(H, W, 3)`` uint8 of each prediction.

        Args:
            images: as for `predict`.
            batch_size: as for `predict_batch`.
            failed: as for `predict_batch`.
            keep: called for every image that passed a backbone with the extractor, the image's id, its feature maps and
                their seconds.
            known: the feature maps of an extractor and an image's id, if they are to be had without the backbone.
        """
        try:
            yield from self._predict_pictures(images, batch_size, failed, keep, known)
        finally:
            if self.recorder:
                self.recorder.flush()

    def _predict_pictures(
        self,
        images: Iterable[Image],
        batch_size: int | None,
        failed: Callable[[ImageError], None] | None,
        keep: Keep | None,
        known: Known | None,
    ) -> Iterator[tuple[Prediction, RgbImage]]:
        from ad_assets.kernels.parallel import helper_threads

        if keep is None and self.recorder and self.recorder.keeps:
            keep = self.recorder.keep_features
        size, room = self._images_a_batch(batch_size), self.compute.memory_gb * AHEAD
        numbered = enumerate(images, start=1)
        with (
            ThreadPoolExecutor(helper_threads()) as pool,
            closing(decoded_batches(pool, self._decode, numbered, size, _Decoded.weigh, room)) as batches,
        ):
            while True:
                with self._lock:
                    self._timer.start()
                    batch = next(batches, None)
                    if batch is None:
                        return
                    good = [image for image in batch if image.error is None]
                    predictions = self._predict(good, keep, known) if good else []
                for image, prediction in zip(good, predictions, strict=True):
                    if self.recorder and image.inspected:
                        self.recorder.add(image.inspected, prediction)
                for error in (image.error for image in batch if image.error):
                    if failed is None:
                        raise error
                    failed(error)
                yield from zip(predictions, (image.rgb for image in good), strict=True)

    def _images_a_batch(self, batch_size: int | None) -> int:
        inputs = batch_size or self.compute.batch_size
        return min(extractor.images_a_batch(inputs) for extractor in self._extractors)

    def _decode(self, numbered: tuple[int, Image]) -> _Decoded:
        number, image = numbered
        name = str(image) if isinstance(image, (str, Path)) else f"image {number}"
        try:
            image_id, rgb, data = _read(image, name, self._decoding)
            _refuse_other_size(name, rgb, self.inspected)
            inspected = None
            if self.recorder:
                if data is None and self.recorder.keeps:
                    data = png_of(rgb)  # as a file, by whose content a person can name it
                    image_id = content_id(data)
                path = str(Path(image).absolute()) if isinstance(image, (str, Path)) else name
                inspected = Inspected(image_id, data if self.recorder.keeps else None, path, appearance_of(rgb))
            inputs = tuple(backbone.preprocess(rgb) for backbone in self._backbones)
            return _Decoded(name, image_id, rgb, inputs, inspected=inspected)
        except ImageError as error:
            return _Decoded(name, error=error)

    def _taps(
        self, number: int, batch: Sequence[_Decoded], keep: Keep | None, known: Known | None
    ) -> dict[str, Sequence[Tensor]]:
        """Image id -> feature maps ``(C, h, w)`` by one of the extractors; what is known does not pass its backbone."""
        extractor, backbone = self._extractors[number], self._backbones[number]
        found = {image.image_id: known(extractor, image.image_id) for image in batch} if known else {}
        taps = {image_id: own for image_id, own in found.items() if own is not None}
        new = [image for image in batch if image.image_id not in taps]
        if new:
            started = time.perf_counter()
            made = backbone.extract(backbone.stack([image.inputs[number] for image in new]))
            seconds_each = (time.perf_counter() - started) / len(new)
            for row, image in enumerate(new):
                taps[image.image_id] = [tap[row] for tap in made]
                if keep:
                    keep(extractor, image.image_id, taps[image.image_id], seconds_each)
        return taps

    def _predict(self, batch: Sequence[_Decoded], keep: Keep | None, known: Known | None) -> list[Prediction]:
        self._timer("decode")
        taps = {own: self._taps(number, batch, keep, known) for number, own in enumerate(self._extractors)}
        self._timer("backbone")
        ids = [image.image_id for image in batch]
        scores = self._fused([self._score(member, ids, taps[member.extractor]) for member in self.members])
        seconds = self._timer.share(len(batch))
        image_scores, nominal = scores.image_scores.tolist(), self.nominal
        rare: list[Any] = [None] * len(batch)
        if nominal.scores:
            rare = p_values(image_scores, nominal.scores, nominal.groups).tolist()
        return [
            Prediction(
                image.name,
                score,
                self.threshold,
                p_value,
                score_map.numpy().copy(),  # a view would hold the maps of the whole batch
                image.rgb.shape[:2],
                self._extractors[0],
                seconds,
                self.pixel_threshold,
                self.inspected,
                self._decided(image, score),
            )
            for image, score, p_value, score_map in zip(batch, image_scores, rare, scores.maps, strict=True)
        ]

    def _decided(self, image: _Decoded, score: float) -> str:
        above = self.threshold is not None and score > self.threshold
        return self._false_alarms.get(content_of(image.image_id), "") if above else ""

    def _score(self, member: Member, ids: Sequence[str], taps: Mapping[str, Sequence[Tensor]]) -> ScoreMaps:
        import torch

        def load(wanted: Sequence[str], positions: tuple[int, ...] | None) -> list[Tensor]:
            return stacked([taps[image_id] for image_id in wanted], positions)

        # An image that is in a batch twice is scored twice, once for each result.
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

        nominal = [torch.tensor(member.nominal.scores) for member in self.members]
        fused = fuse([each.maps for each in scores], [each.image_scores for each in scores], nominal)
        self._timer("fuse")
        return fused


def _refuse_other_size(name: str, rgb: RgbImage, inspected: Mask | None) -> None:
    (height, width), region = rgb.shape[:2], rgb.shape[:2] if inspected is None else inspected.shape
    if (height, width) != region:
        message = f"is of {width} x {height}, and what to inspect is known of images of {region[1]} x {region[0]} alone"
        raise ImageError(name, f"{message}, the size of the region of interest")


def _read(image: Any, name: str, decoding: Decoding) -> tuple[str, RgbImage, bytes | None]:
    """An image's id, its pixels, and the bytes of its file; None for an array of pixels.

    The id is that of the index, by which blind settings recognise an image that they were fitted on; for an array of
    pixels it never matches one.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(name, f"expected pixels (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        rgb = np.ascontiguousarray(image)
        return f"pixels:{hashlib.sha256(rgb.tobytes()).hexdigest()}", rgb, None
    if not isinstance(image, (str, Path, bytes)):
        raise ImageError(name, f"expected a path, bytes or pixels (H, W, 3) of uint8, got {type(image).__name__}")
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror or error}") from error
    return *decoding.identified(data, name), data
