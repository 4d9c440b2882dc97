"""The pages of a dataset's report where people open them: ``reports/<dataset>`` in the store, with links that lead on.

``index.html`` and ``categories/<category>.html`` are copies of what the artifacts hold, whose paths change with what
they are made from. So a link stays, and the folder can be copied, sent, or served from a bucket. The UI answers with
the same pages, read from the artifacts, under addresses of the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from ad_assets.datasets.names import CATEGORY_KEY
from ad_assets.graph.stage import Key
from ad_assets.store.store import Artifact, ArtifactStore

FOLDER = "reports"
REPORT_ADDRESS = "/ad_assets/report/"  # in the UI, with the name of a dataset
INDEX, CATEGORIES = "index.html", "categories"
INDEX_FILE, CATEGORY_FILE = "report.html", "page.html"  # in the artifacts
FROM_CATEGORY = f"../{INDEX}"  # from the page of a category to the first page
_CATEGORY = re.compile(rf"{CATEGORIES}/({CATEGORY_KEY.pattern})\.html")


def category_address(category: str) -> str:
    """Where the page of a category lies, from the first page.

    >>> category_address("bolt")
    'categories/bolt.html'
    """
    return f"{CATEGORIES}/{category}.html"


def publish(artifact: Artifact, file: str, dataset: str, page: str) -> dict[str, dict[str, str]]:
    """Copy a page to where people open it, unless it lies there; returns metadata that lead to it.

    Args:
        artifact: of the page.
        file: its name in there.
        dataset: the dataset.
        page: its address from the first page.
    """
    store, path = artifact.store, f"{FOLDER}/{dataset}/{page}"
    content = store.read_bytes(artifact.at(file))
    try:
        published = store.fetch(path)
    except FileNotFoundError:
        published = b""
    if published != content:
        store.write_bytes(path, content)
    return {"report": {"url": f"{REPORT_ADDRESS}{dataset}/{page}"}, "file": {"path": store.location(path)}}


def withdraw_others(store: ArtifactStore, dataset: str, categories: Collection[str]) -> None:
    """Delete the published pages of all but some categories."""
    files = store.files(f"{FOLDER}/{dataset}/{CATEGORIES}")
    store.delete([file.path for file in files if PurePosixPath(file.path).stem not in categories])


def published_location(artifact: Artifact, dataset: str) -> str:
    """Where the first page of a dataset's report lies, for people; one of an earlier release lies in its artifact."""
    path = f"{FOLDER}/{dataset}/{INDEX}"
    return artifact.store.location(path if artifact.store.exists(path) else artifact.at(INDEX_FILE))


def asset_of_page(dataset: str, page: str) -> tuple[Key, str | None] | None:
    """The asset partition that a page is of; None: there is no such page.

    >>> asset_of_page("parts", "categories/bolt.html")
    (('parts', 'category_report'), 'bolt')
    """
    if page == INDEX:
        return (dataset, "report"), None
    found = _CATEGORY.fullmatch(page)
    return ((dataset, "category_report"), found[1]) if found else None


def read_page(store: ArtifactStore, dataset: str, page: str) -> bytes:
    """The current page of a dataset's report; empty if it was never made, or there is no such page.

    Raises:
        OSError: the store cannot be read.
    """
    slot = asset_of_page(dataset, page)
    head = store.read_head(*slot) if slot else None
    if slot is None or head is None:
        return b""
    kind = slot[0][-1]
    return store.read_bytes(store.artifact(kind, head["version"]).at(INDEX_FILE if page == INDEX else CATEGORY_FILE))
