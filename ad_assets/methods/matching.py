"""Methods that first look for something in the state for every patch, which costs most, and then score what they found.

What was found depends on the state and on few parameters, so it is an asset of its own between the two: another number
of neighbours, another weight or smoothing costs no search.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ad_assets.methods.base import Features, Method, Runtime, ScoreMaps, StateT

if TYPE_CHECKING:
    from torch import Tensor

Found = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Matches:
    """What was found for images, loaded batch by batch.

    Args:
        load: maps image ids to tensors by name, each ``(B, ...)``.
    """

    load: Callable[[Sequence[str]], Found]


class MatchingMethod(Method[StateT]):
    """A method with a step between `fit` and `score`.

    Class facts: `matched`, the splits whose images are matched.
    """

    matched: ClassVar[tuple[Literal["train", "test"], ...]] = ("test",)

    @abstractmethod
    def match(
        self, state: StateT, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Found]]:
        """Yield ``(image ids, tensors by name, each (B, ...))`` for all images, in their order.

        Images that were trained on may be matched at less cost if they come together. With `left_out`, every image is
        matched with the state without what that took from it.
        """

    @abstractmethod
    def score(
        self,
        state: StateT,
        taps: list[Tensor],
        map_size: tuple[int, int],
        runtime: Runtime,
        *,
        image_ids: Sequence[str] | None = None,
        left_out: bool = False,
        found: Found | None = None,
    ) -> ScoreMaps:
        """As `Method.score`.

        Args:
            state: what `fit` returned.
            taps: each ``(B, C, h, w)`` float32.
            map_size: height and width of the maps.
            runtime: device and memory budget.
            image_ids: the B images.
            left_out: score every image without what the state took from it.
            found: what `match` yielded for these images; None: it is sought now.
        """

    def complete(self, state: StateT, train: Features, runtime: Runtime, matches: Matches | None = None) -> StateT:
        """As `Method.complete`.

        Args:
            state: as it was stored.
            train: the features it was fitted on.
            runtime: device and memory budget.
            matches: what `match` yielded for the images of `matched`; None: it was not kept.
        """
        del train, runtime, matches
        return state
