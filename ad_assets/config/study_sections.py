"""The section of a study: the detectors it varies, and each variant as a detector of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any, TypeGuard

from ad_assets.config.benchmark import Detector, Study, Variant
from ad_assets.config.detector_sections import DetectorParser
from ad_assets.config.faults import key_text, shown
from ad_assets.config.spelling import plain

MOST_VARIANTS = 1000
MOST_NAME = 300  # characters of a variant's name


class StudyParser(DetectorParser):
    """Turns sections of studies into models, whose variants are sections of detectors with other values."""

    def study(
        self,
        name: str,
        section: object,
        path: str,
        detectors: Mapping[str, Detector],
        lanes: Mapping[str, Any],
    ) -> Study | None:
        options = self.mapping(section, path)
        self.only(options, ("base", "vary", "variants", "draws"), f"{path}.")
        several = isinstance(options.get("base"), list)
        bases = self._bases(options.get("base"), detectors, f"{path}.base")
        draws: Any = plain(options.get("draws", 1))
        if not _is_whole(draws) or not 1 <= draws <= 1000:
            self.faults.append(f"{path}.draws: a number of repetitions from 1 to 1000 (got {shown(draws)})")
        if ("vary" in options) == ("variants" in options):
            self.faults.append(f"{path}: give vary (lists of values, all combinations) or variants (named settings)")
            return None
        settings = self._variants(options, path)
        if not bases or not settings:
            return None
        variants = []
        for lane, (varied, own) in product(bases, settings.items()):
            variant = f"{lane}, {varied}" if several else varied
            place = f"{path}.{key_text(variant)}"
            if not variant.isprintable() or not 0 < len(variant) <= MOST_NAME:
                self.faults.append(f"{place}: a variant's name is up to {MOST_NAME} characters that can be seen")
                continue
            over = dict(own)
            images: Any = plain(over.pop("train_images", None))
            share: Any = plain(over.pop("contamination", None))
            if images is not None and (not _is_whole(images) or images < 1):
                self.faults.append(f"{place}: train_images is a number of images from 1 on (got {shown(images)})")
            if share is not None and not ((_is_whole(share) or isinstance(share, float)) and 0 <= share < 1):
                self.faults.append(
                    f"{place}: contamination is a part of the training images below 1 (got {shown(share)})"
                )
                share = None
            if images is not None and share is not None:
                self.faults.append(f"{place}: train_images and contamination both draw training images; give one")
            detector = self.detector(lane, lanes[lane], place, {}, over)
            if detector:
                variants.append(Variant(variant, detector, images, share))
        return Study(name, bases, tuple(variants), draws)

    def _bases(self, written: object, detectors: Mapping[str, Detector], path: str) -> tuple[str, ...]:
        """The detectors of a study; none if one of these is wrong."""
        methods = {lane: lane for lane, detector in detectors.items() if detector.method and not detector.joins}
        named = [self.choice(each, methods, path) for each in (written if isinstance(written, list) else [written])]
        bases = tuple(each for each in named if each)
        if not named or len(set(bases)) < len(bases):
            self.faults.append(f"{path}: a detector above, or a list of these without repetition")
        return bases if len(set(bases)) == len(named) else ()

    def _variants(self, options: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
        """Name -> what differs from the base."""
        if "variants" in options:
            named = self.mapping(options["variants"], f"{path}.variants")
            return {name: self.mapping(own, f"{path}.variants.{key_text(name)}") for name, own in named.items()}
        lists = self.mapping(options["vary"], f"{path}.vary")
        for key, values in lists.items():
            if not isinstance(values, list) or not values:
                self.faults.append(f"{path}.vary.{key_text(key)}: a list of values (got {shown(values)})")
                return {}
        count = prod(len(values) for values in lists.values())
        if count > MOST_VARIANTS:
            self.faults.append(f"{path}.vary: {count:,} combinations, at most {MOST_VARIANTS:,} are measured")
            return {}
        combined = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
        variants = {", ".join(f"{key}={_plain(value)}" for key, value in own.items()): own for own in combined}
        if len(variants) < len(combined):
            self.faults.append(f"{path}.vary: two combinations have one name, such as a value that is listed twice")
            return {}
        return variants


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; true is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: object) -> str:
    """A value of a study as people write it: ``all`` for null, ``9x7x5`` for a list."""
    if value is None:
        return "all"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
