"""Feature maps whose vectors have length one, channel by channel.

A norm over channels that lie far apart in memory takes torch five times as long as this: whole maps are squared and
added, in the order in which torch adds them, so the result is the same. (Torch's root of a tensor is not rounded to the
nearest; those of its norms are, as NumPy's.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHORTEST = 1e-12  # as `torch.nn.functional.normalize` has it


def unit_vectors(tap: Tensor) -> Tensor:
    """A feature map (B, C, h, w) floating point with vectors of length one over C, on its device."""
    far_apart = tap.is_contiguous() and tap.shape[2:].numel() > 1
    if tap.device.type != "cpu" or tap.dtype != torch.float32 or not far_apart:
        return torch.nn.functional.normalize(tap, dim=1)
    first, *others = tap.unbind(1)
    squares, own = first * first, torch.empty_like(first)
    for channel in others:
        squares += torch.mul(channel, channel, out=own)
    lengths = torch.from_numpy(np.sqrt(squares.numpy()))
    return tap / lengths.clamp_min_(SHORTEST).unsqueeze(1)
