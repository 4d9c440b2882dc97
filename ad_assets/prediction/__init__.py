"""Scores of new images from what a lane has learnt: the graph's own code, without a run and without a Dagster instance.

>>> from ad_assets.prediction import load_detector
>>> detector = load_detector("demo", "patchcore_1", "brick")  # doctest: +SKIP
>>> detector.predict("new.png").anomalous  # doctest: +SKIP
True
"""

from ad_assets.prediction.loading import load_detector
from ad_assets.prediction.lookup import DetectorError
from ad_assets.prediction.predictor import Image, Prediction, Predictor

__all__ = ["DetectorError", "Image", "Prediction", "Predictor", "load_detector"]
