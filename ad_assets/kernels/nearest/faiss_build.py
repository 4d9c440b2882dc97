"""Which build of faiss is installed: for CPUs, for GPUs, or with cuVS. All are one Python module, `faiss`."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec

_BUILDS = re.compile(r"faiss([-_.](cpu|gpu).*)?", re.IGNORECASE)


@cache
def faiss_builds() -> tuple[str, ...]:
    """The installed builds with their versions, sorted, such as ``faiss-cpu 1.15.1``."""
    names = ((each.name, each.version) for each in distributions())
    return tuple(sorted({f"{name} {version}" for name, version in names if name and _BUILDS.fullmatch(name)}))


def faiss_fault() -> str:
    """Why faiss cannot be used, and the remedy; empty: it can be."""
    builds = faiss_builds()
    if find_spec("faiss") is None:
        return "faiss is missing: pip install 'ad-assets[cpu]', or [gpu] where it is to search on a GPU"
    if len(builds) > 1:
        # Each has overwritten files of the other, and takes some along when it goes.
        names = " ".join(build.split()[0] for build in builds)
        return (
            f"{' and '.join(builds)} are installed, which are one Python module and have overwritten each other: "
            f"pip uninstall --yes {names}, then pip install 'ad-assets[cpu]', or [gpu] where it is to search on a GPU"
        )
    return ""
