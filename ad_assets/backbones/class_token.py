"""The class token of a transformer as a tap: one vector an image, which it is retrieved by."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

CLASS_TOKEN = "class_token"  # noqa: S105 - the name of the tap, whose map has one cell


def order_fault(taps: Sequence[str], *, tiled: bool) -> str:
    """Why taps cannot name the class token as they do, in words; empty where they can, or do not name it.

    >>> order_fault(["class_token", "blocks.11"], tiled=False)[:39]
    'class_token goes last, behind the block'
    """
    if CLASS_TOKEN not in taps:
        return ""
    if tiled:
        return f"tiles: each tile has a class token of its own; leave {CLASS_TOKEN} out of taps"
    if taps.index(CLASS_TOKEN) != len(taps) - 1 or len(taps) == 1:
        return f"{CLASS_TOKEN} goes last, behind the block whose class token it is"
    return ""


def absence_fault(network: nn.Module, backbone: str) -> str:
    """Why the class token of a network cannot be tapped, in words; empty where it can."""
    read = getattr(network, "forward_intermediates", None)
    given = read is not None and "return_prefix_tokens" in inspect.signature(read).parameters
    # Ahead of all other tokens wherever timm has one.
    if given and getattr(network, "cls_token", None) is not None:
        return ""
    return f"taps: {backbone} has no class token that timm gives; leave out {CLASS_TOKEN}"
