"""MVTec SL AD: MVTec AD with 37 of its 1258 anomalies, in 3 categories, labelled logical and all others structural.

Defined by Bergmann et al. (IJCV 2022, for GCAD) and used by HETMM. **Which 37 was never published**, and no union of
folders over three categories has 37 images. So the user gives the list (`manifest`), or `folder_proxy` stands in for
it: all 34 images of cable_swap, missing_cable and misplaced, whose results are not compared with published ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ad_assets.datasets.base import Candidate, DatasetError, Problem, register_reader
from ad_assets.datasets.readers.manifest import ManifestOption, read_file
from ad_assets.datasets.readers.mvtec_ad import MvtecAdReader
from ad_assets.datasets.readers.published import count_problem

LOGICAL_IMAGES = 37
HEADERS = frozenset({"path", "image_path"})
PROXY = frozenset({("cable", "cable_swap"), ("cable", "missing_cable"), ("transistor", "misplaced")})


@register_reader
class MvtecSlReader(ManifestOption, MvtecAdReader):
    """Reader of MVTec AD that distinguishes logical from structural anomalies."""

    name: ClassVar[str] = "mvtec_sl"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec SL AD"
    origin: ClassVar[str] = f"{MvtecAdReader.origin}; the list of logical images is unpublished: name your own"

    manifest: str | None = Field(
        None,
        min_length=1,
        description="text or CSV file whose lines begin with the path of a logical test image, such as "
        "cable/test/cable_swap/000.png; relative to the root (or an absolute path, or a URL)",
    )
    logical: Literal["manifest", "folder_proxy"] = Field(
        "folder_proxy",
        description="which images are logical: those of the manifest (the default where there is one), or the 34 of "
        "cable_swap, missing_cable and misplaced",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_the_manifest(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("manifest") is not None:
            return {"logical": "manifest", **values}
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> MvtecSlReader:
        if (self.logical == "manifest") != (self.manifest is not None):
            raise ValueError("logical: manifest needs manifest: <path>, and logical: folder_proxy has no use for one")
        return self

    @property
    def compared_with(self) -> str | None:
        """MVTec SL AD with a manifest; None for the proxy."""
        return self.paper_dataset if self.logical == "manifest" else None

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        listed = self._listed()

        def with_kind(category: str, candidate: Candidate) -> Candidate:
            if candidate.label != 1:
                return candidate
            logical = candidate.path in listed if self.manifest else (category, candidate.defect_type) in PROXY
            return replace(candidate, kind="logical" if logical else "structural")

        by_category = super().assign(paths)
        return {
            category: [with_kind(category, candidate) for candidate in by_category[category]]
            for category in by_category
        }

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        anomalous = {candidate.path for candidate in candidates if candidate.label == 1}
        message = f"listed as logical in {self.manifest}, but no anomalous test image has this path"
        listed = sorted(path for path in self._listed() if path.startswith(f"{category}/"))
        strangers = [Problem(path, message) for path in listed if path not in anomalous]
        return super().check_names(category, paths, candidates) + strangers

    def _listed(self) -> frozenset[str]:
        """The paths of the manifest; empty without one.

        Raises:
            DatasetError: it cannot be read, names paths outside the categories, or not the expected number.
        """
        if not self.manifest:
            return frozenset()
        data = read_file(self.root, self.manifest)
        try:
            cells = [row[0].strip() for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            problem = Problem(self.manifest, f"is no list of paths in UTF-8 ({error})")
            raise DatasetError("list of logical images", [problem]) from None
        listed = [
            cell.replace("\\", "/") for cell in cells if cell and not cell.startswith("#") and cell not in HEADERS
        ]
        problems = [
            Problem(
                self.manifest, f"{path!r} begins with none of the categories: expected cable/test/cable_swap/000.png"
            )
            for path in listed
            if path.split("/")[0] not in self.counts
        ]
        if self.check_counts and len(set(listed)) != LOGICAL_IMAGES:
            problems.append(count_problem(self.manifest, "logical", LOGICAL_IMAGES, len(set(listed))))
        if problems:
            raise DatasetError("list of logical images", problems)
        return frozenset(listed)
