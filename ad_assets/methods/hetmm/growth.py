"""A template set of all images that grew: a distance is the smallest over templates, so new ones can only lower it.

Products of other numbers of templates may round otherwise, so distances are those of a match of all to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.growth import Growth
from ad_assets.methods.hetmm.templates import TemplateSet
from ad_assets.methods.runtime import Runtime


class Search(Protocol):
    """What finds distances to templates, as `Hetmm.search` does."""

    def search(self, state: TemplateSet, batch: Batch, runtime: Runtime) -> Matches:
        """As `Hetmm.search`."""


class TemplateGrowth(Growth):
    """That of a set of all images."""

    def __init__(self, method: Search, state: TemplateSet, added: Collection[str], runtime: Runtime) -> None:
        super().__init__(added)
        self._method, self._runtime = method, runtime
        numbers = [number for number, image_id in enumerate(state.image_ids) if image_id in self.added]
        ids = [state.image_ids[number] for number in numbers]
        self._new = replace(state, templates=[own[:, :, numbers] for own in state.templates], image_ids=ids)

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`; an image has no template among the new ones."""
        import torch

        if not self.added:
            return batch.matches
        found = self._method.search(self._new, replace(batch, image_ids=None, left_out=False), self._runtime)
        return {name: torch.minimum(own, batch.matches[name].to(own.device)) for name, own in found.items()}
