"""Features held in memory, as methods see those of the store."""

from collections.abc import Sequence

import torch

from ad_assets.methods import Features


def tap_features(taps: Sequence[torch.Tensor], batch_size: int = 4) -> Features:
    """Images called ``image-0``, ``image-1``, ... with these taps, each (N, C, h, w)."""
    ids = tuple(f"image-{i}" for i in range(len(taps[0])))

    def load(wanted: Sequence[str], layers: tuple[int, ...] | None) -> list[torch.Tensor]:
        rows = [ids.index(image) for image in wanted]
        return [taps[layer][rows] for layer in layers or range(len(taps))]

    return Features(ids, load, batch_size)
