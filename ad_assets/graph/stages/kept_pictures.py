"""Pictures for people in an artifact; what Dagster records is a small one, and where the other lies."""

from __future__ import annotations

from ad_assets.graph.stage import Work
from ad_assets.report.thumbnails import kind_of, thumbnail_uri


def keep_picture(work: Work, name: str, title: str, picture: bytes) -> dict[str, dict[str, str]]:
    """Write a picture to the artifact; returns metadata that show it in small and lead to it.

    Args:
        work: what is being built.
        name: of the file, without suffix, and of the metadata.
        title: what it shows, as Markdown.
        picture: JPEG or PNG.
    """
    path = work.artifact.at(f"{name}.{kind_of(picture)}")
    work.store.write_bytes(path, picture)
    return {
        name: {"md": f"![{title}]({thumbnail_uri(picture)})"},
        f"{name}_file": {"path": work.store.location(path)},
    }
