"""A prediction as JSON, the same in the command, the server and the files beside watched images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ad_assets_runtime.bundle import Inspected
from ad_assets_runtime.prediction import Prediction


def decision_of(prediction: Prediction) -> dict[str, Any]:
    """Score, what it was compared with, and the regions, as values of JSON."""
    return {
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "anomalous": prediction.anomalous,
        "regions": [asdict(region) for region in prediction.regions],
    }


def result_of(image: Inspected) -> dict[str, Any]:
    """What was said of an image, without its map, as values of JSON."""
    bundle, prediction = image.bundle, image.prediction
    dataset, lane, category = bundle.place
    return {
        "image_id": image.image_id,
        **decision_of(prediction),
        "decided": prediction.decided,
        "height": prediction.shape[0],
        "width": prediction.shape[1],
        "seconds": round(prediction.seconds, 6),
        "champion": {
            "dataset": dataset,
            "lane": lane,
            "category": category,
            "state": bundle.champion["state"],
            "bundle": bundle.identity,
            "since": bundle.champion["since"],
        },
    }
