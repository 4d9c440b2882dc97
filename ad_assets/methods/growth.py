"""How far the nominal images of a lane may grow before they are too many for the memory budget.

An update looks at the new images alone, so a lane gets past the number that a fit of all takes without a word, and
stops at its next fit. What is told here is told before.
"""

from __future__ import annotations

NEAR = 0.8  # of the most images


def outlook(images: int, most: int) -> str:
    """What to say of a lane of so many nominal images, of which `most` fit the budget; empty while it is far off."""
    if images <= NEAR * most:
        return ""
    so_far = "so the next fit of all, or scoring, is refused" if images > most else f"{most + 1} will be refused"
    return (
        f"{images} nominal images, and {most} are the most that fit compute.memory_gb: {so_far}; raise it if this "
        "machine has more, or take fewer images or smaller features"
    )
