"""A benchmark file as a Dagster resource, for assets of one's own that use what its assets have made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    import pandas as pd

    from ad_assets.prediction import Predictor


class BenchmarkFile(dg.ConfigurableResource):
    """The results of a benchmark file."""

    file: str | None = Field(
        None, description="benchmark file, or the name of a shipped one; default: AD_ASSETS_CONFIG, demo"
    )

    def leaderboard(self, dataset: str) -> pd.DataFrame:
        """The leaderboard of a dataset as tidy rows; see `ad_assets.results`."""
        from ad_assets import results

        return results.leaderboard(dataset, self.file)

    def detector(self, dataset: str, detector: str, category: str) -> Predictor:
        """A detector with what it has learnt, to score images with; see `load_detector`."""
        from ad_assets.prediction import load_detector

        return load_detector(dataset, detector, category, config=self.file)
