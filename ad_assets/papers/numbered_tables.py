"""The numbered tables of the five papers: what each shows, and which shipped benchmark file computes it.

``numbered_tables.json`` holds an entry for every numbered table, and for every figure that shows numbers, under an id
such as ``hetmm/4``, ``patchcore/s5`` or ``simplenet/fig5``. An entry is a list of parts; a part is what one dataset of
one benchmark file gives, beside what the paper prints:

- ``systems``: systems by name, with the numbers of `papers.published`; ``counts``: the same with `papers.counts`;
- ``study``: variants of a study;
- ``speed``: images per second and costs of detectors; ``curves``: curves of detectors, of which no paper prints points;
- ``images``: what the images of a dataset are.

Printed numbers that stand here are in percent, or in the unit that the metric's name says; FOD prints fractions, which
are times 100. Figures without printed numbers have none, and ours stand alone.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TABLES = Path(__file__).with_name("numbered_tables.json")

Paper = Literal["hetmm", "simplenet", "fod", "patchcore", "patchcluster"]
By = Literal["mean", "category", "kind"]
KINDS = ("structural", "logical")
Printed = dict[str, float]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Part(_Model):
    benchmark: str = Field(description="name of a shipped benchmark file")
    dataset: str = Field(description="key of a dataset in it")
    label: str = Field("", description="what sets the part apart from the others of its table")
    metrics: Texts = Field(description="this project's names, in the order of the paper")


class _Broken(_Part):
    """Broken down by category, by kind of anomaly, or not.

    By ``kind``, the metric is image AUROC of one kind against all nominal test images, and printed numbers are those of
    `KINDS` and their ``mean``.
    """

    by: By = "mean"


class Systems(_Broken):
    """Detectors beside published systems.

    `protocol` is the one in which the paper's own system was measured, where a detector has it; all others, and those
    without it, are ``standard``.
    """

    kind: Literal["systems"]
    paper_dataset: str = Field(description="as `papers.published` takes it")
    systems: dict[str, str | None] = Field(description="published system -> detector; None: the paper's numbers alone")
    protocol: Literal["standard", "oracle_best_epoch"] = "standard"


class Counts(_Part):
    """Errors of all categories together, at thresholds of the best F1: protocol ``oracle_f1``, `papers.counts`."""

    kind: Literal["counts"]
    paper_dataset: str
    systems: dict[str, str | None]


class StudyRow(_Model):
    """One line: a variant of the study, or None where it has none, and what the paper prints.

    `paper` is by metric, or by kind of anomaly in a part by ``kind``; `spread` is over draws.
    """

    variant: str | None
    paper: Printed = {}
    spread: Printed = {}


class StudyPart(_Broken):
    """Variants of a study; without `rows`, all of them, beside no printed number."""

    kind: Literal["study"]
    study: str
    rows: dict[str, StudyRow] = {}


class DetectorRow(_Model):
    """One line: a detector, or None where there is none, and what the paper prints."""

    detector: str | None
    paper: Printed = {}


class Detectors(_Part):
    """Speed and cost of detectors, or their curves.

    Of ``speed``, `images_per_second` includes the backbone, and `seconds_per_image` is one over it; `gmacs_per_image`,
    `million_parameters` and `seconds_per_epoch` are what a trained model says of itself. ``curves`` are those of the
    metrics asset (``roc``, ``pr``, ``pro``, ``image_roc``, ``image_pr``), and ``loss`` is the trained model's.
    """

    kind: Literal["speed", "curves"]
    rows: dict[str, DetectorRow]


class Images(_Part):
    """What the images of a dataset are, in the mean over its categories; from its image index and masks."""

    kind: Literal["images"]
    paper: Printed


Part = Annotated[Systems | Counts | StudyPart | Detectors | Images, Field(discriminator="kind")]


class NumberedTable(_Model):
    """One table or figure of a paper.

    Args:
        paper: its paper.
        title: what it shows.
        parts: what computes it; empty where nothing does.
        same_as: id of the table whose numbers it shows again, drawn or summed up; its parts are that table's.
        note: what to know before comparing: protocols, misprints, what cannot be had.
        missing: why this project does not compute it; empty where it does.
    """

    paper: Paper
    title: str
    parts: tuple[Part, ...] = ()
    same_as: str = ""
    note: str = ""
    missing: str = ""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(map(bool, (self.parts, self.same_as, self.missing))) != 1:
            raise ValueError("give exactly one of parts, same_as and missing")
        return self

    @property
    def benchmarks(self) -> list[str]:
        """The benchmark files it needs, each once."""
        return list(dict.fromkeys(part.benchmark for part in self.parts))


@cache
def numbered_tables() -> dict[str, NumberedTable]:
    """Id -> table, by paper in the order of the paper; `same_as` is resolved: every table has its parts.

    Raises:
        ValueError: the file is wrong; names the entry and the key.
    """
    return parse(json.loads(TABLES.read_text(encoding="utf-8")))


def parse(entries: dict[str, Any]) -> dict[str, NumberedTable]:
    """Check entries and resolve `same_as`.

    Raises:
        ValueError: as `numbered_tables`.
    """
    tables: dict[str, NumberedTable] = {}
    for name, entry in entries.items():
        try:
            table = NumberedTable.model_validate({"paper": name.partition("/")[0], **entry})
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ValueError(f"{TABLES.name}: {name}: {faults}") from error
        tables[name] = table
    for name, table in tables.items():
        if table.same_as:
            other = tables.get(table.same_as)
            if other is None or not other.parts:
                raise ValueError(f"{TABLES.name}: {name}: same_as: {table.same_as!r} is no table with parts of its own")
            tables[name] = table.model_copy(update={"parts": other.parts})
    return tables


def numbered_table(name: str) -> NumberedTable:
    """One table by its id; ``HETMM/4`` and ``patchcore/S5`` are understood.

    Raises:
        ValueError: there is none; names those of the paper, or close ones.
    """
    tables = numbered_tables()
    found = tables.get(name.lower())
    if found is None:
        paper = name.lower().partition("/")[0]
        known = [other for other in tables if other.startswith(f"{paper}/")]
        known = known or difflib.get_close_matches(name.lower(), tables, n=5, cutoff=0.4) or list(tables)
        raise ValueError(f"no numbered table {name!r}; known: {', '.join(known)}")
    return found
