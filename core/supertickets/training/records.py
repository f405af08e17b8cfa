"""The records that a run logs, one per epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from supertickets.errors import UserError


def read_records(metrics_file: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl` file. Raises `UserError` for a line that is not the record of an epoch."""
    lines = metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        if (record := parse_record(line)) is None:
            raise UserError(f"{metrics_file}:{number}: not the record of an epoch")
        records.append(record)
    return records


def parse_record(line: str) -> dict[str, Any] | None:
    """The record of an epoch; None for a line that is damaged or was only partly written."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None
