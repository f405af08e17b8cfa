"""The records that a run logs, one per epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from supertickets.errors import UserError


def read_records(metrics_file: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl` file. Raises `UserError` for a line that is not the record of an epoch."""
    lines = metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_record(line, place=f"{metrics_file}:{number}") for number, line in enumerate(lines, 1)]


def _record(line: str, *, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not the record of an epoch") from error
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        raise UserError(f"{place}: not the record of an epoch")
    return record
