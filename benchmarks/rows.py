"""Rows of figures: the facts that each row records about its measurement, and CSV files that grow row by row."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from supertickets.errors import UserError
from supertickets.training.cpu import own_cores

Row = dict[str, str]


def commit() -> str:
    """The short hash of the commit that was measured, followed by + if the working tree differs from it."""
    where = Path(__file__).parent
    shown = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=where, capture_output=True, text=True)
    return shown.stdout.strip()


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    try:
        known = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except OSError:
        known = {}
    name = known.get("model name") or platform.processor() or platform.machine()
    kind = f" (family {known['cpu family']}, model {known['model']})" if "cpu family" in known else ""
    return f"{name}{kind}, {len(own_cores())} cores"


def check_counts(options: argparse.Namespace, *keys: str) -> None:
    """Raise `UserError` unless these options are at least 1."""
    for key in keys:
        if (number := getattr(options, key)) < 1:
            raise UserError(f"--{key}: {number} must be at least 1")


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file as text by column; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: Mapping[str, object], fields: Sequence[str]) -> None:
    """Add one row to a CSV file with these columns. Raises `UserError` if the file has other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if columns != list(fields):
            raise UserError(f"{path}: has the columns {', '.join(columns)}, not {', '.join(fields)}; move it away")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], fields: Sequence[str]) -> None:
    """Write a CSV file of these rows at once, replacing an existing one; its folder is created if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def find_row(rows: Sequence[Row], **known: object) -> Row | None:
    """The row with these values; None if there is none."""
    return next((row for row in rows if all(row[key] == str(value) for key, value in known.items())), None)
