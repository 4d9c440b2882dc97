"""What of an image passes a backbone: resized, cropped and normalised, without the network itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ad_assets_runtime.geometry import fit_image

if TYPE_CHECKING:
    from ad_assets.backbones.extractor import Extractor
    from ad_assets_runtime.images import RgbImage


def network_input(extractor: Extractor, rgb: RgbImage) -> npt.NDArray[Any]:
    """Resize, crop and normalise one image: ``(H, W, 3)`` uint8 -> ``(3, h, w)`` float32.

    With tiles the result is uint8: it is a quarter of the size, and `Backbone.extract` normalises tile by tile.
    """
    fitted = fit_image(rgb, *extractor.geometry, extractor.interpolation)
    return np.array(fitted.transpose(2, 0, 1), order="C") if extractor.tiles else normalised(extractor, fitted)


def normalised(extractor: Extractor, rgb: RgbImage) -> npt.NDArray[np.float32]:
    """Pixels ``(h, w, 3)`` uint8 as the network was trained on them: ``(3, h, w)`` float32."""
    mean, std = (np.array(values, np.float32) for values in extractor.normalisation)
    return np.ascontiguousarray(((rgb.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))
