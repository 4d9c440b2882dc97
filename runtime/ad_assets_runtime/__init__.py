"""What a line's computer runs: bundles of detectors, without torch, Dagster or the store.

Its decoding, geometry, regions and p-values are those of `ad_assets`, which imports them from here.
"""
