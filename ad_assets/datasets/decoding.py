"""How the files of a dataset become pixels: one frozen object for all who decode them.

decoding = reader.decoding.of(*image_ids)     # at the bit depth that these images were indexed with
rgb = decoding.rgb(data, path)
mask = decoding.mask(data, path).anomalous
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ad_assets.datasets.deep import is_deep, read_deep
from ad_assets.datasets.identity import TURNED, content_id, depth_of, image_id
from ad_assets.datasets.images import (
    UPRIGHT,
    ImageError,
    RgbImage,
    eight_bit_rgb,
    frame_count,
    opened,
    orientation,
    turned,
)
from ad_assets.datasets.masks import AS_PUBLISHED, MaskPixels, MaskRule


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image as all who look at it see it, and what its file says.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        mode: PIL mode of the file.
        depth: that its pixels were scaled by; None for those of 8 bits.
        largest: of deeper pixels, the largest value.
        told_depth: of deeper pixels, what the file's tags say; 0 where they say nothing.
        how: the EXIF orientation that the file has, whether or not it was followed.
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
class Decoding:
    """The rules of a dataset.

    Args:
        bit_depth: of pixels that are stored in 16 bits: 0..2**n - 1 is black to white. None: not known yet.
        turn: whether images and masks are turned as their own EXIF orientation says, as viewers show them; else pixels
            stay as they are stored.
        masks: how masks are read.
    """

    bit_depth: int | None = None
    turn: bool = True
    masks: MaskRule = field(default_factory=MaskRule)

    def of(self, *image_ids: str) -> Decoding:
        """The same at the depth that some images were indexed with, where any of them is deep."""
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
            ImageError: no image that can be decoded, or one beyond the bit depth.
        """
        return self.identified(data, path)[1]

    def identified(self, data: bytes, path: str) -> tuple[str, RgbImage]:
        """The id and the pixels of an image; see `rgb`."""
        decoded = self.inspect(data, path)
        if decoded.largest is not None and self.bit_depth is None:
            raise ImageError(
                path,
                f"has pixels of more than 8 bits, up to {decoded.largest}, and no image of its dataset tells how deep "
                "they are: set bit_depth for the dataset",
            )
        if decoded.largest is not None and decoded.depth != self.bit_depth:
            raise ImageError(path, beyond_depth(decoded.largest, self.bit_depth or 0))
        turned = self.turn and decoded.how != UPRIGHT
        return image_id(content_id(data), decoded.depth, turned=turned), decoded.rgb

    def inspect(self, data: bytes, path: str) -> DecodedImage:
        """Decode an image whose depth is not settled yet, or goes beyond that of its dataset: then by its own.

        Args:
            data: the file's bytes.
            path: its name in errors.

        Raises:
            ImageError: no image that can be decoded.
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

    def mask_id(self, sha256: str, *, turned: bool) -> str:
        """The address of the masks of an image, which names every rule but the usual one of own images.

        Args:
            sha256: of the mask's bytes, or of all masks together.
            turned: whether EXIF says that one is turned.
        """
        told = "" if self.masks == MaskRule() else content_id(repr(self.masks).encode())
        return "-".join([sha256, *([told[:12]] if told else []), *([TURNED] if turned and self.turn else [])])

    def mask(self, data: bytes, path: str) -> MaskPixels:
        """Read a mask; see `MaskRule.decode`."""
        return self.masks.decode(data, path, turn=self.turn)


def beyond_depth(largest: int, depth: int) -> str:
    """What is said of an image whose values do not fit the depth of its dataset."""
    return (
        f"has a pixel of {largest}, but images are read with {depth} bits (up to {(1 << depth) - 1}): set bit_depth to "
        "what the camera has"
    )


PUBLISHED = Decoding(turn=False, masks=AS_PUBLISHED)
