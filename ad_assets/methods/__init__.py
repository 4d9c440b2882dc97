"""The systems, numerics only: one module per method, registered by name in `METHODS`."""

from ad_assets.methods import padim, simplenet
from ad_assets.methods.base import METHODS, Method
from ad_assets.methods.data import Batch, Features, LoadMatches, Matches, ScoreMaps
from ad_assets.methods.fod import fod
from ad_assets.methods.hetmm import hetmm
from ad_assets.methods.memory_bank import anomalydino, lof, patchcluster, patchcore, superadd
from ad_assets.methods.retrieval import rad, spade
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State
from ad_assets.settings.extensions import load_extensions

__all__ = [
    "METHODS",
    "Batch",
    "Features",
    "LoadMatches",
    "Matches",
    "Method",
    "Runtime",
    "ScoreMaps",
    "State",
    "anomalydino",
    "fod",
    "hetmm",
    "lof",
    "padim",
    "patchcluster",
    "patchcore",
    "rad",
    "simplenet",
    "spade",
    "superadd",
]

load_extensions("ad_assets.methods")
