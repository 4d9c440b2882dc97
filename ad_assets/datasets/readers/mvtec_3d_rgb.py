"""The photographs of MVTec 3D-AD: Bergmann, Jin, Sattlegger, Steger, VISAPP 2022: 4147 scans of 10 categories.

Only ``rgb`` is read; the point clouds in ``xyz`` are not. Masks are beside the images, also for nominal test images,
where they are empty and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ad_assets.datasets.base import register_reader
from ad_assets.datasets.readers.published import ImageCounts, WithValidation


@register_reader
class Mvtec3dRgbReader(WithValidation):
    """Reader of the archive as it unpacks."""

    name: ClassVar[str] = "mvtec_3d_rgb"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec3D-RGB"
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = """\
<category>/{train,validation}/good/{rgb/NNN.png,xyz/NNN.tiff}
<category>/test/{good,<defect type>}/{rgb/NNN.png,xyz/NNN.tiff,gt/NNN.png}   (xyz is not read)"""
    image_place: ClassVar[str] = "test/{type}/rgb/{name}.png"
    mask_place: ClassVar[str] = "test/{type}/gt/{name}.png"
    counts: ClassVar[Mapping[str, ImageCounts]] = {
        "bagel": ImageCounts(244, 22, 88),
        "cable_gland": ImageCounts(223, 21, 87),
        "carrot": ImageCounts(286, 27, 132),
        "cookie": ImageCounts(210, 28, 103),
        "dowel": ImageCounts(288, 26, 104),
        "foam": ImageCounts(236, 20, 80),
        "peach": ImageCounts(361, 26, 106),
        "potato": ImageCounts(300, 22, 92),
        "rope": ImageCounts(298, 32, 69),
        "tire": ImageCounts(210, 25, 87),
    }
    validation_counts: ClassVar[Mapping[str, int]] = {
        "bagel": 22,
        "cable_gland": 23,
        "carrot": 29,
        "cookie": 22,
        "dowel": 34,
        "foam": 27,
        "peach": 42,
        "potato": 33,
        "rope": 33,
        "tire": 29,
    }

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        if len(parts) != 5:
            return []
        category, part, defect_type, content, name = parts
        if content == "rgb":
            return super()._as_mvtec([category, part, defect_type, name])
        return [category, "ground_truth", defect_type, name] if (part, content) == ("test", "gt") else []
