"""The section of a detector: its method, preset and settings, single categories, ensembles and joint lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ad_assets.backbones.class_token import CLASS_TOKEN
from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Detector
from ad_assets.config.decision import Decision
from ad_assets.config.draws import draws_fault, further_draws
from ad_assets.config.export import Export, export_fault
from ad_assets.config.faults import Checker, key_text, shown
from ad_assets.config.joint import Joint, join_fault
from ad_assets.config.spelling import plain
from ad_assets.datasets.names import CATEGORY_KEY
from ad_assets.methods import METHODS, Method
from ad_assets.methods.ensemble import Ensemble
from ad_assets.papers.published import systems

# Beside the options of a method.
DETECTOR_KEYS = ("method", "extractor", "paper", "preset", "categories", "decision", "export", "draws")


class DetectorParser(Checker):
    """Turns sections of detectors into models; they name extractors that were read before."""

    def __init__(self) -> None:
        super().__init__()
        self.extractors: dict[str, Extractor] = {}
        self.extractor_names: dict[str, str] = {}  # those with faults too, so that a detector on one is no second fault

    def detector(
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
        decision = self.decision(options, path)
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

    def decision(self, options: dict[str, Any], path: str) -> Decision:
        return self.model(Decision, options.pop("decision", None), f"{path}.decision") or Decision()
