"""mSTC: ShanghaiTech Campus as Roth et al. (PatchCore, CVPR 2022) use it, scenes as categories.

Luo, Liu, Gao, "A revisit of sparse coding based anomaly detection in stacked RNN framework", ICCV 2017: cameras over
campus walkways, nominal training videos, test clips with a mask for each frame. mSTC takes every fifth frame of both
and measures the pixel AUROC. The papers do not say which frame is the first, nor whether scenes are averaged: here it
is frame 0, each scene is a category with detectors of its own, and their mean is reported.

The public release has 13 scenes in 330 training and 107 test clips. One scene has no test clips and is left out, which
leaves the 12 scenes of the papers.

`prepare` unpacks the chosen frames of a scene from `source` into `root`, once: frames of videos as PNG (tens of
gigabytes for all scenes), frames that are files already as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ad_assets.datasets.base import Candidate, Problem, ProgressReport, register_reader
from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.readers.folder import MvtecLayout
from ad_assets.datasets.readers.mstc.clips import Choice, Scene, scenes, unpack
from ad_assets.datasets.readers.unpacking import UnpackedReader, check_facts, make_once, warnings_of
from ad_assets.settings.home import without_tilde

CLIPS = {"training": 330, "test": 107}
PAPER_EVERY = 5
_SPLITS = {"train": "training", "test": "test"}


@register_reader
class MstcReader(UnpackedReader, MvtecLayout):
    """Reader of the published clips, through unpacked frames."""

    name: ClassVar[str] = "mstc"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "mSTC"
    decodes: ClassVar[Decoding] = PUBLISHED
    origin: ClassVar[str] = "https://svip-lab.github.io/dataset/campus_dataset.html (cite Luo et al. 2017)"
    layout: ClassVar[str] = """\
in source, as published:
  training/videos/SS_NNN.avi   (or training/frames/SS_NNN/FFF.jpg)
  testing/frames/SS_NNNN/FFF.jpg
  testing/test_pixel_mask/SS_NNNN.npy
  testing/test_frame_mask/SS_NNNN.npy
in root, unpacked from it:
  scene_SS/train/good/SS_NNN_FFFFF.png
  scene_SS/test/{good,anomalous}/SS_NNNN_FFFFF.jpg
  scene_SS/ground_truth/anomalous/SS_NNNN_FFFFF_mask.png"""

    every: int = Field(PAPER_EVERY, ge=1, description="every n-th frame of a clip is used")
    first: int = Field(0, ge=0, description="position of the first frame that is used")

    @property
    def compared_with(self) -> str | None:
        """The papers take every fifth frame."""
        return self.paper_dataset if self.every == PAPER_EVERY else None

    def categories(self) -> list[str]:
        """The scenes with training and test clips."""
        measurable = [name for name, lacking in self._scenes().items() if not lacking]
        if not measurable:
            where = f"source {self.source!r}" if self.source else f"root {self.root!r}"
            raise ValueError(f"no scene with training and test clips in the {where}: correct datasets.<name>.*")
        return measurable

    def left_out(self) -> dict[str, str]:
        """Scenes without training or without test clips."""
        return {
            name: f"has no {lacking} clips, so that it cannot be measured"
            for name, lacking in self._scenes().items()
            if lacking
        }

    def prepare(self, category: str | None = None, report: ProgressReport | None = None) -> None:
        """Unpack what is not unpacked yet; safe in several processes at once.

        Args:
            category: only this scene; None for all.
            report: called as ``report(what, done, total)`` after each clip.

        Raises:
            ValueError: a file of the source is missing or damaged, the scene has no training or test clips, or root
                holds frames unpacked with other options.
        """
        root = without_tilde(self.root)
        for name in self.categories() if category is None else (category,):
            if self.source is None:
                check_facts(root / name, self._facts)
            else:
                make_once(root / name, self._facts, partial(self._unpack, name, report))

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        return {name: candidates for name, candidates in super().assign(paths).items() if name.startswith("scene_")}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        problems = super().check_names(category, paths, candidates)
        messages = warnings_of(without_tilde(self.root) / category)
        return [*problems, *(Problem(category, message, "warning") for message in messages)]

    @property
    def _facts(self) -> dict[str, Any]:
        return {"reader": self.name, "version": self.version, "every": self.every, "first": self.first}

    def _scenes(self) -> dict[str, str]:
        """Scene -> which clips it lacks; empty text for none."""
        if self.source is not None:
            clips = {name: {"train": scene.train, "test": scene.test} for name, scene in self._published().items()}
            return {
                name: _lacking([split for split in of_split if of_split[split]]) for name, of_split in clips.items()
            }
        assigned = self.assign(list(ImageFiles(self.root).listing()))
        return {name: _lacking([candidate.split for candidate in assigned[name]]) for name in sorted(assigned)}

    def _published(self) -> dict[str, Scene]:
        source = without_tilde(self.source or "")
        if not source.is_dir():
            raise ValueError(
                f"the folder {self.source!r} does not exist: name the published one as datasets.<name>.source, or set "
                "source: null where root is unpacked already"
            )
        published = scenes(source)
        if self.check_counts:
            train, test = (sum(len(getattr(s, split)) for s in published.values()) for split in ("train", "test"))
            if {"training": train, "test": test} != CLIPS:
                raise ValueError(
                    f"{source}: expected {CLIPS['training']} training and {CLIPS['test']} test clips, found {train} "
                    f"and {test}: is the download complete? (check_counts: false accepts what is there)"
                )
        return published

    def _unpack(self, name: str, report: ProgressReport | None, folder: Path) -> list[str]:
        published = self._published()
        if name not in published:
            raise ValueError(f"{self.source!r} has no clips of {name!r}, only of {', '.join(published)}")
        scene = published[name]
        if not (scene.train and scene.test):
            raise ValueError(f"{name}: {self.left_out()[name]}")
        choice = Choice(self.every, self.first)
        return unpack(scene, without_tilde(self.source or ""), folder, choice, report or (lambda *_: None))


def _lacking(splits: Sequence[str]) -> str:
    return " and no ".join(word for split, word in _SPLITS.items() if split not in splits)
