"""What the documents show works: their Python runs, their YAML is part of benchmark files, their commands, files and
modules exist."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from ad_assets.cli import parser
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import load_config
from tests.support.places import REPOSITORY

DOCUMENTS = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "deploy" / "README.md",
]
# A file that the fragments in the documents change.
WHOLE = """
extractors: {lite0: {backbone: tf_efficientnet_lite0, weights: bundled, taps: [blocks.2, blocks.4], resize: [256, 256]}}
datasets:
  parts: {reader: folder, root: images, detectors: {hetmm_20: {method: hetmm, extractor: lite0, windows: [7, 5]}}}
"""


def blocks(language: str) -> list[Any]:
    """The code of one language in all documents."""
    return [
        pytest.param(token.content, id=f"{path.relative_to(REPOSITORY)}:{token.map[0] + 1}")
        for path in DOCUMENTS
        for token in MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
        if token.type == "fence" and token.info == language and token.map
    ]


def merged(below: Any, above: Any) -> Any:
    """Nested mappings; `above` counts."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


@pytest.mark.parametrize("code", blocks("python"))
@pytest.mark.usefixtures("parts")
def test_python_runs(code: str) -> None:
    exec(compile(code, "document", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_a_benchmark_file_or_a_part_of_one(text: str, tmp_path: Path) -> None:
    part = yaml.safe_load(text)
    if not part.keys() <= {field.name for field in dataclasses.fields(Benchmark)}:  # of a dataset
        part = {"datasets": {"parts": part}}
    whole = part if {"extractors", "datasets"} <= part.keys() else merged(yaml.safe_load(WHOLE), part)
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    load_config(file)


def commands() -> list[Any]:
    """The calls of ``ad-assets`` in shell blocks."""
    return [
        pytest.param(call, id=f"{path.relative_to(REPOSITORY)}:{number}")
        for path in DOCUMENTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for call in re.findall(r"^(?:\S+=\S+ )*(?:\S+/)?ad-assets ([^#|&>]*)", line)
    ]


@pytest.mark.parametrize("call", commands())
def test_commands_are_understood(call: str) -> None:
    assert callable(parser().parse_args(shlex.split(call)).run)


FOLDERS = {path.name for root in (REPOSITORY, REPOSITORY / "ad_assets") for path in root.iterdir() if path.is_dir()}
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))


@EACH
def test_files_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not (document.parent / link).exists()]
    spans = {span.rstrip("/") for span in re.findall(r"`([\w./*-]+)`", text)}
    roots = (REPOSITORY, REPOSITORY / "ad_assets", document.parent)
    paths = (span for span in spans if "/" in span and span.split("/")[0] in FOLDERS and not span.endswith("..."))
    missing += sorted(path for path in paths if not any(any(root.glob(path)) for root in roots))
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    names = {line.rpartition("/")[2] for line in tracked.splitlines()}
    missing += sorted(span for span in spans if span.endswith(".py") and "/" not in span and span not in names)
    assert not missing


@EACH
def test_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert all(map(find_spec, re.findall(r"python -m ((?:ad_assets|tests)[\w.]*)", text)))
    for module, names in re.findall(r"from (ad_assets[\w.]*) import ([\w, ]+)", text):
        loaded = importlib.import_module(module)
        assert all(hasattr(loaded, name.strip()) or find_spec(f"{module}.{name.strip()}") for name in names.split(","))
    for dotted in re.findall(r"`(ad_assets(?:\.\w+)+)[(`]", text):
        module, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or find_spec(dotted), dotted


def test_documents_are_read() -> None:
    assert len(blocks("python")) >= 2
    assert len(blocks("yaml")) >= 5
    assert len(commands()) >= 8
