"""The Dagster project of this repository: what is added here to the assets of the benchmark file.

``dg scaffold defs dagster.asset mine.py`` and the like write into `defs`, which `ad_assets.definitions` loads.
"""
