"""From the tree of a benchmark file to its checked models: what a section means, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import (
    Automation,
    Benchmark,
    Comparison,
    Dataset,
    Detector,
    Evaluation,
    Production,
    ReportStyle,
)
from ad_assets.config.draws import further_draws
from ad_assets.config.faults import ConfigError, fault_list, shown
from ad_assets.config.spelling import plain
from ad_assets.config.study_sections import StudyParser
from ad_assets.datasets import READERS, Reader
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.store.store import ArtifactStore

# Beside the options of a reader.
DATASET_KEYS = ("reader", "detectors", "studies", "production", "decision", "sealed")
OWNER = re.compile(r"team:[\w.-]+|\w[\w.%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}", re.ASCII)  # as Dagster takes them


class SectionParser(StudyParser):
    """Turns the tree of a benchmark file into models, collecting every fault before it gives up."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.evaluation: Evaluation | None = None

    def benchmark(self, tree: dict[str, Any]) -> Benchmark:
        self.only(
            tree,
            {
                "store",
                "compute",
                "extract",
                "evaluation",
                "report",
                "extractors",
                "datasets",
                "comparisons",
                "automation",
                "owners",
            },
            "",
        )
        owners = self._owners(tree.get("owners"))
        store = self.model(ArtifactStore, tree.get("store"), "store")
        compute = self.model(Compute, tree.get("compute"), "compute")
        extract = self._extract(tree.get("extract"), compute)
        self.evaluation = evaluation = self.model(Evaluation, tree.get("evaluation"), "evaluation")
        report = self.model(ReportStyle, tree.get("report"), "report")
        automation = self.model(Automation, tree.get("automation"), "automation")
        sections = tree.get("extractors")
        self.extractor_names = {name: name for name in sections} if isinstance(sections, Mapping) else {}
        for name, section in self.named(tree, "extractors"):
            options = self.mapping(section, f"extractors.{name}")
            if compute:
                options.setdefault("precision", compute.precision)
                if compute.engine != "torch":  # else not set: champions note what is
                    options.setdefault("engine", compute.engine)
            extractor = self.model(Extractor, options, f"extractors.{name}")
            if extractor:
                self.extractors[name] = extractor
        datasets: dict[str, Dataset] = {}
        for name, section in self.named(tree, "datasets"):
            if name == "comparisons":
                self.faults.append(f"datasets.{name}: the name begins the keys of comparisons; choose another")
            dataset = self._dataset(name, section, datasets)
            if dataset:
                datasets[name] = dataset
        comparisons = {name: self._comparison(name, entry, datasets) for name, entry in self.named(tree, "comparisons")}
        if not datasets and not self.faults:
            self.faults.append("datasets: name at least one dataset")
        if self.faults or not (store and compute and extract and evaluation and report and automation):
            raise ConfigError(fault_list(self.source, self.faults))
        return Benchmark(
            self.source,
            store,
            compute,
            evaluation,
            report,
            self.extractors,
            datasets,
            comparisons,
            automation,
            owners,
            extract,
        )

    def _extract(self, section: object, compute: Compute | None) -> Extract | None:
        extract = self.model(Extract, section, "extract")
        if compute and extract and extract.engine == "ray" and ":" in compute.device:
            self.faults.append(
                "compute.device: Ray gives each actor a GPU; write auto, cuda or cpu beside extract.engine: ray "
                f"(got {compute.device})"
            )
        return extract

    def _owners(self, owners: object) -> tuple[str, ...]:
        if not isinstance(owners, list | None):
            self.faults.append(f"owners: a list (got {shown(owners)})")
            return ()
        for owner in owners or ():
            if not (isinstance(owner, str) and OWNER.fullmatch(owner)):
                self.faults.append(f"owners: an e-mail address, or team:<name> (got {shown(owner)})")
        return tuple(owners or ())

    def _dataset(self, name: str, section: object, earlier: Mapping[str, Dataset]) -> Dataset | None:
        path = f"datasets.{name}"
        options = self.mapping(section, path)
        lanes, decision = self.section(options, "detectors", path), self.decision(options, path)
        studied = self.section(options, "studies", path)
        production = options.pop("production", None)
        sealed = plain(options.pop("sealed", False))
        if production is None and isinstance(section, Mapping) and "production" in section:
            self.faults.append(f"{path}.production: is empty: write {{}} for its defaults, or leave it out")
        if production is not None:
            # One broken file is no reason to stop a line.
            options = {"on_problem": "skip", **options}
        detectors: dict[str, Detector] = {}
        for lane, entry in lanes.items():
            if not self.name(lane, f"{path}.detectors"):
                continue
            if lane in (
                "features",
                "category_report",
                "image_index",
                "inspections",
                "leaderboard",
                "report",
                "studies",
            ):
                self.faults.append(f"{path}.detectors.{lane}: the name is an asset's; choose another")
            detector = self.detector(lane, entry, f"{path}.detectors.{lane}", detectors)
            if detector:
                further = further_draws(detector)
                self.faults += [
                    f"{path}.detectors.{name}: the name is that of a draw of {lane}; choose another"
                    for name in further.keys() & lanes.keys()
                ]
                detectors |= {lane: detector, **further}
        for detector in detectors.values():
            # An extractor with faults of its own has no frame to compare.
            used = {detectors[member].extractor for member in detector.members if member in detectors}
            frames = {self.extractors[name].map_geometry for name in used if name in self.extractors}
            if len(frames) > 1:
                self.faults.append(
                    f"{path}.detectors.{detector.name}.members: the extractors resize and crop differently, so their "
                    "maps do not overlay; give them the same resize and crop"
                )
        studies = {
            study: self.study(study, entry, f"{path}.studies.{study}", detectors, lanes)
            for study, entry in studied.items()
            if self.name(study, f"{path}.studies")
        }
        reader = self._reader(options, path, earlier)
        if reader and reader.blind:
            polluted = [study for study in studies.values() if study and study.most_contaminated]
            self.faults += [
                f"{path}.studies.{s.name}: of a blind dataset no image is known to be good" for s in polluted
            ]
            lanes_of = {f"detectors.{name}": [detector] for name, detector in detectors.items()} | {
                f"studies.{name}": [variant.detector for variant in study.variants]
                for name, study in studies.items()
                if study
            }
            self.faults += [
                f"{path}.{place}.turns: of a blind dataset images would be compared with themselves turned; write "
                "exclude_same_image: true too"
                for place, own in lanes_of.items()
                if any(
                    m and m.turned_by and not m.exclude_same_image
                    for d in own
                    for m in (d.method, *d.categories.values())
                )
            ]
        line = self._production(production, f"{path}.production", reader, detectors) if production is not None else None
        known = {s: study for s, study in studies.items() if study}
        self._check_sealed(sealed, path, reader, on_a_line=production is not None)
        dataset = Dataset(name, reader, detectors, known, line, decision, sealed is True) if reader else None
        self.faults += dataset.without_region() if dataset else []
        return dataset

    def _check_sealed(self, sealed: object, path: str, reader: Reader | None, *, on_a_line: bool) -> None:
        if not isinstance(sealed, bool):
            self.faults.append(f"{path}.sealed: true or false (got {shown(sealed)})")
        elif sealed and on_a_line:
            self.faults.append(
                f"{path}.sealed: test images decide which state becomes champion, so that of a production dataset they "
                "are no sealed test set: remove one of the two keys"
            )
        elif sealed and reader and reader.blind:
            self.faults.append(f"{path}.sealed: of a blind dataset the test images are trained on: remove the key")

    def _production(
        self, section: object, path: str, reader: Reader | None, detectors: Mapping[str, Detector]
    ) -> Production | None:
        line = self.model(Production, section, path)
        if line is None:
            return None
        if reader and reader.name != "folder":
            self.faults.append(f"{path}: images land in datasets of the reader folder (got {reader.name})")
        if line.gatekeeper is not None:
            lanes = {name: name for name, detector in detectors.items() if detector.has_champions}
            self.choice(line.gatekeeper, lanes, f"{path}.gatekeeper")
        metrics = {name: name for name in self.evaluation.metrics} if self.evaluation else line.floors
        for metric in line.floors:
            self.choice(metric, metrics, f"{path}.floors")
        return line

    def _reader(self, options: dict[str, Any], path: str, earlier: Mapping[str, Dataset]) -> Reader | None:
        """What is left of a dataset's section configures its reader."""
        reader_type = self.choice(options.pop("reader", None), READERS, f"{path}.reader")
        if reader_type is BlindReader:
            self.only(options, ("of", "setting"), f"{path}.")
            labelled = {above: dataset.reader for above, dataset in earlier.items() if not dataset.reader.blind}
            options["of"] = self.choice(options.get("of"), labelled, f"{path}.of")
            if options["of"] is None:
                return None
        return self.model(reader_type, options, path, DATASET_KEYS) if reader_type else None

    def _comparison(self, name: str, section: object, datasets: Mapping[str, Dataset]) -> Comparison:
        path = f"comparisons.{name}"
        options = self.mapping(section, path)
        self.only(options, ("datasets",), f"{path}.")
        named = options.get("datasets")
        if not isinstance(named, list) or not named:
            self.faults.append(f"{path}.datasets: a list of datasets above (got {shown(named)})")
            named = []
        with_lanes = {dataset.name: dataset.name for dataset in datasets.values() if dataset.detectors}
        known = [self.choice(dataset, with_lanes, f"{path}.datasets") for dataset in named]
        return Comparison(name, tuple(dataset for dataset in known if dataset))
