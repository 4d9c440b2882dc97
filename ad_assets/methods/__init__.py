"""The systems, numerics only: one module per method, registered by name in `METHODS`."""

from ad_assets.methods import hetmm, padim, patchcore, spade
from ad_assets.methods.base import METHODS, Features, Method, Runtime, ScoreMaps, State

__all__ = ["METHODS", "Features", "Method", "Runtime", "ScoreMaps", "State", "hetmm", "padim", "patchcore", "spade"]
