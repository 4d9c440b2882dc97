"""A method with what it has learnt, ready to score images: test images, nominal ones left out, and new ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.graph.stages.kept_matches import MatchMemory
from ad_assets.methods import Batch, Features, LoadMatches, Matches, Method, Runtime, State
from ad_assets.methods.data import NominalScores
from ad_assets.methods.near_copies import near_copy_groups
from ad_assets.methods.nominal_scoring import FindCopies, Scored, nominal_scores

if TYPE_CHECKING:
    from torch import Tensor


def _untimed(step: str) -> None:
    del step


class Scorer:
    """A method with what it has learnt, ready to score images.

    Args:
        method: the configured method.
        state: as it was stored.
        train: the features it was fitted on.
        load_matches: reads stored matches of images with the state; None: none are stored.
        map_size: height and width of the maps.
        runtime: device and memory budget.
        step_done: called with the name of each step of scoring a batch, at its end: ``match`` and then ``post`` of
            methods that match first, else ``score``.
        map_step: pixels of the extractor's input to a pixel of the maps, by which smoothing is scaled.
        region: ``(H, W)`` bool, the region of interest in the frame of the maps; None: all is inspected.
        memory: takes what images find in the state, and knows what they found in an earlier one; None: neither.
    """

    def __init__(
        self,
        method: Method[Any],
        state: State,
        train: Features,
        load_matches: LoadMatches | None,
        map_size: tuple[int, int],
        runtime: Runtime,
        step_done: Callable[[str], None] = _untimed,
        *,
        map_step: int = 1,
        region: Tensor | None = None,
        memory: MatchMemory | None = None,
    ) -> None:
        method = method.at_step(map_step)
        self._method, self._load_matches, self._map_size, self._runtime = method, load_matches, map_size, runtime
        self._learnt, self._step_done = state, step_done
        self._region, self._memory = region, memory
        inspected = replace(train, region=region)
        self._state = method.prepare(state, inspected, runtime, load_matches).to(runtime.device)

    @property
    def method(self) -> Method[Any]:
        """The method as it scores."""
        return self._method

    @property
    def state(self) -> State:
        """The state as the method reads it, on the device."""
        return self._state

    @property
    def region(self) -> Tensor | None:
        """The region of interest in the frame of the maps, ``(H, W)`` bool; None: all is inspected."""
        return self._region

    @property
    def runtime(self) -> Runtime:
        """Where it scores."""
        return self._runtime

    def __call__(self, images: Features, *, left_out: bool = False, new: bool = False) -> Scored:
        """Yield ``(image ids, scores)`` batch by batch.

        Args:
            images: those to score.
            left_out: as `Batch` has it.
            new: no matches of these images are stored.
        """
        for ids, matches in self._matches(images, left_out, stored=not (left_out or new)):
            if matches:
                self._step_done("match")
            batch = Batch(images.load(ids, images.layers), self._map_size, ids, left_out, matches, self._region)
            scores = self._method.score(self._state, batch, self._runtime)
            self._step_done("post" if matches else "score")
            yield ids, scores

    def nominal(
        self,
        train: Features,
        most: int,
        by_group: bool = False,
        declared: Sequence[frozenset[str]] = (),
        find_copies: FindCopies = near_copy_groups,
    ) -> NominalScores:
        """Scores of nominal images for a threshold; see `nominal_scores`."""
        method, inspected = self._method, replace(train, region=self._region)

        def without(images: Collection[str]) -> Callable[..., Scored]:
            other = copy(self)
            other._state = method.without(self._state, images, inspected, self._runtime).to(self._runtime.device)
            other._memory = self._memory.without(method, images, inspected, self._runtime) if self._memory else None
            return partial(other, new=True)

        return nominal_scores(
            method,
            train,
            method.held_out_ids(self._learnt),
            most,
            partial(self, left_out=method.leaves_out),
            without,
            self._runtime,
            by_group=by_group,
            declared=declared,
            find_copies=find_copies,
        )

    def _matches(self, images: Features, left_out: bool, *, stored: bool) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Stored matches, or else new ones; those of left-out images are never stored."""
        if self._load_matches and stored:
            for ids in images.id_batches():
                yield ids, self._load_matches(ids)
        elif self._memory:
            images = replace(images, region=self._region)
            yield from self._memory.matched(self._method, self._state, images, self._runtime, left_out=left_out)
        elif self._method.matched:
            yield from self._method.match(self._state, images, self._runtime, left_out=left_out)
        else:  # scores search
            for ids in images.id_batches():
                yield ids, {}
