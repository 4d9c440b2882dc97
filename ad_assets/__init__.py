"""Industrial visual anomaly detection as a living Dagster asset graph."""
