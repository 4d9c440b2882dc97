"""Tags of runs."""

PROCESS_TAG = "ad_assets/process"  # the command that carries a run out
