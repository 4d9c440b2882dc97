"""How the files of a dataset become pixels: one frozen object that all callers decode with.

decoding = reader.decoding.of(*image_ids)     # at the bit depth that these images were indexed with
rgb = decoding.rgb(data, path)
mask = decoding.mask(data, path).anomalous
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ad_assets.datasets.masks import AS_PUBLISHED, MaskPixels, MaskRule
from ad_assets_runtime.decoding import ImageDecoding
from ad_assets_runtime.identity import TURNED, content_id


@dataclass(frozen=True)
class Decoding(ImageDecoding):
    """The decoding rules of a dataset.

    Args:
        bit_depth: n of pixels that are stored in 16 bits: 0..2**n - 1 is black to white. None: not known yet.
        turn: whether the EXIF orientation of images and masks is applied, as viewers do.
        masks: how masks are read.
    """

    masks: MaskRule = field(default_factory=MaskRule)

    def mask_id(self, sha256: str, *, turned: bool) -> str:
        """The id of the masks of an image; it includes a hash of the mask rule unless that is the default.

        Args:
            sha256: of the mask's bytes, or of all masks together.
            turned: whether the EXIF orientation of one is not upright.
        """
        rule_hash = "" if self.masks == MaskRule() else content_id(repr(self.masks).encode())
        return "-".join([sha256, *([rule_hash[:12]] if rule_hash else []), *([TURNED] if turned and self.turn else [])])

    def mask(self, data: bytes, path: str) -> MaskPixels:
        """Read a mask; see `MaskRule.decode`."""
        return self.masks.decode(data, path, turn=self.turn)


PUBLISHED = Decoding(turn=False, masks=AS_PUBLISHED)
