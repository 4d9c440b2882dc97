# Every target makes .venv and installs when needed. Only Python 3.11+, git, make and a compiler are asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The releases that are installed; `make install CONSTRAINTS=` takes the newest that pyproject.toml admits.
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: install lock demo test lives verify verify-gpu check bench peers dev clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	touch $@

# The S3 test server pins another botocore than s3fs does: it lives in an environment of its own.
.venv-s3/installed: tests/s3_server.txt
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --quiet --disable-pip-version-check -c tests/s3_server.txt 'moto[server]'
	touch $@

# anomalib, which `make peers` compares with; with the releases that nothing else here needs.
.venv-peers/installed: tests/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -c tests/peers.txt 'anomalib[cpu]'
	touch $@

# What the deployments to several machines need, for their tests: with the release of Dagster that they are for.
$(VENV)/deploy: $(VENV)/installed deploy/constraints.txt
	$(PIP) -c deploy/constraints.txt -e '.[celery,kubernetes,postgres,ray]'
	touch $@

# The pins anew, of the newest releases that the bounds in pyproject.toml admit; nothing is installed.
lock: install
	$(BIN)/python .ci/lock.py

demo: install
	@$(BIN)/ad-assets demo

# Three processes with a thread each, for some tests wait; those of a file stay together: they share what the first made.
# Compiled modules are kept, also where the environment says no: each process of a test would compile them again.
test: install .venv-s3/installed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not real"

# Ten thousand random lives of a line, `make test` lives some (docs/design/lives.md): the shortest schedule that fails is
# printed with its seed.
lives: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.lives $${SCHEDULES:-10000} $$SEED

# Slow and real-data checks too: crash test, Magnetic Tile Defects (AD_ASSETS_MTD=/path/to/mtd).
verify: install .venv-s3/installed $(VENV)/deploy
	$(BIN)/python -m pytest

# On a machine with a GPU: everything that computes there against the CPU, and a page of the figures, gpu.md.
verify-gpu: install
	@$(BIN)/python -m tests.gpu

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow and not real and not browser" tests

bench: install
	for bench in tests/benchmarks/bench_*.py; do $(BIN)/python -m tests.benchmarks.$$(basename $$bench .py) || exit 1; done

# This project beside anomalib: the same images, weights and settings (AD_ASSETS_MTD=/path/to/mtd adds the magnetic
# tiles). Writes docs/peers.md; half an hour on two cores.
peers: install .venv-peers/installed
	$(BIN)/python -m tests.peers

dev: install
	@$(BIN)/ad-assets dev --port $${PORT:-3000}

clean:
	rm -rf $(VENV) .venv-s3 .venv-peers .ad_assets .dagster_home
