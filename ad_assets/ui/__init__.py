"""Dagster's web server for people's browsers: who may ask, and how it is started."""
