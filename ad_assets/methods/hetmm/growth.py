"""A template set of all images that grew: a distance is the smallest over templates, so new ones can only lower it.

Products of other numbers of templates may round otherwise, so distances are those of a match of all to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.growth import Growth
from ad_assets.methods.hetmm.templates import ABSENT, StoredTemplates, TemplateSet
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor


class Search(Protocol):
    """What finds distances to templates, as `Hetmm.search` does."""

    def search(self, state: TemplateSet, batch: Batch, runtime: Runtime) -> Matches:
        """As `Hetmm.search`."""


class TemplateGrowth(Growth):
    """That of a set of all images.

    Args:
        method: the configured method.
        state: the set.
        sources: (T,) the number of the image of each template, see `images_of_all`.
        added: as `Growth.added`.
        runtime: device and memory budget.
    """

    def __init__(
        self, method: Search, state: TemplateSet, sources: Tensor, added: Collection[str], runtime: Runtime
    ) -> None:
        super().__init__(added)
        self._method, self._runtime = method, runtime
        here = {number: state.image_ids[source] for number, source in enumerate(sources.tolist()) if source != ABSENT}
        new = [number for number, image_id in here.items() if image_id in self.added]
        ids = [here[number] for number in new]
        stored = state.templates
        templates = stored.of_images(new) if isinstance(stored, StoredTemplates) else [own[:, :, new] for own in stored]
        self._new = replace(state, templates=templates, sources=[], image_ids=ids)

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`; an image has no template among the new ones."""
        import torch

        if not self.added:
            return batch.matches
        found = self._method.search(self._new, replace(batch, image_ids=None, left_out=False), self._runtime)
        return {name: torch.minimum(own, batch.matches[name].to(own.device)) for name, own in found.items()}
