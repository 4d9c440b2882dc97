"""Definitions beside those of the benchmark file; all that lies here is loaded."""
