"""The output of `evaluate`: a JSON file with the scores and a table in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from supertickets.files import check_output_file, write_text
from supertickets.terminal import console, score_text, summary_table
from supertickets.ticket.hub import FILES


def check_scores_file(path: Path | None, *, inputs: Sequence[Path | None] = ()) -> None:
    """Raise `UserError` if the file for the scores, `--out`, is a folder, a device, one of the inputs or a part of a ticket."""
    if path is None:
        return
    folder = Path(os.path.realpath(path)).parent
    ticket = [folder / name for name in FILES if (folder / FILES[0]).exists()]
    check_output_file(path, named="--out", kind="a JSON file", inputs=[*filter(None, inputs), *ticket])


def report_scores(title: str, scores: Mapping[str, object], out: Path | None) -> None:
    """Write the scores to the JSON file `out`, if there is one, and show them, also if they cannot be written."""
    try:
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_text(out, json.dumps(scores, indent=1) + "\n")
    finally:
        console.print(score_table(title, scores))
    if out:
        console.print(f"written to {out}", highlight=False)


def score_table(title: str, scores: Mapping[str, object]) -> Table:
    """A table with one row for each score."""

    def text(value: object) -> str:
        if value is None or isinstance(value, float):
            return score_text(value)
        if isinstance(value, dict):
            return "\n".join(f"{key}: {text(part)}" for key, part in value.items())
        return str(value)

    return summary_table(title, {key: text(value) for key, value in scores.items()})
