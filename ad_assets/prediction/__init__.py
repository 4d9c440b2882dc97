"""Scores new images with a fitted detector, by the graph's own code, without a run or a Dagster instance.

>>> from ad_assets.prediction import load_detector
>>> detector = load_detector("parts", "patchcore_10", "bolt", config="parts.yaml")
>>> prediction = detector.predict("new.png")
>>> prediction.anomalous, prediction.score_map.shape
(True, (64, 64))
"""

from ad_assets.prediction.feedback import give_feedback
from ad_assets.prediction.loading import load_detector
from ad_assets.prediction.lookup import DetectorError
from ad_assets.prediction.predictor import Image, Predictor
from ad_assets_runtime.prediction import Prediction

__all__ = ["DetectorError", "Image", "Prediction", "Predictor", "give_feedback", "load_detector"]
