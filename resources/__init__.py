"""Dagster resources: the artifact store, backbones and compute settings."""
