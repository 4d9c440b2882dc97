"""``python -m ad_assets_runtime``."""

import sys

from ad_assets_runtime.command import main

sys.exit(main())
