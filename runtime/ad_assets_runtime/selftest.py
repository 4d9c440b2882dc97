"""The self-test of a bundle: on this very machine its images have the scores that they had where it was exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.bundle_files import BundleError, BundleFiles
from ad_assets_runtime.decoding import ImageDecoding
from ad_assets_runtime.images import ImageError
from ad_assets_runtime.words import short

if TYPE_CHECKING:
    from ad_assets_runtime.bundle import Bundle

# Of scores, relative to the largest of the map: float32 arithmetic of another library differs by 1e-6, bfloat16 or a
# resize that is not Pillow's by 1e-3 and more.
TOLERANCE = 1e-4


def apart(
    score_map: NDArray[np.float32], score: float, wanted: NDArray[np.float32], wanted_score: float
) -> tuple[float, float]:
    """How far a map and an image score are from those that are wanted; NaN stays.

    Args:
        score_map: ``(h, w)``.
        score: of the image.
        wanted: ``(h, w)``.
        wanted_score: of the image.

    Returns:
        The largest difference of a pixel, relative to the largest absolute score of the wanted map; that of the image
        score, relative to the larger of that and the wanted score.
    """
    largest = float(np.abs(wanted).max())
    of_map = float(np.abs(score_map.astype(np.float64) - wanted).max())
    return _share(of_map, largest), _share(abs(score - wanted_score), max(largest, abs(wanted_score)))


def _share(difference: float, whole: float) -> float:
    return difference / whole if whole else (0.0 if difference == 0 else float("inf"))


def check_scores(files: BundleFiles, bundle: Bundle) -> None:
    """Compare what the images of a bundle score here with what they scored where it was exported.

    Raises:
        BundleError: they have others, or there is no image.
    """
    tests = bundle.manifest["selftest"]
    if not tests:
        raise BundleError("its self-test has no image, so its scores cannot be checked: export the bundle again")
    for test in tests:
        try:
            rgb = ImageDecoding(turn=False).rgb(files[test["image"]], test["image"])
        except ImageError as error:
            raise BundleError(str(error)) from error
        expected = files.tensors(test["expected"])
        try:
            score_map, score = bundle.score(rgb)
        except Exception as error:  # the engines have errors of their own, which no one base describes
            raise BundleError(
                f"self-test: {test['image']} cannot be scored ({short(error)}): export the bundle again"
            ) from error
        wanted, wanted_score = expected["map"], float(expected["score"])
        if score_map.shape != wanted.shape:
            raise BundleError(f"self-test: the map of {test['image']} is of {score_map.shape}, expected {wanted.shape}")
        of_map, of_score = apart(score_map, score, wanted, wanted_score)
        decided = None if bundle.threshold is None else score > bundle.threshold
        # Not `>`: NaN must not pass.
        if not (of_map <= TOLERANCE and of_score <= TOLERANCE) or decided != test["anomalous"]:
            engine = bundle.members[0].engine
            raise BundleError(
                f"self-test: {test['image']} scores {score:.6g} here and {wanted_score:.6g} where the bundle was "
                f"exported (map {of_map:.1e}, score {of_score:.1e} of its maximum, allowed {TOLERANCE:.0e}), by "
                f"{engine.name} {engine.version}: install the releases of Pillow and {engine.name} that the bundle "
                "names, and let nothing compute in bfloat16"
            )
