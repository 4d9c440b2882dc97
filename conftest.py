"""What pytest must not import: it looks for doctests in every module."""

from importlib.util import find_spec

collect_ignore = ["tests/data"]  # modules of other packages, which register what they bring
if not find_spec("dagster_celery"):
    collect_ignore.append("ad_assets/defs/celery_launcher.py")
