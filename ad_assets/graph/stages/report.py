"""The first page of a dataset's report: all lanes over all categories, with links to the pages of the categories."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.graph.stage import CheckReport, Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.leaderboard import MISSING, read_board, read_few_shot
from ad_assets.graph.stages.published_pages import INDEX, INDEX_FILE, category_address, publish, withdraw_others
from ad_assets.graph.stages.studies import read_study
from ad_assets.production.test_set_openings import NEVER, told_openings
from ad_assets.report.index_page import IndexPage, render_index

VERSION = 4


@dataclass(frozen=True)
class ReportSettings(StageSettings):
    """The name of the dataset."""

    dataset: str


def report_stage(
    benchmark: Benchmark,
    dataset: Dataset,
    leaderboard: Stage,
    pages: Stage,
    studies: Mapping[str, Stage],
) -> Stage:
    """The asset ``<dataset>/report``.

    Args:
        benchmark: to say where figures come from.
        dataset: the dataset.
        leaderboard: its leaderboard.
        pages: the pages of its categories.
        studies: study name -> its stage.
    """
    source, sealed = benchmark.source.rpartition("/")[2], dataset.sealed

    def parts(upstream: Upstream) -> Parts:
        return {"/".join([*key, partition or ""]): head.version for (key, partition), head in upstream.heads.items()}

    def build(work: Work) -> dict[str, Any]:
        settings: ReportSettings = work.settings
        board = work.input(leaderboard)
        shown = work.upstream.all(pages)
        fingerprints = {"leaderboard": work.upstream.of(leaderboard).version}
        fingerprints |= {f"page of {category}": head.version for category, head in shown.items()}
        text = render_index(
            IndexPage(
                dataset=settings.dataset,
                created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                config_name=source,
                hardware=_hardware(work),
                board=read_board(board),
                pages={category: category_address(category) for category in shown},
                fingerprints=fingerprints,
                few_shot=read_few_shot(board),
                left_out=work.upstream.of(leaderboard).parts.get(MISSING, ""),
                openings=(told_openings(work.store, settings.dataset, shown) or NEVER) if sealed else "",
                studies={name: rows for name, stage in studies.items() if (rows := read_study(work, stage))},
            )
        )
        work.store.write_text(work.artifact.at(INDEX_FILE), text)
        return {"bytes": len(text.encode()), "pages": len(shown)}

    def published(work: Work) -> CheckReport:
        withdraw_others(work.store, work.settings.dataset, pages.partitions or ())
        return CheckReport(metadata=publish(work.artifact, INDEX_FILE, work.settings.dataset, INDEX))

    return Stage(
        key=(dataset.name, "report"),
        kind="report",
        settings=ReportSettings(VERSION, dataset.name),
        deps=(leaderboard, pages, *studies.values()),
        address=parts,
        build=build,
        answer_checks=published,
        partitions=None,
        paced=True,
        group=f"{dataset.name}/results",
        kinds=frozenset({"html"}),
        description="The first page of the report: results beside the papers, what is sure of them, category by "
        "category, with links to the pages of the categories.",
    )


def _hardware(work: Work) -> str:
    import torch

    from ad_assets.kernels.parallel import threads

    device = work.compute.torch_device(lease=False)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return f"{device} ({name}), {threads()} CPU threads, torch {torch.__version__}, {platform.system()}"
