"""``init``: a first benchmark file for a folder of images, checked by ``doctor``."""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands
from ad_assets.commands.output import show
from ad_assets.config.load import ConfigError, load_config
from ad_assets.datasets.names import plain
from ad_assets.settings.home import without_tilde

if TYPE_CHECKING:
    from ad_assets.datasets.survey import Survey

SHOWN = 5


def add(commands: Commands) -> None:
    """Add the command."""
    text = "write a first benchmark file for a folder of images, and check it"
    init = commands.add("init", _init, text)
    init.add_argument("folder", help="folder of the images, or an fsspec URL such as s3://bucket/prefix")
    init.add_argument(
        "-o", "--out", type=Path, default=Path("parts.yaml"), metavar="FILE", help="the file (default: parts.yaml)"
    )


def _init(options: argparse.Namespace) -> int:
    out = without_tilde(options.out)
    table = out.with_suffix(".csv")
    _refuse_existing(out)
    folder = _folder(options.folder)
    from ad_assets.commands.doctor import examine
    from ad_assets.commands.first_file import first_file
    from ad_assets.commands.upkeep import findings_text
    from ad_assets.datasets.survey import manifest_rows, survey

    found = survey(folder)
    rows = [] if found.layout == "mvtec" else list(manifest_rows(found))
    if rows:
        _refuse_existing(table)
        _write_new(table, _csv(rows))
    name = re.sub(r"[^a-z0-9_]+", "_", out.stem.lower()).strip("_") or "parts"
    text = first_file(found, name, _from(out.parent, found.root), _from(found.root, table) if rows else None)
    _write_new(out, text)
    if rows:
        print(f"wrote {table}: what each image is")
    print(f"wrote {out}:\n")
    print(textwrap.indent(plain(text), "  "))
    _print_problems(found)
    findings = examine(load_config(out))
    show(findings_text(findings))
    healthy = all(finding.healthy for finding in findings)
    if healthy:
        file = shlex.quote(str(out))
        print(f"\nnext:  ad-assets materialize --config {file}")
        category = f" --category {next(iter(found.images))}" if len(found.images) > 1 else ""
        print(f"then:  ad-assets predict --config {file}{category} NEW.png")
    else:
        print(f"\nmend {out} (or the folder), then: ad-assets doctor --config {shlex.quote(str(out))}")
    return 0 if healthy else 1


def _folder(named: str) -> str:
    """The folder as a path or URL.

    Raises:
        ConfigError: it is a file, is empty, or does not exist.
    """
    if "://" in named:
        return named
    path = without_tilde(named)
    if path.is_file():
        raise ConfigError(f"{path} is a file: name the folder that holds the images, such as {path.parent}")
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist: name a folder of images")
    if not any(path.iterdir()):
        raise ConfigError(f"{path} is empty: put the images there, or name their folder")
    return str(path)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists, and init overwrites nothing: choose another name with -o, or remove it")


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not exist, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:  # fails where another process has made it
        try:
            file.write(text)
        except BaseException:
            path.unlink()
            raise


def _from(folder: str | Path, path: str | Path) -> str:
    """A path as it is written in a file: relative to a folder where it lies below or right beside it, else whole."""
    if "://" in str(folder) or "://" in str(path):
        return str(path) if "://" in str(path) else str(Path(path).resolve())
    relative = os.path.relpath(Path(path).resolve(), Path(folder).resolve())
    return Path(relative).as_posix() if relative.count("..") < 2 else str(Path(path).resolve())


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print_problems(found: Survey) -> None:
    """Print images that nothing is known of, and those that cannot be read."""
    unreadable = [problem for looks in found.looks.values() for problem in looks.unreadable]
    for head, problems in (("LEFT OUT", found.left_out), ("UNREADABLE", unreadable)):
        for problem in problems[:SHOWN]:
            show(f"{head} {problem}")
        if problems[SHOWN:]:
            print(f"{head} {len(problems) - SHOWN} more")
