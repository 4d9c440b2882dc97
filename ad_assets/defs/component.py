"""The Dagster component ``ad_assets.Benchmark``: the assets of a benchmark file in anybody's project.

``dg scaffold defs ad_assets.Benchmark line1`` writes ``line1/defs.yaml`` and a benchmark file beside it that runs at
once, on generated images. A project may have several; their datasets have different names.
"""

# No postponed annotations: Dagster reads them to resolve the attributes.
import os
import re
from pathlib import Path
from typing import Annotated

import dagster as dg
from pydantic import BaseModel, Field, PrivateAttr

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import ConfigError
from ad_assets.config.load import load_config, suited
from ad_assets.defs.build import benchmark_definitions

STARTER = """\
# A benchmark file of ad_assets. Relative paths begin at its folder.
store: {{root: {top}/.ad_assets}} # that of the whole project; or s3://bucket/prefix
extractors:
  lite0: {{backbone: tf_efficientnet_lite0, weights: bundled, taps: [blocks.2, blocks.4], resize: [256, 256]}}
datasets:
  {name}: # begins the keys of all its assets
    reader: demo # generated images; your own: `reader: folder`, laid out as MVTec AD
    root: {top}/.ad_assets/demo_images
    detectors:
      patchcore: {{method: patchcore, extractor: lite0, pooling: concat, coreset_ratio: 0.01}}
"""


class ScaffoldOptions(BaseModel):
    """What ``dg scaffold defs ad_assets.Benchmark`` takes beside a name."""

    file: str = Field(
        "benchmark.yaml", description="benchmark file, relative to the component's folder; written if it is not there"
    )


class BenchmarkScaffolder(dg.Scaffolder[ScaffoldOptions]):
    """Writes ``defs.yaml``, and a benchmark file to begin with."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldOptions]:
        """The options of the command."""
        return ScaffoldOptions

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldOptions]) -> None:
        """Write both files."""
        dg.scaffold_component(request, {"file": request.params.file})
        folder = request.target_path.parent if request.append else request.target_path
        path = folder / request.params.file
        if not path.exists():
            top = Path(os.path.relpath(request.project_root or folder, folder)).as_posix()
            path.write_text(STARTER.format(name=_identifier(folder.name), top=top), encoding="utf-8")


def _resolved(context: dg.ResolutionContext, file: str) -> str:
    """The path of a file that stands beside ``defs.yaml``; else the name of a shipped file."""
    path = context.resolve_source_relative_path(context.resolve_value(file, as_type=str))
    return str(path) if path.is_file() or path.suffix else file


@dg.scaffold_with(BenchmarkScaffolder)
class BenchmarkComponent(dg.Component, dg.Resolvable, dg.Model):
    """Industrial visual anomaly detection: a benchmark file as assets, one partition a product category."""

    file: Annotated[str, dg.Resolver(_resolved, model_field_type=str)] = Field(
        description="benchmark file, relative to the component's folder, or the name of a shipped one, such as demo"
    )
    _benchmark: Benchmark | None = PrivateAttr(None)

    @property
    def benchmark(self) -> Benchmark:
        """The checked benchmark file, read once.

        Raises:
            ConfigError: it is wrong.
        """
        if self._benchmark is None:
            _, environ = suited(self.file)  # a variable may name a dataset of another file
            self._benchmark = load_config(self.file, environ=environ)
        return self._benchmark

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the benchmark file.

        Raises:
            ConfigError: the file is wrong, or another component has a dataset or comparison of the same name.
        """
        for other in context.component_tree.get_all_components(BenchmarkComponent):
            self._check_apart(other)
        place = context.component_path.get_relative_key(context.defs_module_path)
        definitions, _ = benchmark_definitions(self.benchmark, _identifier(place.removesuffix("[0]")))
        return definitions

    def _check_apart(self, other: "BenchmarkComponent") -> None:
        if other is self:
            return
        for section in ("datasets", "comparisons"):
            for name in getattr(self.benchmark, section).keys() & getattr(other.benchmark, section).keys():
                raise ConfigError(
                    f"{section}.{name} is in {self.file} and in {other.file}: the assets of both would have the same "
                    "keys. Give it another name in one of them"
                )


def _identifier(text: str) -> str:
    """A text as part of the names of assets and sensors.

    >>> _identifier("lines/line-1")
    'lines_line_1'
    """
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
