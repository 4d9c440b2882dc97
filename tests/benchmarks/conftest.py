"""Benchmarks are programs: what they import, scikit-learn among it, is no business of each process of the suite."""

collect_ignore_glob = ["bench_*.py"]
