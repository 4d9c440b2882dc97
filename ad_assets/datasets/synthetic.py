"""Synthetic anomalies: good images with a defect drawn into them, to see whether a detector still sees anything.

    for anomaly in synthetic_anomalies(rgb, image_id):
        anomaly.kind, anomaly.strength, anomaly.rgb

They are a smoke alarm, not a test set: real defects look otherwise, and detectors see most of these more easily.
Pasted patches and scars follow CutPaste (Li et al., CVPR 2021); blurred places and spots are added. What is drawn, and
where, follows from the image's id alone; with the strength the same defect grows in size and contrast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.identity import content_of
from ad_assets_runtime.images import RgbImage

VERSION = 1  # of what is drawn
STRENGTHS = (1, 2, 3)
# Of the shorter side. The middle of a defect is at least so far from the border, which an extractor may crop away.
MARGIN = 0.25

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SyntheticAnomaly:
    """A good image with one defect: what is drawn, how strong (1 to 3), and the pixels ``(H, W, 3)`` uint8."""

    kind: str
    strength: int
    rgb: RgbImage


def synthetic_anomalies(rgb: RgbImage, image_id: str) -> Iterator[SyntheticAnomaly]:
    """All kinds at all strengths.

    Args:
        rgb: a good image ``(H, W, 3)`` uint8.
        image_id: its id, by which random choices are made.
    """
    for kind, draw in KINDS.items():
        for strength in STRENGTHS:
            digest = hashlib.sha256(f"{VERSION} {kind} {content_of(image_id)}".encode()).digest()
            drawn = draw(rgb.astype(np.float32), strength, np.random.default_rng(list(digest)))
            yield SyntheticAnomaly(kind, strength, np.clip(np.rint(drawn), 0, 255).astype(np.uint8))


def _pasted(image: Floats, strength: int, random: np.random.Generator) -> Floats:
    """A patch of the image at another place, somewhat brighter or darker."""
    height, width = image.shape[:2]
    side = (0.06, 0.12, 0.24)[strength - 1] * min(height, width)
    shape = 2 ** random.uniform(-0.7, 0.7)
    h, w = min(height, max(3, round(side * shape))), min(width, max(3, round(side / shape)))
    y, x = _middle(image, random)
    top, left = np.clip([round(y - h / 2), round(x - w / 2)], 0, [height - h, width - w])
    from_y, from_x = (round(random.uniform(0, 1) * room) for room in (height - h, width - w))
    brighter = 1 + random.choice([-1, 1]) * (0.1, 0.2, 0.3)[strength - 1]
    patch = image[from_y : from_y + h, from_x : from_x + w] * brighter
    image = image.copy()
    image[top : top + h, left : left + w] = patch
    return image


def _scarred(image: Floats, strength: int, random: np.random.Generator) -> Floats:
    """A thin straight line, lighter on dark ground and darker on light ground."""
    side = min(image.shape[:2])
    length, thickness = (0.15, 0.3, 0.5)[strength - 1] * side, max(1.5, (0.01, 0.016, 0.025)[strength - 1] * side)
    y, x = _from_middle(image, random)
    angle = random.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = np.clip((thickness - 2 * np.abs(across)) / 2 + 0.5, 0, 1) * (np.abs(along) < length / 2)
    return _shifted(image, inside, (30, 60, 110)[strength - 1])


def _blurred(image: Floats, strength: int, random: np.random.Generator) -> Floats:
    """A place out of focus."""
    from scipy.ndimage import gaussian_filter

    side = min(image.shape[:2])
    y, x = _from_middle(image, random)
    inside = _disc(y, x, (0.08, 0.14, 0.24)[strength - 1] * side)
    sigma = (0.01, 0.02, 0.04)[strength - 1] * side
    return image + inside[..., None] * (gaussian_filter(image, (sigma, sigma, 0)) - image)


def _spotted(image: Floats, strength: int, random: np.random.Generator) -> Floats:
    """Small soft spots beside each other."""
    side = min(image.shape[:2])
    radius = max(1.5, (0.012, 0.02, 0.03)[strength - 1] * side)
    y, x = _from_middle(image, random)
    inside = np.zeros(image.shape[:2], np.float32)
    places = random.normal(0, 0.08 * side, (6, 2)) * np.arange(6)[:, None].clip(0, 1)
    for down, right in places[: (1, 3, 6)[strength - 1]]:
        inside = np.maximum(inside, _disc(y - down, x - right, radius))
    return _shifted(image, inside, (40, 80, 140)[strength - 1])


KINDS: dict[str, Callable[[Floats, int, np.random.Generator], Floats]] = {
    "cut_paste": _pasted,
    "scar": _scarred,
    "blur": _blurred,
    "spots": _spotted,
}


def _middle(image: Floats, random: np.random.Generator) -> tuple[float, float]:
    """The middle of a defect: row and column."""
    room = MARGIN * min(image.shape[:2])
    y, x = (random.uniform(room, max(room, length - room)) for length in image.shape[:2])
    return y, x


def _from_middle(image: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """How far below and to the right of the middle of a defect each pixel is, ``(H, 1)`` and ``(1, W)``."""
    y, x = _middle(image, random)
    rows, columns = (np.arange(length, dtype=np.float32) for length in image.shape[:2])
    return (rows - np.float32(y))[:, None], (columns - np.float32(x))[None]


def _disc(y: Floats, x: Floats, radius: float) -> Floats:
    """1 within a circle, falling to 0 over a fifth of its radius and two pixels."""
    return np.clip((radius - np.hypot(y, x)) / (0.2 * radius + 2) + 0.5, 0, 1).astype(np.float32)


def _shifted(image: Floats, inside: Floats, by: float) -> Floats:
    """Pixels made lighter by some levels where the ground is dark, and darker where it is light."""
    ground = float((image.mean(axis=2) * inside).sum() / max(float(inside.sum()), 1e-6))
    sign = 1 if ground < 128 else -1
    return image + np.float32(sign * by) * inside[..., None]
