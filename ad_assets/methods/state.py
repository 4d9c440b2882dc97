"""The fitted state of a method, as the store keeps it: tensors and JSON values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class State:
    """What a method fitted. Fields are tensors, lists or dicts of tensors (stored as safetensors), or JSON values."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; those of a list are called ``<field>.<number>``, those of a dict ``<field>.<key>``."""
        found: dict[str, Tensor] = {}
        for name, value in self._values().items():
            if _is_tensor(value):
                found[name] = value
            else:
                found |= {f"{name}.{key}": tensor for key, tensor in _named_tensors(value).items()}
        return found

    def info(self) -> dict[str, Any]:
        """The JSON fields by name; of a list of tensors its length, of a dict of tensors its keys."""
        return {
            name: value if not _named_tensors(value) else len(value) if isinstance(value, list) else list(value)
            for name, value in self._values().items()
            if not _is_tensor(value)
        }

    @classmethod
    def from_parts(cls, tensors: dict[str, Tensor], info: dict[str, Any]) -> Self:
        """The inverse of `tensors` and `info`."""
        fields = {name: value for name, value in tensors.items() if "." not in name} | info
        for name in {name.partition(".")[0] for name in tensors if "." in name}:
            if isinstance(info[name], int):
                fields[name] = [tensors[f"{name}.{number}"] for number in range(info[name])]
            else:
                fields[name] = {key: tensors[f"{name}.{key}"] for key in info[name]}
        return cls(**fields)

    def to(self, device: str) -> Self:
        """The same state with its tensors on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return self.from_parts(tensors, self.info())

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _named_tensors(value: object) -> dict[str, Tensor]:
    """The tensors of a list or dict by number or key; empty if it holds none."""
    named: dict[str, Any] = {}
    if isinstance(value, list):
        named = {str(number): entry for number, entry in enumerate(value)}
    elif isinstance(value, dict):
        named = value
    return named if named and _is_tensor(next(iter(named.values()))) else {}
