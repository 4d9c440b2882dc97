"""What a new user tries first, mistakes included: runs it, and prints what came back with its seconds as a table.

The seconds are of the clock and, with all processes that were begun, of the CPU.

python docs/ten_things.py IMAGES    # a folder of images in MVTec layout, which is copied; `ad-assets` is on the PATH

Exit status 1 if anything ended otherwise than it should.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTING = "--set datasets.parts.detectors.patchcore.coreset_rati{}=0.2 --config parts.yaml"
# What is tried, the command, and how it may end; {category} is the first of the folder, {image} one of its images.
THINGS = (
    ("a wrong path", "ad-assets init nowhere", (2,)),
    ("an empty folder", "mkdir empty; ad-assets init empty", (2,)),
    ("the right folder", "ad-assets init images", (0,)),
    ("what would run", "ad-assets status --config parts.yaml | head -n 1", (0,)),
    (
        "a run, interrupted",
        "timeout --preserve-status -s INT 6 ad-assets materialize --config parts.yaml",
        (130, 0),
    ),
    (
        "the same again, and a second one beside it",
        "ad-assets materialize --config parts.yaml > other.txt 2>&1 & sleep 4; "
        "ad-assets materialize --config parts.yaml 2>&1 | grep -e BESIDE -e ' s$'; wait",
        (0,),
    ),
    ("once more", "ad-assets materialize --config parts.yaml", (0,)),
    ("a misspelt key", f"ad-assets status {SETTING.format('on')}", (2,)),
    ("a changed setting", f"ad-assets status {SETTING.format('o')}", (0,)),
    ("... and back", "ad-assets status --config parts.yaml", (0,)),
    ("a misspelt category", "ad-assets predict --config parts.yaml --category {category}x new", (2,)),
    ("a folder of new images", "ad-assets predict --config parts.yaml --category {category} --out seen new", (0,)),
    (
        "a corrupt image",
        "head -c 999 {image} > images/{category}/train/good/cut.png; ad-assets materialize --config parts.yaml",
        (1,),
    ),
    ("... taken away", "rm images/{category}/train/good/cut.png; ad-assets status --config parts.yaml", (0,)),
)
SHOWN = 150  # characters of an answer


def answer_of(output: str) -> str:
    """The line that says most: what failed, or the last one."""
    lines = [line for line in output.splitlines() if line.strip()] or [""]
    place = next((n for n, line in enumerate(lines) if line.startswith(("ad-assets: ", "FAILED ", "BESIDE "))), -1)
    faults = lines[place].endswith("fault(s):")  # the first of them says what
    said = " ".join(line.strip() for line in lines[place : place + 2]) if faults else lines[place]
    said = said.replace("|", "\\|")
    return said if len(said) <= SHOWN else f"{said[:SHOWN]} ..."


def cpu_seconds() -> float:
    """Of all processes that were begun here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(images: Path) -> int:
    """Try everything in a folder of its own."""
    category = sorted(path.name for path in images.iterdir() if path.is_dir())[0]
    wrong = 0
    print("| what | command | exit status | seconds | CPU seconds | what came back |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(images, folder / "images", ignore=shutil.ignore_patterns(".*"))
        shutil.copytree(folder / "images" / category / "test", folder / "new")
        image = sorted((folder / "images" / category / "train" / "good").iterdir())[0].relative_to(folder)
        for what, command, statuses in THINGS:
            command = command.format(category=category, image=image)
            started, before = time.perf_counter(), cpu_seconds()
            done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
            seconds, computed = time.perf_counter() - started, cpu_seconds() - before
            traced = "Traceback" in done.stdout + done.stderr
            wrong += traced or done.returncode not in statuses
            shown = command.replace("|", "\\|")
            times = f"{seconds:.1f} | {computed:.1f}"
            print(f"| {what} | `{shown}` | {done.returncode} | {times} | {answer_of(done.stderr + done.stdout)} |")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
