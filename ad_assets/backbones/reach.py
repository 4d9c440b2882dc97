"""How far a patch sees: up to which distance pixels change the features of a tap, measured with the backbone itself.

The receptive field on paper counts every pixel that could change a feature, and for deep taps covers the whole image;
most of it weighs next to nothing (Luo et al., "Understanding the effective receptive field in deep convolutional neural
networks", NeurIPS 2016). Here half of a random picture is replaced by another one. Patches in the other half change the
more the nearer they are; beyond the reach they change by less than `SHARE` of what replaced patches change by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ad_assets.backbones.backbone import Backbone
    from ad_assets_runtime.images import RgbImage

SHARE = 0.05
PICTURES = 3
CONTRASTS = (0.2, 1.5)  # of the picture, as calm as a good product, and of what replaces its half
GRAINS = (1, 4, 16)  # pixels: textures of natural pictures are coarse and fine


def reach_of(backbone: Backbone) -> list[float | None]:
    """For each tap the reach in pixels of the extractor's input, to half a cell; None: beyond half of the input."""
    height, width = backbone.extractor.frame_size
    half = width // 2
    changes: list[list[np.ndarray]] = []
    for seed in range(PICTURES):
        first, second = (_picture(height, width, 2 * seed + part, contrast) for part, contrast in enumerate(CONTRASTS))
        replaced = np.concatenate([first[:, :half], second[:, half:]], axis=1)
        pairs = zip(backbone.probe(first), backbone.probe(replaced), strict=True)
        changes.append([(a - b)[0].square().sum(dim=0).sqrt().mean(dim=0).numpy() for a, b in pairs])
    return [_reach(np.mean(columns, axis=0), width) for columns in zip(*changes, strict=True)]


def _reach(change: np.ndarray, width: int) -> float | None:
    """From the mean change of the features of each column ``(w,)``, the right half of whose pixels was replaced."""
    if len(change) == 1:  # of the whole image
        return None
    cell = width / len(change)
    distances = width // 2 - (np.arange(len(change)) + 0.5) * cell  # of the middle of a cell from the replaced half
    seen = (change >= SHARE * change[distances < 0].mean()) & (distances > 0)
    if not seen.any():
        return 0.0
    reach = float(distances[seen].max() + cell / 2)
    return None if reach > width // 2 - cell else reach


def _picture(height: int, width: int, seed: int, contrast: float) -> RgbImage:
    """Noise of several grains ``(H, W, 3)`` uint8."""
    random = np.random.default_rng(seed)
    layers = [
        np.kron(random.random((-(-height // grain), -(-width // grain), 3)), np.ones((grain, grain, 1)))
        for grain in GRAINS
    ]
    mixed = np.mean([layer[:height, :width] for layer in layers], axis=0)
    return np.clip(255 * (0.5 + contrast * (mixed - 0.5)), 0, 255).astype(np.uint8)
