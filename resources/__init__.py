"""Dagster resources of this repository's code location; the assets of `ad_assets` need none."""
