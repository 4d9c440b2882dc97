"""Why figures differ: anomalib's bank scored by this project's code, which leaves the selection alone, or the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ad_assets.backbones.extractor import Extractor
from ad_assets.methods import METHODS, Batch, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.settings.compute import Compute
from ad_assets_runtime.decoding import ImageDecoding
from tests.peers.folders import CATEGORY
from tests.peers.judge import Scores
from tests.peers.lanes import Detector

BATCH = 16


def score_their_bank(images: Path, extractor: Extractor, detector: Detector, theirs: dict[str, Any]) -> Scores:
    """Score the test images with the rows that anomalib selected; all else is this project's.

    Args:
        images: root of the folder of images.
        extractor: of the images' features.
        detector: PatchCore.
        theirs: the arrays that anomalib's side wrote: paths, and ``bank`` (M, D) float32.
    """
    import torch

    from ad_assets.backbones.backbone import load_backbone

    backbone = load_backbone(extractor, Compute(device="cpu"))
    options = dict(detector.ours)
    method = METHODS[options.pop("method")](**options)
    rows, none = torch.from_numpy(theirs["bank"]), torch.zeros(len(theirs["bank"]), dtype=torch.int64)
    bank = MemoryBank(rows, none - 1, none, [], list(backbone.tap_shapes[0][1:]), 0.0)
    paths: list[str] = theirs["paths"].tolist()
    image, maps = [], []
    for first in range(0, len(paths), BATCH):
        files = [images / CATEGORY / "test" / path for path in paths[first : first + BATCH]]
        pixels = [backbone.preprocess(ImageDecoding().rgb(file.read_bytes(), file.name)) for file in files]
        batch = Batch(backbone.extract(backbone.stack(pixels)), extractor.map_size)
        scored = method.score(bank, batch, Runtime())
        image.append(scored.image_scores.numpy())
        maps.append(scored.maps.numpy())
    return Scores(paths, np.concatenate(image), np.concatenate(maps))
