"""``draws: n`` of a detector: fits with n seeds, which are one row of the leaderboard.

The first draw is the detector itself, with its own seed. Each further one is a detector beside it, on the same
features, with the next seed: so predictions, exports and ensembles take a draw as they take any detector.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ad_assets.config.benchmark import Detector
    from ad_assets.methods import Method

MOST_DRAWS = 100


def further_draws(detector: Detector) -> dict[str, Detector]:
    """The draws after the first by their names, ``<detector>_draw_2`` and so on; not exported, and never champion."""
    return {
        name: replace(
            detector,
            name=name,
            method=detector.method and _reseeded(detector.method, draw),
            categories={category: _reseeded(method, draw) for category, method in detector.categories.items()},
            written=(),
            export=None,
            draws=1,
            draw_of=detector.name,
        )
        for draw in range(1, detector.draws)
        for name in [f"{detector.name}_draw_{draw + 1}"]
    }


def draws_fault(draws: object, detector: Detector) -> str:
    """Why a detector cannot have so many draws, in words; empty where it can."""
    if not isinstance(draws, int) or isinstance(draws, bool) or not 1 <= draws <= MOST_DRAWS:
        return f"a number of seeds from 1 to {MOST_DRAWS}"
    return "" if draws == 1 or detector.is_random else "no seed has a part in this detector, so all draws are one"


def _reseeded(method: Method[Any], draw: int) -> Method[Any]:
    """A method with the seed of a draw, counted from 0."""
    return method.model_copy(update={"seed": method.seed + draw})
