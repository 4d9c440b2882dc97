"""Options for reading a user's own images and masks."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from ad_assets.datasets.base import Reader
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.geometry import Shrink
from ad_assets.datasets.masks import Channel, MaskRule, Ranges

_RANGE = re.compile(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*")
_TOP = 65535


class DecodingOptions(Reader):
    """Base of readers of a user's own images, which have no published decoding rules."""

    bit_depth: Literal["auto"] | int = Field(
        "auto",
        description="bits of pixels that are stored in 16: 8 to 16; auto: as TIFF tags declare, else the smallest of "
        "8, 10, 12, 14, 16 that holds the largest value of the category",
    )
    mask_values: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="values of anomalous mask pixels, such as [1, 8] or [128-255]; null: masks have two values, 0 and "
        "another. Palettes count by index",
    )
    mask_ignore: tuple[int | str, ...] = Field((), description="values of mask pixels that no pixel metric counts")
    mask_channel: Channel | None = Field(None, description="channel of colour masks that holds the values")
    mask_shrink: Shrink = Field(
        "regions",
        description="how masks are reduced to a smaller frame; regions: the nearest pixel, and for a region without "
        "one all that it touches; any_pixel: all pixels that a region touches; nearest: small regions may vanish",
    )

    @field_validator("bit_depth", mode="before")
    @classmethod
    def _known_depth(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 8 <= value <= 16):
            raise ValueError(f"bit_depth is auto or a number from 8 to 16, got {value!r}")
        return value

    @field_validator("mask_values", "mask_ignore", mode="before")
    @classmethod
    def _known_values(cls, value: Any) -> Any:
        if value is None:
            return value
        for each in value if isinstance(value, list | tuple) else (value,):
            _range(each)
        return value if isinstance(value, list | tuple) else (value,)

    @property
    def decoding(self) -> Decoding:
        """The rules that these options define."""
        masks = MaskRule(
            values=None if self.mask_values is None else _ranges(self.mask_values),
            ignore=_ranges(self.mask_ignore),
            channel=self.mask_channel,
            shrink=self.mask_shrink,
        )
        return Decoding(bit_depth=None if self.bit_depth == "auto" else int(self.bit_depth), masks=masks)


def _ranges(values: tuple[int | str, ...]) -> Ranges:
    return tuple(sorted({_range(value) for value in values}))


def _range(value: Any) -> tuple[int, int]:
    """Both ends of a number or of a range such as 128-255.

    Raises:
        ValueError: it is neither.
    """
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    low, high = (int(match[1]), int(match[2])) if match else (value, value)
    if isinstance(low, bool) or not isinstance(low, int) or not 0 <= low <= high <= _TOP:
        raise ValueError(f"mask values are numbers from 0 to {_TOP} or ranges such as 128-255, got {value!r}")
    return low, high
