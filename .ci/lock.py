"""Write the pins that `make` installs: the newest releases that the bounds in pyproject.toml admit (`make lock`).

Resolved for the oldest Python that is supported, so that newer ones find the same releases; pip alone is needed, and
nothing is installed. What a build of torch brings along for a GPU is left out: torch names those releases itself, and a
build for another CUDA version or for none asks for others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
OF_TORCH = re.compile(r"(nvidia|cuda)-|triton$")
# Dagster's packages for PostgreSQL, Celery and Kubernetes want the very release of Dagster that they came out with, and
# come out later; the S3 test server wants another botocore than s3fs; nothing here needs anomalib.
FILES = {
    "constraints.txt": (".[dev]", "what `make install` installs"),
    "deploy/constraints.txt": (".[dev,celery,kubernetes,postgres,ray]", "the same with the extras of the deployments"),
    "tests/peers.txt": ("anomalib[cpu]>=2.7", "what `make peers` compares with, in an environment of its own"),
    "tests/s3_server.txt": ("moto[server]>=5.1", "the S3 server of the tests, in an environment of its own"),
}

# FrEIA, which anomalib needs, comes as source alone, and pip resolves that for the Python that runs, no other.
WITH_SOURCES = ("tests/peers.txt",)


def main() -> None:
    """Resolve and write each file, or those that are named."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = project["requires-python"].removeprefix(">=")
    for name in sys.argv[1:] or FILES:
        requirement, what = FILES[name]
        pins = resolve(requirement, None if name in WITH_SOURCES else python)
        pins.pop(project["name"], None)
        lines = [f"# {what[0].upper()}{what[1:]}; `make lock` makes it anew.", *(f"{n}=={v}" for n, v in pins.items())]
        (REPOSITORY / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(pins)} releases")  # noqa: T201


def resolve(requirement: str, python: str | None) -> dict[str, str]:
    """Name -> version of all that a requirement needs on a version of Python (None: this one), this platform."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        resolve_only = ["--dry-run", "--ignore-installed"]
        resolve_only += ["--only-binary=:all:", "--python-version", python] if python else []
        into = ["--target", folder, "--report", str(report)]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *resolve_only, *into, requirement], cwd=REPOSITORY, check=True)  # noqa: S603
        found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    versions = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}
    return {name: version for name, version in sorted(versions.items()) if not OF_TORCH.match(name)}


if __name__ == "__main__":
    main()
