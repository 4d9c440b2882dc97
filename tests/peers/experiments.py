"""Why figures differ: what anomalib drew, used by this project's code, which leaves the draw alone, or the code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.backbones.extractor import Extractor
from ad_assets.methods import METHODS, Batch, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.settings.compute import Compute
from ad_assets_runtime.decoding import ImageDecoding
from tests.peers.folders import CATEGORY
from tests.peers.judge import Scores
from tests.peers.lanes import Detector
from tests.support.tap_features import tap_features

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods import ScoreMaps

    Score = Callable[[list[Tensor]], ScoreMaps]

BATCH = 16


def score_their_draw(images: Path, extractor: Extractor, detector: Detector, theirs: dict[str, Any]) -> Scores:
    """Score the test images with the rows, or the channels, that anomalib drew; all else is this project's.

    Args:
        images: root of the folder of images.
        extractor: of the images' features.
        detector: PatchCore or PaDiM.
        theirs: the arrays that anomalib's side wrote: paths, and ``bank`` (M, D) float32 or ``channels`` (D,) int64.
    """
    from ad_assets.backbones.backbone import load_backbone

    backbone = load_backbone(extractor, Compute(device="cpu"))

    def taps_of(files: Sequence[Path]) -> list[Tensor]:
        pixels = [backbone.preprocess(ImageDecoding().rgb(file.read_bytes(), file.name)) for file in files]
        return backbone.extract(backbone.stack(pixels))

    root = images / CATEGORY
    paths: list[str] = theirs["paths"].tolist()
    score = (
        _by_rows(detector, theirs["bank"], backbone.tap_shapes[0][1:], extractor)
        if "bank" in theirs
        else _by_channels(theirs["channels"], _batches(sorted(root.glob("train/good/*"))), taps_of, extractor)
    )
    scored = [score(taps_of(files)) for files in _batches([root / "test" / path for path in paths])]
    return Scores(
        paths,
        np.concatenate([each.image_scores.numpy() for each in scored]),
        np.concatenate([each.maps.numpy() for each in scored]),
    )


def _by_rows(detector: Detector, rows: NDArray[np.float32], grid: Sequence[int], extractor: Extractor) -> Score:
    """PatchCore with a bank of some rows."""
    import torch

    options = dict(detector.ours)
    method = METHODS[options.pop("method")](**options)
    none = torch.zeros(len(rows), dtype=torch.int64)
    bank = MemoryBank(torch.from_numpy(rows), none - 1, none, [], list(grid), 0.0)
    return lambda taps: method.score(bank, Batch(taps, extractor.map_size), Runtime())


def _by_channels(
    channels: NDArray[np.int64],
    batches: Sequence[Sequence[Path]],
    taps_of: Callable[[Sequence[Path]], list[Tensor]],
    extractor: Extractor,
) -> Score:
    """PaDiM on some channels: all channels of one tap that has no others."""
    import torch
    from torch.nn.functional import interpolate

    def chosen(taps: list[Tensor]) -> Tensor:
        joined = [taps[0], *(interpolate(tap, taps[0].shape[2:], mode="nearest") for tap in taps[1:])]
        return torch.cat(joined, dim=1)[:, torch.from_numpy(channels)]

    features = tap_features([torch.cat([chosen(taps_of(files)) for files in batches])], BATCH)
    method = METHODS["padim"](channels=None)
    state = method.prepare(method.fit(features, Runtime()), features, Runtime())
    return lambda taps: method.score(state, Batch([chosen(taps)], extractor.map_size), Runtime())


def _batches(files: Sequence[Path]) -> list[Sequence[Path]]:
    return [files[first : first + BATCH] for first in range(0, len(files), BATCH)]
