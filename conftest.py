"""What pytest must not import where an optional package is missing: it looks for doctests in every module."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("dagster_celery") else ["ad_assets/defs/celery_launcher.py"]
