"""Features of many images, made when they are read, so that they take no room."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ad_assets.methods import Features

KINDS, INNER = 60, 6  # kinds of patches, and the dimensions in which those of one kind differ


class MadeFeatures:
    """One tap (B, channels, side, side) of images that are called by number.

    Args:
        channels: of the tap.
        side: of the tap.
    """

    def __init__(self, channels: int, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.centres = 2 * torch.randn(KINDS, channels, generator=generator)
        self.bases = 0.15 * torch.randn(KINDS, INNER, channels, generator=generator)
        self.side = side

    def features(self, first: int, count: int, batch_size: int = 16) -> Features:
        """So many images from a number on."""
        ids = tuple(f"{number:08d}" for number in range(first, first + count))
        return Features(ids, lambda some, _: [torch.stack([self.image(int(each)) for each in some])], batch_size)

    def image(self, number: int, odd: float = 0.0) -> Tensor:
        """(channels, side, side) of one image; `odd`: how far one of its patches lies off, in every dimension."""
        generator = torch.Generator().manual_seed(number)
        patches = self.side**2
        kinds = torch.randint(KINDS, (patches,), generator=generator)
        inside = torch.randn(patches, 1, INNER, generator=generator)
        rows = self.centres[kinds] + torch.bmm(inside, self.bases[kinds])[:, 0]
        rows += 0.05 * torch.randn(rows.shape, generator=generator)
        rows[0] += odd * torch.randn(rows.shape[1], generator=generator)
        return rows.T.unflatten(1, (self.side, self.side))

    def odd_images(self, first: int, count: int, odd: float) -> Sequence[Tensor]:
        """Taps (1, channels, side, side) of anomalous images."""
        return [self.image(number, odd)[None] for number in range(first, first + count)]
