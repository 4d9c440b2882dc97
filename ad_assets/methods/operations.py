"""What the time of a fit, and of scoring, grows with: counts from shapes, which a measurement turns into seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operations:
    """Counts in any one unit: those of two numbers of images are to each other about as their times are.

    What each image takes whatever the others are is counted in that unit too: the modules have how much it was on a CPU
    beside what grows (EfficientNet-Lite0 on the demo's `brick`, 8 and 60 images, 2026-11-28).

    Args:
        fit: of learning so many images.
        score: of scoring one image then.
    """

    fit: float
    score: float
