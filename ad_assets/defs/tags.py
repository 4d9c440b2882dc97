"""Tags of runs: what a run was asked for, and whose it is."""

FORCE_TAG = "ad_assets/force"  # build artifacts even if the store has them
VERIFY_TAG = "ad_assets/verify"  # read images and artifacts again
PROCESS_TAG = "ad_assets/process"  # the command that carries a run out
