"""Hundreds of benchmark files with something wrong in them: read, or refused in words, and soon."""

import os
import time
from collections import Counter
from pathlib import Path

from ad_assets.config.load import ConfigError, load_config
from tests.support.fuzzed import mutants

# 20,000 on request; each number is another set of files.
FILES = int(os.environ.get("AD_ASSETS_FUZZ", "600"))
SEED = 15
MOST_SECONDS = 2.0
MOST_CHARACTERS = 2000


def test_mutated_benchmark_files_are_read_or_refused_with_file_or_key(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    outcomes: Counter[str] = Counter()
    slowest, longest = 0.0, 0
    for number, data in enumerate(mutants(FILES, SEED)):
        path.write_bytes(data)
        # Of processor time: whatever else runs on the machine is not the parser's.
        started = time.process_time()
        try:
            load_config(path, environ={})
            outcomes["read"] += 1
        except ConfigError as error:
            outcomes["refused"] += 1
            message = str(error)
            longest = max(longest, len(message))
            assert message.startswith(str(path)), f"file {number}: {message}"
        except Exception as error:
            raise AssertionError(f"file {number} of seed {SEED}: {data[:2000]!r}") from error
        slowest = max(slowest, time.process_time() - started)
    assert slowest < MOST_SECONDS
    assert longest <= MOST_CHARACTERS
    # Mutations that break nothing would test nothing, and so would a parser that refuses everything.
    assert outcomes["refused"] > FILES / 2
    assert outcomes["read"] > FILES / 50
    print(f"{dict(outcomes)}, slowest {slowest:.2f} s, longest message {longest} characters")
