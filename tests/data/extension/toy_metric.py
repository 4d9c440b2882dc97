"""The toy metric of the docs: the share of nominal images above the score that finds 95 % of the anomalous ones."""

import numpy as np

from ad_assets.metrics import Metric, register_metric


@register_metric(Metric("image_fpr_95", "FPR at 95 % recall", better="lower", version=1))
def fpr_at_95(scores: np.ndarray, labels: np.ndarray) -> float:
    threshold = np.quantile(scores[labels == 1], 0.05, method="lower")
    return float((scores[labels == 0] >= threshold).mean())
