"""What lies below the root of a dataset and belongs to none of its categories."""

from __future__ import annotations

from ad_assets.datasets.base import Problem, Reader
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.listing import Listing, broken_links


def misfits(reader: Reader, listing: Listing | None = None) -> list[Problem]:
    """The reader's `misfits`, and links directly below the root whose target is gone.

    Args:
        reader: the configured dataset.
        listing: of its root; made here if None, where the root can be seen.
    """
    if listing is None:
        try:
            listing = ImageFiles(reader.root).listing()
        except (ValueError, OSError):
            return []  # whoever needs the root tells of it
    links = [problem for problem in broken_links(listing) if "/" not in problem.path]
    return [*links, *reader.misfits(sorted(listing))]
