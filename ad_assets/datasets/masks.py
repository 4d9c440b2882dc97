"""Ground truth masks: which pixels are anomalous, which are nominal, and which no pixel metric counts.

A mask with two values, one of them 0 (black), is read directly: the other value is anomalous, be it 1, 255 or a colour.
Any other mask must be declared by a `MaskRule` and is otherwise refused with the values found, since a threshold cannot
tell label maps, ignored borders, overlays and grey edges apart. Lossy formats (JPEG) never hold exactly two values:
values near black and near white count as black and white, and those between must be less than `_LOSSY_SHARE` of the
marked pixels, as along sharp edges.

Published datasets follow the code of their papers: see `AS_PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets.datasets.geometry import Shrink
from ad_assets_runtime.deep import is_deep, read_deep
from ad_assets_runtime.geometry import Mask
from ad_assets_runtime.images import UPRIGHT, RefusedPixels, eight_bit_rgb, frame_count, opened, orientation, turned

Channel = Literal["red", "green", "blue", "alpha"]
Ranges = tuple[tuple[int, int], ...]  # of values, both ends included

_CHANNELS: tuple[Channel, ...] = ("red", "green", "blue", "alpha")
_WITH_LOSSES = frozenset({"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"})
_LOSSY_NOISE = 48  # largest distance from 0 or 255 beside a sharp edge in such formats
_LOSSY_SHARE = 0.2
_SHOWN = 8
_REMEDY = (
    "a mask of 0 and one other value is read directly; declare any other kind with mask_values (what is anomalous), "
    "mask_ignore (what no metric counts) or mask_channel"
)


class MaskPixels(NamedTuple):
    """A decoded mask.

    Args:
        anomalous: ``(H, W)`` bool.
        ignored: ``(H, W)`` bool, pixels that no metric counts; None where there are none.
        mode: PIL mode of the file.
        strongest: its largest value, which in some datasets is the kind of defect.
        how: EXIF orientation of the file, whether or not it was applied.
        frames: pages or frames of the file.
    """

    anomalous: Mask
    ignored: Mask | None
    mode: str
    strongest: int
    how: int
    frames: int


@dataclass(frozen=True)
class MaskRule:
    """How the masks of a dataset are read.

    Args:
        values: ranges of anomalous values; None: all but 0, for masks of two values. Palettes count by index.
        ignore: ranges of values that no metric counts.
        channel: the channel of colour masks that holds the values.
        halved: rule of published datasets: anomalous is above half of the range if any pixel is, which cuts the grey
            edges of drawn masks halfway, else above zero, which reads defect numbers. Colours count by their largest
            channel.
        shrink: how regions smaller than a pixel of the score map are kept; see `geometry.Shrink`.
    """

    values: Ranges | None = None
    ignore: Ranges = ()
    channel: Channel | None = None
    halved: bool = False
    shrink: Shrink = "regions"

    def decode(self, data: bytes, path: str, *, turn: bool = True) -> MaskPixels:
        """Read a mask.

        Args:
            data: the file's bytes.
            path: its name in errors.
            turn: whether the EXIF orientation is applied.

        Raises:
            ImageError: it cannot be decoded, or has values that the rule does not cover.
        """
        with opened(data, path) as image:
            mode, frames = image.mode, frame_count(image)
            deep = read_deep(image, data).values if is_deep(image) else None
            how = orientation(image)  # which may decode the image, so comes after `is_deep`
            if self.halved:
                anomalous, strongest = _halves(image, deep)
                ignored = None
            else:
                anomalous, ignored, strongest = self._declared(image, deep)
            turn_by = how if turn else UPRIGHT
            ignored = None if ignored is None else turned(ignored, turn_by)
            return MaskPixels(turned(anomalous, turn_by), ignored, mode, strongest, how, frames)

    def _declared(self, image: Image.Image, deep: NDArray[np.uint16] | None) -> tuple[Mask, Mask | None, int]:
        lossy = image.format in _WITH_LOSSES
        plane = _Plane.of(image, self) if deep is None else _Plane.of_deep(deep, self)
        ignored = _within(plane.values, self.ignore) if self.ignore else None
        if self.values is None:
            return plane.two_valued(ignored, lossy=lossy), ignored, plane.strongest
        anomalous = _within(plane.values, self.values)
        return anomalous if ignored is None else anomalous & ~ignored, ignored, plane.strongest


def _halves(image: Image.Image, deep: NDArray[np.uint16] | None) -> tuple[Mask, int]:
    values = _strongest(eight_bit_rgb(image) if deep is None else deep)
    highest, half = int(values.max(initial=0)), 127 if deep is None else 32767
    return values > (half if highest > half else 0), highest


AS_PUBLISHED = MaskRule(halved=True, shrink="nearest")


class _Plane(NamedTuple):
    """One number per pixel, and what the numbers stand for.

    Args:
        values: ``(H, W)``: a grey value, a palette index, or a colour as 0xRRGGBB.
        names: value -> its name in messages, where that is not the number itself.
        black: the value that is black; None where a palette has no black.
        strongest: the largest value of any channel.
        opaque: ``(H, W)`` bool where transparency varies, else None.
    """

    values: NDArray[np.integer]
    names: dict[int, str]
    black: int | None
    strongest: int
    opaque: Mask | None = None

    @classmethod
    def of(cls, image: Image.Image, rule: MaskRule) -> _Plane:
        """The plane that a rule reads of an opened file of 8 bits.

        Raises:
            RefusedPixels: the mask has colours and the rule names no channel.
        """
        declared = rule.values is not None or bool(rule.ignore)
        if image.mode in ("1", "L"):
            if rule.channel:
                raise RefusedPixels(f"mask_channel {rule.channel}, but the mask is grey: leave mask_channel out")
            grey = np.array(image.convert("L"))
            return cls(grey, {}, 0, int(grey.max(initial=0)))
        if image.mode == "P" and rule.channel is None:
            return cls._palette(image, declared)
        return cls._colour(image, rule, declared)

    @classmethod
    def of_deep(cls, deep: NDArray[np.uint16], rule: MaskRule) -> _Plane:
        """As `of`, of ``(H, W)`` or ``(H, W, 3)`` values of 16 bits."""
        if deep.ndim == 2 and rule.channel:
            raise RefusedPixels(f"mask_channel {rule.channel}, but the mask is grey: leave mask_channel out")
        if deep.ndim == 3 and rule.channel == "alpha":
            raise RefusedPixels("mask_channel alpha of 16 bits: save the mask with 8")
        if deep.ndim == 3:
            deep = deep[..., _CHANNELS.index(rule.channel)] if rule.channel else _grey(deep)
        return cls(deep, {}, 0, int(deep.max(initial=0)))

    @classmethod
    def _palette(cls, image: Image.Image, declared: bool) -> _Plane:
        indices = np.array(image)
        rgba = np.array(image.convert("RGBA"))
        used, first = np.unique(indices, return_index=True)
        colours = {int(i): tuple(rgba.reshape(-1, 4)[at].tolist()) for i, at in zip(used, first, strict=True)}
        names = {i: f"{i} (colour {c[0]}, {c[1]}, {c[2]})" for i, c in colours.items()}
        blacks = [i for i, c in colours.items() if c[:3] == (0, 0, 0)]
        opaque = None if declared or (rgba[..., 3] == 255).all() else rgba[..., 3] > 0
        strongest = int(rgba[..., :3].max(initial=0))
        if declared:
            return cls(indices, names, 0, strongest)
        if len(blacks) > 1:  # several palette indices may have the same colour
            indices[np.isin(indices, blacks)] = blacks[0]
        return cls(indices, names, blacks[0] if blacks else None, strongest, opaque)

    @classmethod
    def _colour(cls, image: Image.Image, rule: MaskRule, declared: bool) -> _Plane:
        alpha = np.array(image.convert("RGBA").getchannel("A")) if _may_be_transparent(image) else None
        rgb = eight_bit_rgb(image)
        strongest = int(rgb.max(initial=0))
        if rule.channel == "alpha":
            if alpha is None:
                raise RefusedPixels("mask_channel alpha, but the mask has no alpha channel")
            return cls(alpha, {}, 0, int(alpha.max(initial=0)))
        if rule.channel:
            plane = rgb[..., _CHANNELS.index(rule.channel)]
            return cls(plane, {}, 0, int(plane.max(initial=0)))
        # Lossy formats tint greys slightly.
        nearly = _LOSSY_NOISE if image.format in _WITH_LOSSES else 0
        if _is_grey(rgb, nearly):
            values: NDArray[np.integer] = rgb[..., 0]
            names: dict[int, str] = {}
        elif declared:
            raise RefusedPixels(f"a mask in colours: declare which channel holds the values, mask_channel: {_CHANNELS}")
        else:
            wide = rgb.astype(np.int32)
            values = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
            names = _ColourNames()
        opaque = None if declared or alpha is None or (alpha == 255).all() else alpha > 0
        return cls(values, names, 0, strongest, opaque)

    def two_valued(self, ignored: Mask | None, *, lossy: bool) -> Mask:
        """``(H, W)`` bool, where the value is not black, for masks of black and one other value.

        Raises:
            RefusedPixels: the mask has more values.
        """
        anomalous: Mask = self.values != self.black
        counted = self.values if ignored is None else self.values[~ignored]
        marked = counted[counted != self.black]
        if lossy and not self.names:
            anomalous = self._without_noise(counted)
        elif marked.size and (self.black is None or marked.min() != marked.max()):
            raise RefusedPixels(f"{self._described(counted)}: {_REMEDY}")
        if ignored is not None:
            anomalous &= ~ignored
        if self.opaque is not None and not np.array_equal(self.opaque, anomalous):
            raise RefusedPixels(
                f"transparency that contradicts the colours ({_share(self.opaque)} is opaque, "
                f"{_share(anomalous)} is not black): declare mask_channel: alpha, red, green or blue"
            )
        return anomalous

    def _without_noise(self, counted: NDArray[np.integer]) -> Mask:
        between = (counted > _LOSSY_NOISE) & (counted < 255 - _LOSSY_NOISE)
        marked = int((counted > _LOSSY_NOISE).sum())
        if int(between.sum()) > _LOSSY_SHARE * marked:
            raise RefusedPixels(
                f"{self._described(counted)} in a lossy format, too many of them between black and white: save the "
                "mask as PNG, or declare mask_values, such as 128-255"
            )
        anomalous: Mask = self.values > 127
        return anomalous

    def _described(self, counted: NDArray[np.integer]) -> str:
        values, counts = np.unique(counted, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_SHOWN]
        shown = ", ".join(
            f"{self.names.get(int(values[i]), int(values[i]))} ({100 * counts[i] / max(1, counted.size):.2g} %)"
            for i in sorted(most)
        )
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        return f"mask of {len(values)} values: {shown}{more}"


class _ColourNames(dict[int, str]):
    """Names of packed colours: a mapping that has a name for every value."""

    def get(self, value: int, default: object = None) -> str:
        del default
        return f"colour {value >> 16}, {value >> 8 & 255}, {value & 255}"

    def __bool__(self) -> bool:
        return True


def _within(values: NDArray[np.integer], ranges: Sequence[tuple[int, int]]) -> Mask:
    inside: Mask = np.zeros(values.shape, np.bool_)
    for low, high in ranges:
        inside |= (values >= low) & (values <= high)
    return inside


def _strongest(values: NDArray[np.integer]) -> NDArray[np.integer]:
    return values.max(axis=2) if values.ndim == 3 else values


def _is_grey(rgb: NDArray[np.integer], nearly: int = 0) -> bool:
    return bool((rgb.max(axis=2) - rgb.min(axis=2)).max(initial=0) <= nearly)


def _grey(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    if not _is_grey(values):
        raise RefusedPixels("a mask in colours of 16 bits: declare mask_channel: red, green or blue")
    return values[..., 0]


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info


def _share(mask: Mask) -> str:
    return f"{100 * mask.mean():.2g} % of the image"
