"""Images turned about their middle, for nominal images that are learnt in several directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1


def turned(rgb: NDArray[Any], degrees: int) -> NDArray[Any]:
    """An image turned counterclockwise, in the frame that it had.

    Beyond its border the image goes on as its mirror image, as in AnomalyDINO's public code. Quarter turns of a square
    are exact, others bilinear.

    Args:
        rgb: (H, W, 3) uint8.
        degrees: 0..359.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = rgb.shape[:2]
    if degrees % 180 == 0 or (degrees % 90 == 0 and height == width):
        return np.ascontiguousarray(np.rot90(rgb, degrees // 90))
    from PIL import Image

    reach = int(np.ceil(np.hypot(height, width) / 2)) + 1
    above, beside = max(reach - height // 2, 0), max(reach - width // 2, 0)
    padded = np.pad(rgb, ((above, above), (beside, beside), (0, 0)), mode="reflect")
    whole = np.asarray(Image.fromarray(padded).rotate(degrees, Image.Resampling.BILINEAR))
    return np.ascontiguousarray(whole[above : above + height, beside : beside + width])
