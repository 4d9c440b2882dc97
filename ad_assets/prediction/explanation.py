"""Why an image scored as it did: the training images that its hottest place is compared with.

detector = load_detector("parts", "patchcore", "bolt", config="parts.yaml", record=False)
explain(detector, "new.png").sources
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.datasets.geometry import fit_mask
from ad_assets.graph.stages.feature_files import positions_of
from ad_assets.methods import Features
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.sources import Place, Source, hottest_place, sources_at, why_unknown
from ad_assets.prediction.lookup import DetectorError
from ad_assets.prediction.predictor import Image, Member, Predictor
from ad_assets_runtime.geometry import centre_box, resized_shape
from ad_assets_runtime.images import RgbImage
from ad_assets_runtime.prediction import Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor

SOURCES = 5
HOTTEST, GIVEN = "hottest place", "given place"
HOTTEST_OF_DEFECT = "hottest place of the defect"
HIDDEN = "place of the defect that would be hottest without one training image"
SUSPECTS = 3  # training images that are left out, one after the other
NEAR = 1.5  # sides of a patch around a place within which its peak counts
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the whole image


@dataclass(frozen=True)
class LeftOut:
    """What an image scores without what the state took from one training image; nothing is selected in its place.

    Args:
        image_id: the training image.
        score: of the image.
        peak: highest score of the map around the place.
        anomalous: whether the score is then above the threshold; None without one.
    """

    image_id: str
    score: float
    peak: float
    anomalous: bool | None


@dataclass(frozen=True)
class Explanation:
    """Why an image scored as it did.

    Args:
        prediction: the result for the image.
        image_id: its id.
        rgb: its pixels, ``(H, W, 3)`` uint8.
        chosen: how the place was chosen, in words.
        place: its centre, x and y in pixels of the whole image.
        box: the patch there.
        peak: highest score of the map around the place.
        sources: the nearest patches of training images, nearest first, with their distances.
        left_out: the same image without each of the training images that these are from, highest peak first.
    """

    prediction: Prediction
    image_id: str
    rgb: RgbImage
    chosen: str
    place: tuple[float, float]
    box: Box
    peak: float
    sources: tuple[Source, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def culprit(self) -> LeftOut:
        """The training image without which the place would be hottest."""
        return self.left_out[0]


def explain(
    detector: Predictor,
    image: Image,
    *,
    at: tuple[float, float] | None = None,
    defect: NDArray[np.bool_] | None = None,
    name: str = "",
) -> Explanation:
    """Find the training images that a place of an image is compared with.

    Args:
        detector: made with ``record=False`` if this look is no inspection.
        image: as for `Predictor.predict`.
        at: x and y of the place, in pixels of the whole image; None: the hottest.
        defect: where the hottest place is sought, ``(H, W)`` of the whole image; see `hottest_place`.
        name: of the image, if not that of its prediction.

    Raises:
        ImageError: the image cannot be read.
        DetectorError: the detector cannot name the training images behind a score, the image is one of them, or the
            place was not looked at.
    """
    where = f"{detector.dataset}/{detector.detector} [{detector.category}]"
    if len(detector.members) != 1:
        names = ", ".join(member.lane for member in detector.members)
        raise DetectorError(f"{where} is an ensemble: explain one of {names}")
    [member] = detector.members
    if reason := why_unknown(member.scorer.method):
        raise DetectorError(f"{where} cannot name training images: {reason}")
    seen: list[tuple[str, list[Tensor]]] = []

    def keep(extractor: Extractor, image_id: str, taps: Sequence[Tensor], seconds: float) -> None:
        del extractor, seconds
        seen.append((image_id, [tap[None] for tap in taps]))

    [(prediction, rgb)] = detector.predict_pictures([image], keep=keep)
    prediction = replace(prediction, name=name or prediction.name)
    image_id, taps = seen[0]
    if image_id in set(member.images):
        raise DetectorError(
            f"{prediction.name} is one of the training images of {where}, which are compared with others only: explain "
            "an image that it has not learnt"
        )
    layers = positions_of(member.layers)
    taps = [taps[level] for level in layers] if layers else taps
    place, chosen = _place(member, taps, prediction, at, defect)
    sources = sources_at(member.scorer.method, member.scorer.state, taps, place, SOURCES, member.scorer.runtime)
    size = sources[0].size
    left_out = [
        _without(member, taps, each, prediction, place, size)
        for each in list(dict.fromkeys(source.image_id for source in sources))[:SUSPECTS]
    ]
    return Explanation(
        prediction,
        image_id,
        rgb,
        chosen,
        centre_in(prediction, place),
        box_in(prediction, place, size),
        _peak(prediction.score_map, place, size),
        tuple(sources),
        tuple(sorted(left_out, key=lambda each: -each.peak)),
    )


def _place(
    member: Member,
    taps: list[Tensor],
    prediction: Prediction,
    at: tuple[float, float] | None,
    defect: NDArray[np.bool_] | None,
) -> tuple[Place, str]:
    """The place to explain and how it was chosen.

    Raises:
        DetectorError: it was not looked at.
    """
    if at is not None:
        top, left, height, width, scale_y, scale_x = _frame(prediction)
        place = ((at[1] + 0.5) * scale_y - top) / height, ((at[0] + 0.5) * scale_x - left) / width
        if not all(0 <= part < 1 for part in place):
            size = f"{prediction.shape[1]} x {prediction.shape[0]}"
            raise DetectorError(f"{at[0]:g},{at[1]:g} of {prediction.name} ({size}) was not looked at: it is cut away")
        return place, GIVEN
    scorer = member.scorer
    fitted = None if defect is None else fit_mask(defect, *prediction.extractor.map_geometry, "any_pixel")
    read = (scorer.method, scorer.state, taps, prediction.score_map, scorer.runtime)
    found = hottest_place(*read, fitted, scorer.region)
    if found is None:
        raise DetectorError(
            f"the defect of {prediction.name} was not looked at: all of it is cut away, or not inspected"
        )
    if defect is None:
        return found, HOTTEST
    return found, HIDDEN if isinstance(scorer.method, PatchBank) else HOTTEST_OF_DEFECT


def _without(
    member: Member, taps: list[Tensor], image_id: str, prediction: Prediction, place: Place, size: Place
) -> LeftOut:
    # A method leaves out what it took from the images that it is told to score; here it is told another's name.
    [(_, scored)] = member.scorer(Features((image_id,), lambda *_: taps), left_out=True)
    score, threshold = float(scored.image_scores[0]), prediction.threshold
    peak = _peak(scored.maps[0].numpy(), place, size)
    return LeftOut(image_id, score, peak, None if threshold is None else score > threshold)


def _peak(score_map: NDArray[Any], place: Place, size: Place) -> float:
    """The highest score within a patch's reach of a place."""
    ends = []
    for part, side, length in zip(place, size, score_map.shape, strict=True):
        first = max(int((part - NEAR * side) * length), 0)
        ends.append(slice(first, max(int((part + NEAR * side) * length), first) + 1))
    return float(score_map[ends[0], ends[1]].max())


