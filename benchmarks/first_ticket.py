"""Measure how long it takes from the user's own folder of images to a ticket and a report, following only the documentation.

    python benchmarks/first_ticket.py [TASK ...] [--images 200] [--out benchmarks/results/first_ticket.csv]

The script runs the commands of `docs/start/TASK.md` one after the other in a new folder, with drawn scenes as the user's
images. The packages must already be installed. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rows import write_rows

from supertickets.arguments import friendly
from supertickets.testing.own_data import write_own_data

ROOT = Path(__file__).parents[1]
TASKS = ("classification", "segmentation", "keypoint")
FIELDS = ("task", "images", "command", "seconds")
Row = dict[str, object]


def follow(task: str, images: int, folder: Path) -> Iterator[Row]:
    """Run the commands of the task's page in `folder` and yield the seconds of each."""
    shell_lines = runpy.run_path(str(ROOT / "docs" / "commands.py"))["shell_lines"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in shell_lines(ROOT / "docs" / "start" / f"{task}.md"):
        if line.startswith("pip "):
            continue
        if line.startswith("cd "):
            folder /= line[3:]
            write_own_data(folder / "data", task, train=images, val=images // 4, size_px=128)
            continue
        began = time.monotonic()
        subprocess.run(line, shell=True, check=True, cwd=folder, env=env, stdout=sys.stderr)
        yield {"task": task, "images": images, "command": line, "seconds": round(time.monotonic() - began, 1)}


@friendly
def main() -> None:
    """Print the time of each command and of each task."""
    parser = argparse.ArgumentParser(description="Time the way from own images to a ticket.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--images", type=int, default=200, help="training images; a fourth as many for validation")
    parser.add_argument("--out", type=Path, help="CSV file")
    options = parser.parse_args()
    rows: list[Row] = []
    for task in options.tasks or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            mine = list(follow(task, options.images, Path(folder)))
        for row in mine:
            print(f"{row['seconds']:8} s  {row['command']}")
        print(f"{task}: {sum(float(str(row['seconds'])) for row in mine) / 60:.1f} minutes in all", flush=True)
        rows += mine
    if options.out:
        write_rows(options.out, rows, FIELDS)


if __name__ == "__main__":
    main()
