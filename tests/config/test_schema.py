"""The JSON schema takes every benchmark file that is shipped, and finds misspelt keys and impossible values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ad_assets.config import load
from ad_assets.config.schema import schema

SHIPPED = sorted((Path(load.__file__).parent / "benchmarks").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    made = schema()
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_follow_it(path: Path, validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ({"method": "patchcore", "extractor": "lite0", "coreset_ration": 0.1}, "'coreset_ration' was unexpected"),
        ({"method": "patchcore", "extractor": "lite0", "coreset_ratio": 2}, "2 is greater than the maximum of 1"),
        ({"method": "patchcore", "coreset_ratio": 1}, "'extractor' is a required property"),
        ({"method": "hetmm", "extractor": "lite0", "preset": "mvtec"}, "'mvtec' is not"),
        ({"method": "hetmm", "extractor": "lite0", "preset": "mtd"}, None),
        ({"method": "ensemble", "members": ["a", "b"]}, None),
        ({"method": "ensemble", "members": []}, "non-empty"),
        ({"method": "joint", "of": "a"}, None),
        ({"method": "joint", "of": "a", "extractor": "lite0"}, "'extractor' was unexpected"),
        ({"method": "patch_core", "extractor": "lite0"}, "is not valid under any of the given schemas"),
    ],
)
def test_faults_are_found(detector: dict[str, Any], message: str | None, validator: Draft202012Validator) -> None:
    file = {"datasets": {"parts": {"reader": "folder", "root": "images", "detectors": {"one": detector}}}}
    messages = [each.message for error in validator.iter_errors(file) for each in deepest(error)]
    assert (not messages) if message is None else any(message in each for each in messages)


def deepest(error: Any) -> list[Any]:
    """An error and all that it consists of."""
    return [error, *(each for below in error.context for each in deepest(below))]
