#!/bin/sh
# From a folder of images to the first decision: sh docs/first_decision.sh IMAGES NEW_IMAGE
# Writes parts.yaml, a store (.ad_assets) and decisions/report.html to the current folder.
set -eu
ad-assets init "$1"                                   # looks at the folder, writes parts.yaml, checks it
ad-assets materialize --config parts.yaml             # features, memory bank, threshold, report
ad-assets predict --config parts.yaml --out decisions "$2"
