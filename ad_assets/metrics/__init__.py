"""Metrics of images and pixels; what each is called and which way it is better is in `catalogue`."""

from ad_assets.metrics.catalogue import Metric, register_metric
from ad_assets.settings.extensions import load_extensions

__all__ = ["Metric", "register_metric"]

load_extensions("ad_assets.metrics")
