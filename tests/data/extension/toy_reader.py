"""The toy reader of the docs: ``<category>/<train or test>_<good or defect type>_<anything>.png``, without masks."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from ad_assets.datasets import Candidate, ImageFiles, Reader, register_reader


@register_reader
class FlatReader(Reader):
    name: ClassVar[str] = "flat"
    version: ClassVar[int] = 1

    def categories(self) -> list[str]:
        return sorted(self.assign(sorted(ImageFiles(self.root).listing())))

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        found: dict[str, list[Candidate]] = {}
        for path in paths:
            place = PurePosixPath(path)
            split, kind, _ = place.name.split("_", 2)
            found.setdefault(place.parts[0], []).append(Candidate(path, split, int(kind != "good"), kind))
        return found
