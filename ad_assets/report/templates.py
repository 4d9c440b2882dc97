"""Fills the templates of this folder. All text is escaped by jinja2: category names, defect types and file names come
from folders that others filled.

A page loads nothing from anywhere: its policy admits pictures that it holds itself, and of scripts the one beside the
templates, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent
COLOURS = 8  # distinct line colours in the template; further detectors repeat them dashed


def filled(template: str, **values: Any) -> str:
    """A template of this folder with its values, all of them escaped."""
    text = _templates().get_template(template).render(colours=COLOURS, **values)
    # File names with bytes that are no UTF-8 hold lone surrogates, which no file could be written with.
    return text.encode("utf-8", "replace").decode("utf-8")


@cache
def _templates() -> jinja2.Environment:
    """Keeps the templates that it has compiled."""
    import jinja2
    from markupsafe import Markup

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = TEMPLATES.joinpath("pages.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals |= {"script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704  # our own file
    return made
