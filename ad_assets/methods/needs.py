"""What a method needs of the machine for so many nominal images, worked out from shapes, before anything runs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MOST = 10**9  # images; what takes as many has no bound worth telling
NEAR = 0.8  # of the most images that fit the budget: from here on `growth_warning` speaks


@dataclass(frozen=True)
class Needs:
    """Bytes that a fit, and what is read before images are scored, hold at once; by what they are.

    What does not grow with images, as kernels' temporary tensors, keeps to the budget by itself and is not counted.

    Args:
        at_once: in main memory whatever the budget; what is larger than it is refused.
        held: in main memory each, if the budget holds it, else in a temporary file.
        kept: in main memory each, if the budget holds it, else read again from the stored features.
        stored: bytes of the state in the store.
    """

    at_once: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0

    def memory(self, budget_gb: float) -> int:
        """Bytes in main memory."""
        fitting = [size for size in (*self.held.values(), *self.kept.values()) if size <= 1e9 * budget_gb]
        return sum(self.at_once.values()) + sum(fitting)

    def disk(self, budget_gb: float) -> int:
        """Bytes in temporary files."""
        return sum(size for size in self.held.values() if size > 1e9 * budget_gb)

    def fits(self, budget_gb: float) -> bool:
        """Whether nothing is refused for want of main memory."""
        return all(size <= 1e9 * budget_gb for size in self.at_once.values())

    def sentence(self, budget_gb: float) -> str:
        """In words, for people.

        >>> Needs(at_once={"bounds": 2 * 10**9}, held={"rows": 30 * 10**9}, stored=30 * 10**9).sentence(4)
        '2 GB in memory, 30 GB in temporary files, a state of 30 GB'
        """
        said = [f"{self.memory(budget_gb) / 1e9:.2g} GB in memory"]
        said += [f"{disk / 1e9:.2g} GB in temporary files"] if (disk := self.disk(budget_gb)) else []
        return ", ".join([*said, f"a state of {self.stored / 1e9:.2g} GB"] if self.stored else said)


def most_images(needs: Callable[[int], Needs], budget_gb: float) -> int | None:
    """The most nominal images of which nothing is refused; None: there is no such bound.

    Args:
        needs: of so many images.
        budget_gb: in main memory.
    """
    if needs(MOST).fits(budget_gb):
        return None
    return bisect_left(range(1, MOST), True, key=lambda images: not needs(images).fits(budget_gb))


def growth_warning(images: int, most: int) -> str:
    """Warns that a detector's nominal images will soon be, or are, too many for the budget; empty while they are few.

    An update reads the new images alone, so a detector may grow past what a fit of all takes, and fail at its next fit.

    Args:
        images: nominal images of the detector.
        most: how many fit the budget (`most_images`).
    """
    if images <= NEAR * most:
        return ""
    so_far = "so the next fit of all, or scoring, is refused" if images > most else f"{most + 1} will be refused"
    return (
        f"{images} nominal images, and {most} are the most that fit compute.memory_gb: {so_far}; raise it if this "
        "machine has more, or take fewer images or smaller features"
    )


def disk_warning(needs: Needs, budget_gb: float, free: int, folder: str) -> str:
    """Warns that a fit of all will not find room for its temporary files; empty where it will.

    Args:
        needs: of the images that there are.
        budget_gb: in main memory.
        free: bytes that the disk of the temporary files has left.
        folder: where they lie.
    """
    needed = needs.disk(budget_gb)
    if needed <= free:
        return ""
    return (
        f"a fit of all keeps {needed / 1e9:.3g} GB in temporary files, and {folder} has {free / 1e9:.3g} GB left: it "
        "will be refused; set TMPDIR to a folder on a larger disk, or raise compute.memory_gb if this machine has more"
    )
