"""How image files become pixels: one frozen object that all callers decode with.

rgb = ImageDecoding(bit_depth=12).rgb(data, path)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ad_assets_runtime.deep import is_deep, read_deep
from ad_assets_runtime.identity import content_id, depth_of, image_id
from ad_assets_runtime.images import (
    UPRIGHT,
    ImageError,
    RgbImage,
    eight_bit_rgb,
    frame_count,
    opened,
    orientation,
    turned,
)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image and facts of its file.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        mode: PIL mode of the file.
        depth: bits that its pixels were scaled by; None for pixels of 8 bits.
        largest: the largest value, for pixels of more than 8 bits.
        told_depth: bits declared by the file's tags, for pixels of more than 8 bits; 0 where they declare none.
        how: EXIF orientation of the file, whether or not it was applied.
        frames: pages or frames of the file.
    """

    rgb: RgbImage
    mode: str
    depth: int | None
    largest: int | None
    told_depth: int
    how: int
    frames: int


@dataclass(frozen=True)
class ImageDecoding:
    """The rules by which the images of a dataset are decoded.

    Args:
        bit_depth: n of pixels that are stored in 16 bits: 0..2**n - 1 is black to white. None: not known yet.
        turn: whether the EXIF orientation is applied, as viewers do.
    """

    bit_depth: int | None = None
    turn: bool = True

    def of(self, *image_ids: str) -> Self:
        """The same rules at the bit depth that these images were indexed with, where any has more than 8 bits."""
        depths = {depth for image_id in image_ids if (depth := depth_of(image_id))}
        return replace(self, bit_depth=max(depths)) if depths else self

    def rgb(self, data: bytes, path: str) -> RgbImage:
        """Decode an image to ``(H, W, 3)`` uint8.

        Grey is repeated over the channels; pixels of more than 8 bits are scaled by the bit depth; palettes are looked
        up; alpha is dropped, not blended; of several frames the first is taken.

        Args:
            data: the file's bytes.
            path: its name in errors.

        Raises:
            ImageError: it cannot be decoded, or its values exceed the bit depth.
        """
        return self.identified(data, path)[1]

    def identified(self, data: bytes, path: str) -> tuple[str, RgbImage]:
        """The id and the pixels of an image; see `rgb`."""
        decoded = self.inspect(data, path)
        if decoded.largest is not None and self.bit_depth is None:
            raise ImageError(
                path,
                f"has pixels of more than 8 bits, up to {decoded.largest}, and no indexed image of its dataset gives "
                "their bit depth: set bit_depth for the dataset",
            )
        if decoded.largest is not None and decoded.depth != self.bit_depth:
            raise ImageError(path, beyond_depth(decoded.largest, self.bit_depth or 0))
        turned = self.turn and decoded.how != UPRIGHT
        return image_id(content_id(data), decoded.depth, turned=turned), decoded.rgb

    def inspect(self, data: bytes, path: str) -> DecodedImage:
        """Decode an image at the bit depth of the dataset; where that is unknown or too small, at the image's own.

        Args:
            data: the file's bytes.
            path: its name in errors.

        Raises:
            ImageError: it cannot be decoded.
        """
        with opened(data, path) as image:
            mode, frames = image.mode, frame_count(image)
            deep = read_deep(image, data) if is_deep(image) else None
            how = orientation(image)  # which may decode the image, so comes after `is_deep`
            if deep is None:
                rgb = turned(eight_bit_rgb(image), how if self.turn else UPRIGHT)
                return DecodedImage(rgb, mode, None, None, 0, how, frames)
            fits = self.bit_depth is not None and not deep.largest >> self.bit_depth
            depth = self.bit_depth if self.bit_depth and fits else deep.depth
            rgb = turned(deep.scaled(depth), how if self.turn else UPRIGHT)
            return DecodedImage(rgb, mode, depth, deep.largest, deep.told_depth, how, frames)


def beyond_depth(largest: int, depth: int) -> str:
    """The message for an image whose values exceed the bit depth of its dataset."""
    return (
        f"has a pixel of {largest}, but images are read with {depth} bits (up to {(1 << depth) - 1}): set bit_depth to "
        "what the camera has"
    )
