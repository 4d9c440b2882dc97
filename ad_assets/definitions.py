"""The code location: the benchmark file named by ``AD_ASSETS_CONFIG`` (default: the demo) as Dagster definitions."""

from ad_assets.config.load import load_config
from ad_assets.defs.build import build_definitions

defs, _ = build_definitions(load_config())
