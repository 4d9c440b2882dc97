"""Where images pass the backbones: the ``extract:`` section of the benchmark file."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from ad_assets.settings.model import Settings

LOCAL = "local"


class Extract(Settings):
    """Which machines extract features, which changes no number: in the run's own process, or on Ray."""

    engine: Literal["process", "ray"] = Field(
        "process",
        description="what spreads images over processes; ray (the extra ray) decodes in tasks and holds the backbone "
        "in actors, which write to the store themselves",
    )
    address: str = Field(
        LOCAL,
        examples=["auto", "ray-head:6379"],
        description="of Ray: local starts one on this machine for the run, on loopback; auto is one that runs here, "
        "<host>:<port> a cluster that this machine belongs to. Its machines have this package with the same weights, "
        "and see store and images under the same names",
    )
    actors: int = Field(
        0,
        ge=0,
        le=100_000,
        description="backbones that compute at once on Ray; 0: one a GPU, else one a core",
    )

    @field_validator("address")
    @classmethod
    def _known_address(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "Ray's client runs no Ray Data: let a machine of the cluster run this, and write address: auto there"
            )
        if not re.fullmatch(r"local|auto|[\w.-]+:\d{1,5}", address):
            raise ValueError(f"unknown address {address!r}; allowed: local, auto, <host>:<port>")
        return address
