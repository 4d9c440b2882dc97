"""What `doctor` says of GPUs: those that are there, who computes on them, and why one would stay idle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

from ad_assets.config.benchmark import Benchmark
from ad_assets.kernels.nearest.faiss_build import faiss_builds, faiss_fault
from ad_assets.settings.compute import Compute
from ad_assets.settings.device_lease import Card, ask_driver, holders, visible_cards

Check = tuple[str, bool, str]  # subject, whether it is healthy, message
_FACTS = ("uuid", "driver_version", "compute_cap", "memory.free", "memory.total")


def gpu_checks(benchmark: Benchmark) -> Iterator[Check]:
    """Each GPU that torch sees, or why it sees none, and faiss."""
    cards = visible_cards()
    facts = {card["uuid"].removeprefix("GPU-"): card for card in ask_driver(*_FACTS)}
    for card in cards:
        yield f"GPU cuda:{card.number}", True, _description(card, facts.get(card.identity, {}))
    if not cards and benchmark.compute.device != "cpu" and (fault := idle_gpu(benchmark.compute, bool(facts))):
        yield "GPU", True, f"warning: {fault}"
    if faiss_builds():
        yield _faiss(benchmark, bool(cards))


def _description(card: Card, facts: dict[str, str]) -> str:
    import torch

    major, minor = torch.cuda.get_device_capability(card.number)
    said = [f"{card.name}, {card.identity}", f"compute capability {major}.{minor}"]
    sizes = [facts[key] for key in ("memory.free", "memory.total") if facts.get(key, "").isdigit()]
    if len(sizes) == 2:
        free, total = ((int(size) << 20) / 1e9 for size in sizes)
        said.append(f"{free:.1f} of {total:.1f} GB free")
    if facts:
        said.append(f"driver {facts['driver_version']}")
    numbers = holders(card)
    said.append(f"taken by process {', '.join(map(str, numbers))}" if numbers else "taken by no run")
    if not built_for(major, minor, torch.cuda.get_arch_list()):
        known = " ".join(torch.cuda.get_arch_list())
        said.append(f"warning: torch {torch.__version__} is built for {known}: install a build for this GPU")
    return ", ".join(said)


def built_for(major: int, minor: int, architectures: list[str]) -> bool:
    """Whether kernels of a torch build run on a GPU: binaries of its generation, or code to translate (PTX).

    >>> built_for(8, 6, ["sm_75", "sm_80"]), built_for(7, 0, ["sm_75", "sm_80"]), built_for(12, 1, ["compute_120"])
    (True, False, True)
    """
    for name in architectures:
        kind, own, older = re.match(r"(sm|compute)_(\d+)(\d)", name).groups()  # type: ignore[union-attr]
        if (int(own), int(older)) <= (major, minor) and (kind == "compute" or int(own) == major):
            return True
    return False


def idle_gpu(compute: Compute, driver_answers: bool) -> str:
    """Why torch sees no GPU although the machine has one, and the remedy; empty: it has none."""
    import torch

    if not (driver_answers or compute.model_copy(update={"device": "auto"}).may_use_gpu()):
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this machine has a GPU, and torch {torch.__version__} is a build for CPUs: all is computed on the CPU. "
            "Install a build for CUDA (pytorch.org, Get started), or write compute.device: cpu"
        )
    try:
        torch.cuda.init()
        reason = "CUDA_VISIBLE_DEVICES hides it"
    except (RuntimeError, AssertionError) as error:  # an old driver is told of with its version
        reason = str(error).split(". ")[0]
    return (
        f"this machine has a GPU that torch {torch.__version__} (CUDA {torch.version.cuda}) does not see, so all is "
        f"computed on the CPU: {reason}. Update the driver, or install a build of torch for it"
    )


def _faiss(benchmark: Benchmark, gpu: bool) -> Check:
    if fault := faiss_fault():
        return "faiss", False, fault
    (build,) = faiss_builds()
    try:
        seen = import_module("faiss").get_num_gpus()
    except (ImportError, AttributeError, OSError) as error:
        return "faiss", False, f"{build} cannot be loaded: {error}; install it anew"
    said = f"{build}, sees {seen} GPU{'s' * (seen != 1)}"
    if gpu and not seen and _searches_codes(benchmark):
        said += (
            "; warning: product codes (search: ivfpq) are searched on the CPU. For the GPU: "
            f"pip uninstall --yes {build.split()[0]}, then pip install 'ad-assets[gpu]'"
        )
    return "faiss", True, said


def _searches_codes(benchmark: Benchmark) -> bool:
    lanes = (lane.method for dataset in benchmark.datasets.values() for lane in dataset.detectors.values())
    return any(getattr(method, "search", "exact") == "ivfpq" for method in lanes)
