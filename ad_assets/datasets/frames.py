"""From the frame that a detector saw back to that of the original image: the inverse of `geometry.fit_image`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ad_assets.datasets.geometry import Resize, centre_box, resized_shape

ScoreMap = npt.NDArray[np.float32]


def unfit_map(
    score_map: ScoreMap, size: tuple[int, int], resize: Resize, crop: int | None, to: tuple[int, int] | None = None
) -> ScoreMap:
    """A score map on the pixels of its original image: ``(h, w)`` -> ``(H, W)`` float32.

    The map is put back where the crop was taken from. Nothing is known of the margin that the crop cut away: it takes
    the values of the nearest pixels of the map. The whole is then resized bilinearly with half-pixel centres; along an
    axis that shrinks, with antialiasing, so that no peak falls between two pixels. An axis that keeps its length keeps
    its values exactly, and no value leaves the range of the map: an image without a pixel above a threshold gets none.

    Args:
        score_map: of the size that `resize` and `crop` make of the image.
        size: height and width of the original image.
        resize: as the image's.
        crop: as the image's.
        to: another height and width of the result, as for a smaller picture.

    Raises:
        ValueError: the map has another size, or the crop is larger than the resized image.
    """
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    if score_map.shape != (bottom - top, right - left):
        raise ValueError(
            f"a map of shape {score_map.shape} for an image of {size[0]} x {size[1]}, which resize {resize} and crop "
            f"{crop} make {bottom - top} x {right - left}"
        )
    margins = ((top, h - bottom), (left, w - right))
    frame = np.pad(np.asarray(score_map, np.float32), margins, mode="edge")
    # PIL sums in double precision and rounds once an axis, so a mean of neighbours never rounds beyond them.
    return np.array(Image.fromarray(frame).resize((to or size)[::-1], Image.Resampling.BILINEAR))
