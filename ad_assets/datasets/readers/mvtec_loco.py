"""MVTec LOCO AD: Bergmann, Batzner, Fauser, Sattlegger, Steger, "Beyond Dents and Scratches", IJCV 2022.

5 categories with structural anomalies (dents, scratches) and logical ones (a part missing, misplaced or one too many).
Each anomaly of an image has its own mask file, whose pixels all have the number of its defect; ``defects_config.json``
gives the saturation threshold of each defect.

The paper's text gives 1772 training and 304 validation images; the archive holds 1778 and 305 (splicing_connectors: 360
and 60), which are the counts expected here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from ad_assets.datasets.base import AnomalyKind, DatasetError, Problem, Saturation, register_reader
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.readers.published import ImageCounts, WithValidation
from ad_assets.store.retry import StorageError

_KINDS: dict[str, AnomalyKind] = {"logical_anomalies": "logical", "structural_anomalies": "structural"}


@register_reader
class MvtecLocoReader(WithValidation):
    """Reader of the archive as it unpacks."""

    name: ClassVar[str] = "mvtec_loco"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec LOCO AD"
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-loco (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = """\
<category>/{train,validation}/good/NNN.png
<category>/test/{good,logical_anomalies,structural_anomalies}/NNN.png
<category>/ground_truth/{logical_anomalies,structural_anomalies}/NNN/NNN.png   (one file a region)
<category>/defects_config.json"""
    several_masks: ClassVar[bool] = True
    mask_place: ClassVar[str] = "ground_truth/{type}/{name}/NNN.png"
    counts: ClassVar[Mapping[str, ImageCounts]] = {
        "breakfast_box": ImageCounts(351, 102, 173),
        "juice_bottle": ImageCounts(335, 94, 236),
        "pushpins": ImageCounts(372, 138, 172),
        "screw_bag": ImageCounts(360, 122, 219),
        "splicing_connectors": ImageCounts(360, 119, 193),
    }
    validation_counts: ClassVar[Mapping[str, int]] = {
        "breakfast_box": 62,
        "juice_bottle": 54,
        "pushpins": 69,
        "screw_bag": 60,
        "splicing_connectors": 60,
    }

    def tables(self, category: str) -> tuple[str, ...]:
        return (f"{category}/defects_config.json",)

    def saturations(self, category: str) -> Mapping[int, Saturation]:
        (path,) = self.tables(category)
        try:
            return _saturations(json.loads(ImageFiles(self.root).read(path)))
        except StorageError:
            raise
        except FileNotFoundError:
            message = "is missing: it gives the saturation threshold of each defect; copy it from the archive"
        except (OSError, ValueError, TypeError, LookupError) as error:
            message = (
                "expected a list of defects with pixel_value, saturation_threshold and relative_saturation "
                f"({type(error).__name__}: {error}); copy it again from the archive"
            )
        raise DatasetError(f"{self.name} dataset at {self.root!r}, category {category!r}", [Problem(path, message)])

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        if parts[1:2] != ["ground_truth"]:
            return super()._as_mvtec(parts)
        if len(parts) != 5:
            return []
        *above, image, region = parts  # the masks of an image are in a folder of its name
        return [*above, image + PurePosixPath(region).suffix]

    def _kind(self, defect_type: str) -> AnomalyKind:
        return _KINDS.get(defect_type, "")


def _saturations(defects: Any) -> dict[int, Saturation]:
    saturations = {}
    for defect in defects:
        threshold, relative = float(defect["saturation_threshold"]), defect["relative_saturation"]
        if not threshold > 0 or not isinstance(relative, bool):
            raise ValueError(f"saturation_threshold {threshold}, relative_saturation {relative!r}")
        saturations[int(defect["pixel_value"])] = Saturation(threshold, relative)
    if not saturations:
        raise ValueError("it has none")
    return saturations