def _frame(prediction: Prediction) -> tuple[int, int, int, int, float, float]:
    """Of the crop in the resized image: top, left, height, width; and the resizing's scales, vertical, horizontal."""
    resize, crop = prediction.extractor.geometry
    height, width = resized_shape(*prediction.shape, resize)
    top, left, bottom, right = centre_box(height, width, crop)
    return top, left, bottom - top, right - left, height / prediction.shape[0], width / prediction.shape[1]


def centre_in(prediction: Prediction, place: Place) -> tuple[float, float]:
    """x and y of a place in pixels of a whole image of the shape of `prediction`."""
    top, left, height, width, scale_y, scale_x = _frame(prediction)
    return (left + place[1] * width) / scale_x, (top + place[0] * height) / scale_y


def box_in(prediction: Prediction, place: Place, size: Place) -> Box:
    """A patch in pixels of a whole image of the shape of `prediction`."""
    (left, top), (right, bottom) = (
        centre_in(prediction, (place[0] + half * size[0], place[1] + half * size[1])) for half in (-0.5, 0.5)
    )
    return max(left, 0.0), max(top, 0.0), min(right, prediction.shape[1]), min(bottom, prediction.shape[0])


def box_of(explanation: Explanation, source: Source, shape: tuple[int, int]) -> Box:
    """The patch of a source in pixels of its own image, of a height and width."""
    return box_in(replace(explanation.prediction, shape=shape), source.place, source.size)
