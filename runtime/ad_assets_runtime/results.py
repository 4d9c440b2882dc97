"""A prediction as JSON, the same in the command, the server and the files beside watched images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ad_assets_runtime.bundle import Inspected


def result_of(image: Inspected) -> dict[str, Any]:
    """What was said of an image, without its map, as values of JSON."""
    bundle, prediction = image.bundle, image.prediction
    dataset, lane, category = bundle.place
    return {
        "image_id": image.image_id,
        "score": prediction.score,
        "threshold": prediction.threshold,
        "p_value": prediction.p_value,
        "anomalous": prediction.anomalous,
        "decided": prediction.decided,
        "regions": [asdict(region) for region in prediction.regions],
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
