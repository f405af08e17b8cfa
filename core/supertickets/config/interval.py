"""Intervals between two saves: the text of `run.save_every` as a number and a unit."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator


def read_interval(text: str) -> tuple[int, str]:
    """(200, "steps") for "200 steps", (5, "minutes") for "5 minutes". Raises `ValueError` for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,8}) (step|minute)s?", text, re.ASCII)
    if found is None:
        raise ValueError(
            f"'{text}' is not an interval: write a whole number and steps or minutes, such as 200 steps or 5 minutes"
        )
    return int(found[1]), f"{found[2]}s"


def _checked(text: str) -> str:
    read_interval(text)
    return text


Interval: TypeAlias = Annotated[str, AfterValidator(_checked)]  # "N steps" or "N minutes"
