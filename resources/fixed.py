"""Settings of the benchmark file as Dagster resources that no run can configure.

The addresses of artifacts, the plan, the sensors and the conditions follow from the benchmark file. A store or a
precision that a run's own configuration could replace would file results where, or as what, nobody looks for them. So
runs are handed the very objects; configuration for them is refused, and Dagster records none of their values.
"""

from __future__ import annotations

import dagster as dg


def fixed_resource(value: object, description: str) -> dg.ResourceDefinition:
    """The resource that is this object in every run; any ``config`` for it is an error of the run."""
    return dg.ResourceDefinition(lambda _: value, config_schema={}, description=description)
