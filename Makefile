# Every target makes .venv and installs when needed. Only Python 3.11+, git, make and a compiler are asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home

.PHONY: install demo test verify check bench dev clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The S3 test server pins another botocore than s3fs does: it lives in an environment of its own.
.venv-s3/installed:
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --quiet --disable-pip-version-check 'moto[server]>=5.1'
	touch $@

# What the deployments to several machines need, for their tests.
$(VENV)/deploy: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[celery,postgres]'
	touch $@

demo: install
	@$(BIN)/ad-assets demo

test: install .venv-s3/installed
	$(BIN)/python -m pytest -m "not slow and not real"

# Slow and real-data checks too: crash test, Magnetic Tile Defects (AD_ASSETS_MTD=/path/to/mtd).
verify: install .venv-s3/installed $(VENV)/deploy
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not real and not browser" tests

bench: install
	for bench in tests/benchmarks/bench_*.py; do $(BIN)/python -m tests.benchmarks.$$(basename $$bench .py) || exit 1; done

dev: install
	@mkdir -p $(DAGSTER_HOME) && { [ -f $(DAGSTER_HOME)/dagster.yaml ] || cp dagster.yaml $(DAGSTER_HOME)/; }
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $${PORT:-3000}

clean:
	rm -rf $(VENV) .venv-s3 .ad_assets .dagster_home
