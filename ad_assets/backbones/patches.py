"""Sides of images that a vision transformer takes: multiples of the side of its patches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ad_assets.backbones.extractor import Extractor


def named_patch(architecture: str) -> int | None:
    """The side of the patches of a transformer, pixels, which timm's names say; None: the name says none.

    >>> named_patch("vit_small_patch14_dinov2"), named_patch("resnet18")
    (14, None)
    """
    found = re.search(r"_patch([1-9][0-9]?)(_|$)", architecture)
    return int(found[1]) if found else None


def patch_fault(backbone: str, patch: tuple[int, int], size: tuple[int, int], *, cropped: bool) -> str:
    """Why an input is no whole number of patches, with the nearest ones that are; empty where it is.

    Args:
        backbone: its name.
        patch: height and width of a patch, pixels.
        size: height and width of the input.
        cropped: the input is a square that `crop` keeps, or else what `resize` gives.
    """
    if not any(side % step for side, step in zip(size, patch, strict=True)):
        return ""
    steps = list(zip(size, patch, strict=True))
    smaller = [max(step, side // step * step) for side, step in steps]
    larger = [-(-side // step) * step for side, step in steps]
    near = [smaller, larger] if smaller != larger else [smaller]
    if cropped:
        wanted = f"crop: {' or '.join(str(height) for height, _ in near)}"
    else:
        wanted = f"resize: {' or '.join(map(str, near))}"
    return (
        f"images of {size[0]}x{size[1]} are no whole number of the {patch[0]}x{patch[1]} patches of {backbone}: "
        f"write {wanted}"
    )


def fit_input_size(network: nn.Module, extractor: Extractor) -> None:
    """Let a network made for one size take the extractor's: its position embeddings are interpolated, as timm does.

    The interpolation is bicubic with antialiasing, and happens once. Networks with windows are left as they are: timm
    would give them windows of another size than they were trained with.

    Raises:
        ValueError: the size is no whole number of patches.
    """
    embedding = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if not isinstance(patch, tuple) or len(patch) != 2 or not hasattr(network, "num_prefix_tokens"):
        return
    fault = patch_fault(extractor.backbone, patch, extractor.frame_size, cropped=extractor.crop is not None)
    if fault:
        raise ValueError(fault)
    own = getattr(embedding, "img_size", None)
    # Others interpolate in every pass, as DINOv3 in timm does.
    strict = getattr(embedding, "strict_img_size", False)
    if strict and own and tuple(own) != extractor.frame_size and hasattr(network, "set_input_size"):
        network.set_input_size(extractor.frame_size)  # type: ignore[operator]
