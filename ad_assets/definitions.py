"""The code location: the benchmark file named by ``AD_ASSETS_CONFIG`` (default: the demo), and what the project adds.

The project is the folder ``project`` of a clone, where ``dg scaffold defs`` writes to; an installed package has none.
"""

import sys
from pathlib import Path

import dagster as dg

from ad_assets.config.load import load_config
from ad_assets.defs.build import location_definitions
from resources.benchmark import BenchmarkFile

REPOSITORY = Path(__file__).parents[1]


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions of the code location."""
    location = dg.Definitions.merge(
        location_definitions(load_config()), dg.Definitions(resources={"benchmark": BenchmarkFile(file=None)})
    )
    if not (REPOSITORY / "project" / "defs").is_dir():
        return location
    if str(REPOSITORY) not in sys.path:  # a server may run elsewhere
        sys.path.append(str(REPOSITORY))
    return dg.Definitions.merge(location, dg.load_from_defs_folder(path_within_project=REPOSITORY / "project"))
