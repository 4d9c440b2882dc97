"""The JSON schema of benchmark files, by which editors complete and check keys (YAML language server, PyCharm).

It is made of the very models that `parse` checks sections with. What it cannot say is checked at load time alone: names
of other sections, what a preset leaves open, what values mean together.
"""

from __future__ import annotations

from typing import Any, Literal, Union

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Automation, Evaluation, Production, ReportStyle
from ad_assets.config.decision import Decision
from ad_assets.config.draws import MOST_DRAWS
from ad_assets.config.export import Export
from ad_assets.config.joint import Joint
from ad_assets.datasets import READERS
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.methods import METHODS
from ad_assets.methods.ensemble import Ensemble
from ad_assets.papers.published import systems
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.store.store import ArtifactStore


class _Study(BaseModel):
    """What becomes of a detector when some of its settings vary: `vary` or `variants`."""

    model_config = ConfigDict(extra="forbid")

    base: str | list[str] = Field(description="the detector that is varied; several: each in the same ways")
    vary: dict[str, list[Any]] = Field(
        {}, description="setting -> values; all combinations are measured", examples=[{"coreset_ratio": [0.01, 0.1]}]
    )
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="name -> settings that differ from the base", examples=[{"reseeded": {"seed": 1}}]
    )
    draws: int = Field(1, ge=1, le=1000, description="how often each variant is measured, with seeds 0, 1, ...")


class _Comparison(BaseModel):
    """One table over several datasets."""

    model_config = ConfigDict(extra="forbid")

    datasets: list[str] = Field(min_length=1, description="names of datasets, in the order of the table")


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a benchmark file, with all methods and readers that are installed.

    >>> file = schema()
    >>> sorted(file["properties"])[:3]
    ['automation', 'comparisons', 'compute']
    >>> file["$defs"]["detector_patchcore"]["properties"]["coreset_ratio"]["default"]
    0.1
    """
    detector: Any = Union[(*map(_detector, METHODS), _ensemble(), _joint())]
    line = (Production | None, None)
    inner = {
        "detectors": _section(detector),
        "studies": _section(_Study),
        "production": line,
        "decision": (Decision | None, None),
        "sealed": (
            bool,
            Field(
                False,
                description="each reading of labels of test images is recorded; the results tell how often it was, and "
                "for how many variants",
            ),
        ),
    }
    datasets = [
        _model(
            f"reader_{name}",
            __base__=reader,
            reader=(Literal[name], ...),
            **({"of": (str, Field(description=_OF))} if reader is BlindReader else {}),
            **inner,
        )
        for name, reader in READERS.items()
    ]
    sections = {
        "store": ArtifactStore,
        "compute": Compute,
        "extract": Extract,
        "evaluation": Evaluation,
        "report": ReportStyle,
        "automation": Automation,
    }
    file = _model(
        "BenchmarkFile",
        __config__=ConfigDict(extra="forbid"),
        **{name: (model | None, None) for name, model in sections.items()},
        extractors=_section(Extractor),
        datasets=_section(Union[(*datasets,)]),
        comparisons=_section(_Comparison),
        owners=(
            list[str],
            Field(
                [],
                description="of all assets in the UI: e-mail addresses, and teams as team:<name>",
                examples=[["team:quality"]],
            ),
        ),
    )
    made = file.model_json_schema()
    for key in ("root", "on_problem"):  # which are those of the dataset above
        del made["$defs"]["reader_blind"]["properties"][key]
    for name, method in METHODS.items():
        if method.presets:  # which may give what is required otherwise
            made["$defs"][f"detector_{name}"]["required"] = ["method", "extractor"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


_OF = "name of the dataset above whose images it takes, without their labels"
# Fields that are made here are beyond what a type checker follows.
_model: Any = pydantic.create_model


def _section(entry: Any) -> Any:
    return (dict[str, entry] | None, None)


def _detector(name: str) -> type[BaseModel]:
    method = METHODS[name]
    presets = {"preset": (_preset(method), Field(None, description=_PRESET))} if method.presets else {}
    return _model(
        f"detector_{name}",
        __base__=method,
        method=(Literal[name], ...),
        extractor=(str, Field(description="name of an extractor above")),
        paper=_paper(),
        categories=(dict[str, dict[str, Any] | None] | None, Field(None, description="category -> values of its own")),
        decision=(Decision | None, None),
        export=(Export | None, None),
        draws=(int, Field(1, ge=1, le=MOST_DRAWS, description=_DRAWS)),
        **presets,
    )


_DRAWS = "fits with so many seeds, from its own on, as one row of the leaderboard: means with their spread over seeds"
_PRESET = "named values that this detector starts from; what is written beside it wins"


def _preset(method: Any) -> Any:
    return Literal[tuple(method.presets)] | None


def _ensemble() -> type[BaseModel]:
    shared = {"decision": (Decision | None, None), "export": (Export | None, None)}
    return _model("detector_ensemble", __base__=Ensemble, method=(Literal["ensemble"], ...), paper=_paper(), **shared)


def _joint() -> type[BaseModel]:
    decision = (Decision | None, None)
    return _model("detector_joint", __base__=Joint, method=(Literal["joint"], ...), paper=_paper(), decision=decision)


def _paper() -> Any:
    return (Literal[tuple(systems())] | None, Field(None, description="system of a paper whose numbers stand beside"))
