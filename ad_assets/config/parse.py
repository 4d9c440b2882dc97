"""From the tree of a benchmark file to its checked models: what a section means, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, TypeGuard

from ad_assets.backbones.class_token import CLASS_TOKEN
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
    Study,
    Variant,
)
from ad_assets.config.decision import Decision
from ad_assets.config.draws import draws_fault, further_draws
from ad_assets.config.export import Export, export_fault
from ad_assets.config.faults import Checker, ConfigError, fault_list, key_text, shown
from ad_assets.config.joint import Joint, join_fault
from ad_assets.config.spelling import plain
from ad_assets.datasets import READERS, Reader
from ad_assets.datasets.names import CATEGORY_KEY
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.methods import METHODS, Method
from ad_assets.methods.ensemble import Ensemble
from ad_assets.papers.published import systems
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.store.store import ArtifactStore

MOST_VARIANTS = 1000
MOST_NAME = 300  # characters of a variant's name
# Beside the options of a reader and of a method.
DATASET_KEYS = ("reader", "detectors", "studies", "production", "decision", "sealed")
DETECTOR_KEYS = ("method", "extractor", "paper", "preset", "categories", "decision", "export", "draws")
OWNER = re.compile(r"team:[\w.-]+|\w[\w.%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}", re.ASCII)  # as Dagster takes them


class SectionParser(Checker):
    """Turns the tree of a benchmark file into models, collecting every fault before it gives up."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.evaluation: Evaluation | None = None
        self.extractors: dict[str, Extractor] = {}
        self.extractor_names: dict[str, str] = {}  # those with faults too, so that a detector on one is no second fault

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
        lanes, decision = self.section(options, "detectors", path), self._decision(options, path)
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
            detector = self._detector(lane, entry, f"{path}.detectors.{lane}", detectors)
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
            study: self._study(study, entry, f"{path}.studies.{study}", detectors, lanes)
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

    def _decision(self, options: dict[str, Any], path: str) -> Decision:
        return self.model(Decision, options.pop("decision", None), f"{path}.decision") or Decision()

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

    def _study(
        self,
        name: str,
        section: object,
        path: str,
        detectors: Mapping[str, Detector],
        lanes: Mapping[str, Any],
    ) -> Study | None:
        options = self.mapping(section, path)
        self.only(options, ("base", "vary", "variants", "draws"), f"{path}.")
        several = isinstance(options.get("base"), list)
        bases = self._bases(options.get("base"), detectors, f"{path}.base")
        draws: Any = plain(options.get("draws", 1))
        if not _is_whole(draws) or not 1 <= draws <= 1000:
            self.faults.append(f"{path}.draws: a number of repetitions from 1 to 1000 (got {shown(draws)})")
        if ("vary" in options) == ("variants" in options):
            self.faults.append(f"{path}: give vary (lists of values, all combinations) or variants (named settings)")
            return None
        settings = self._variants(options, path)
        if not bases or not settings:
            return None
        variants = []
        for lane, (varied, own) in product(bases, settings.items()):
            variant = f"{lane}, {varied}" if several else varied
            place = f"{path}.{key_text(variant)}"
            if not variant.isprintable() or not 0 < len(variant) <= MOST_NAME:
                self.faults.append(f"{place}: a variant's name is up to {MOST_NAME} characters that can be seen")
                continue
            over = dict(own)
            images: Any = plain(over.pop("train_images", None))
            share: Any = plain(over.pop("contamination", None))
            if images is not None and (not _is_whole(images) or images < 1):
                self.faults.append(f"{place}: train_images is a number of images from 1 on (got {shown(images)})")
            if share is not None and not ((_is_whole(share) or isinstance(share, float)) and 0 <= share < 1):
                self.faults.append(
                    f"{place}: contamination is a part of the training images below 1 (got {shown(share)})"
                )
                share = None
            if images is not None and share is not None:
                self.faults.append(f"{place}: train_images and contamination both draw training images; give one")
            detector = self._detector(lane, lanes[lane], place, {}, over)
            if detector:
                variants.append(Variant(variant, detector, images, share))
        return Study(name, bases, tuple(variants), draws)

    def _bases(self, written: object, detectors: Mapping[str, Detector], path: str) -> tuple[str, ...]:
        """The detectors of a study; none if one of these is wrong."""
        methods = {lane: lane for lane, detector in detectors.items() if detector.method and not detector.joins}
        named = [self.choice(each, methods, path) for each in (written if isinstance(written, list) else [written])]
        bases = tuple(each for each in named if each)
        if not named or len(set(bases)) < len(bases):
            self.faults.append(f"{path}: a detector above, or a list of these without repetition")
        return bases if len(set(bases)) == len(named) else ()

    def _variants(self, options: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
        """Name -> what differs from the base."""
        if "variants" in options:
            named = self.mapping(options["variants"], f"{path}.variants")
            return {name: self.mapping(own, f"{path}.variants.{key_text(name)}") for name, own in named.items()}
        lists = self.mapping(options["vary"], f"{path}.vary")
        for key, values in lists.items():
            if not isinstance(values, list) or not values:
                self.faults.append(f"{path}.vary.{key_text(key)}: a list of values (got {shown(values)})")
                return {}
        count = prod(len(values) for values in lists.values())
        if count > MOST_VARIANTS:
            self.faults.append(f"{path}.vary: {count:,} combinations, at most {MOST_VARIANTS:,} are measured")
            return {}
        combined = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
        variants = {", ".join(f"{key}={_plain(value)}" for key, value in own.items()): own for own in combined}
        if len(variants) < len(combined):
            self.faults.append(f"{path}.vary: two combinations have one name, such as a value that is listed twice")
            return {}
        return variants

    def _detector(
        self,
        name: str,
        section: object,
        path: str,
        earlier: Mapping[str, Detector],
        over: Mapping[str, Any] | None = None,
    ) -> Detector | None:
        """One detector; the values in `over` (of a study's variant) win over those of categories too."""
        over = over or {}
        options = self.mapping(section, path)
        decision = self._decision(options, path)
        exported = options.pop("export", None)
        export = self.model(Export, exported, f"{path}.export") if exported is not None and not over else None
        options |= over
        paper = options.pop("paper", None)
        if paper is not None:
            self.choice(paper, {system: system for system in systems()}, f"{path}.paper")
        method = options.pop("method", None)
        if method in (Ensemble.name, Joint.name):
            of_detectors = self._ensemble if method == Ensemble.name else self._joint
            made = of_detectors(name, options, path, earlier)
            if made and export:
                self._check_export(path, [earlier[member] for member in made.members] or [made])
            decision = made.decision if made and decision == Decision() else decision
            return made and replace(made, paper=paper, decision=decision, export=export)
        draws: Any = plain(options.pop("draws", 1))
        extractor = self.choice(options.pop("extractor", None), self.extractor_names, f"{path}.extractor")
        choices: dict[str, Any] = {**METHODS, Ensemble.name: Ensemble, Joint.name: Joint}
        method_type = self.choice(method, choices, f"{path}.method")
        if not method_type or not extractor:
            return None
        written = tuple(options["categories"]) if isinstance(options.get("categories"), Mapping) else ()
        values, by_category = self._preset(method_type, options, path)
        taps = self.extractors[extractor].taps if extractor in self.extractors else None
        configured = self._method(method_type, values, path, taps)
        if not configured:
            return None
        wins = {key: value for key, value in over.items() if key in method_type.model_fields}
        categories = {
            category: self._method(method_type, {**values, **own, **wins}, f"{path}.categories.{category}", taps)
            for category, own in by_category.items()
        }
        own_methods = {category: own for category, own in categories.items() if own}
        detector = Detector(name, configured, (), extractor, paper, own_methods, written, decision, export)
        if "draws" in over:
            self.faults.append(f"{path}.draws: variants of a study have as many draws as the study; write draws there")
        elif fault := draws_fault(draws, detector) if not over else "":
            self.faults.append(f"{path}.draws: {fault} (got {shown(draws)})")
        elif not over:
            detector = replace(detector, draws=draws)
        if export:
            self._check_export(path, [detector])
        return detector

    def _ensemble(
        self, name: str, options: dict[str, Any], path: str, earlier: Mapping[str, Detector]
    ) -> Detector | None:
        """A lane that fuses detectors above it."""
        ensemble = self.model(Ensemble, options, path)
        for member in ensemble.members if ensemble else ():
            if member not in earlier or earlier[member].members:
                self.faults.append(
                    f"{path}.members: {shown(member)} is not a detector above this one; choose from: "
                    + (", ".join(n for n, d in earlier.items() if not d.members) or "none")
                )
                return None
        if ensemble is None:
            return None
        members = ensemble.members
        if len(members) == 1:
            alone = earlier[members[0]]
            if alone.draws == 1:
                self.faults.append(
                    f"{path}.members: {alone.name} is alone and has one seed; name a second detector, or give it draws"
                )
                return None
            members = (alone.name, *further_draws(alone))
        return Detector(name, None, members, earlier[members[0]].extractor, None)

    def _joint(self, name: str, options: dict[str, Any], path: str, earlier: Mapping[str, Detector]) -> Detector | None:
        """A lane that scores as a detector above it does, with what that learnt of all categories."""
        joint = self.model(Joint, options, path)
        lanes = {lane: detector for lane, detector in earlier.items() if detector.method and not detector.joins}
        joined = self.choice(joint.of, lanes, f"{path}.of") if joint else None
        if joined is None:
            return None
        if fault := join_fault(joined):
            self.faults.append(f"{path}.of: {joined.name} cannot be joined: {fault}")
            return None
        return replace(joined, name=name, written=(), joins=joined.name, draws=1, draw_of=None)

    def _check_export(self, path: str, detectors: Sequence[Detector]) -> None:
        """Note why one of the detectors of a bundle cannot be exported."""
        for detector in detectors:
            if detector.joins:
                self.faults.append(f"{path}.export: {detector.name} is joint: export {detector.joins}, which it joins")
                return
            for method in (detector.method, *detector.categories.values()):
                if method and detector.extractor in self.extractors:
                    fault = export_fault(method, self.extractors[detector.extractor])
                    if fault:
                        self.faults.append(f"{path}.export: {detector.name} cannot be exported: {fault}")
                        return

    def _preset(
        self, method_type: type[Method[Any]], options: dict[str, Any], path: str
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The values of a detector and of single categories: those of its preset under those that are written."""
        preset: dict[str, Any] = {}
        if "preset" in options:
            preset = dict(self.choice(options.pop("preset"), method_type.presets, f"{path}.preset") or {})
        by_category = {name: dict(values) for name, values in preset.pop("categories", {}).items()}
        for category, own in self.section(options, "categories", path).items():
            place = f"{path}.categories.{key_text(category)}"
            if not CATEGORY_KEY.fullmatch(category):
                self.faults.append(f"{place}: categories are named by letters, digits, _ and - only")
                continue
            written = self.mapping(own, place)
            by_category[category] = {**by_category.get(category, {}), **written}
        return {**preset, **options}, by_category

    def _method(
        self, method_type: type[Method[Any]], values: dict[str, Any], path: str, taps: Sequence[str] | None
    ) -> Method[Any] | None:
        """A method that suits an extractor with such taps; None: the extractor has faults of its own."""
        method = self.model(method_type, values, path, DETECTOR_KEYS)
        if method is None or taps is None:
            return method
        layers = method.layers or tuple(range(1, len(taps) + 1))
        if layers[-1] > len(taps):
            self.faults.append(f"{path}.layers: the extractor has {len(taps)} taps (got {list(layers)})")
            return None
        if taps[layers[-1] - 1] == CLASS_TOKEN and not method.reads_class_token:
            self.faults.append(
                f"{path}.layers: the last is the class token, one vector of the whole image, which {method.name} does "
                f"not read; write layers: {list(layers[:-1] or range(1, len(taps)))}"
            )
            return None
        try:
            method.check_layers(len(layers))
        except ValueError as error:
            self.faults.append(f"{path}.{error}")
            return None
        return method


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; true is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: object) -> str:
    """A value of a study as people write it: ``all`` for null, ``9x7x5`` for a list."""
    if value is None:
        return "all"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
