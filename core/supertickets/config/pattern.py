"""N:M patterns: the text of `prune.pattern` as two numbers."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator


def read_pattern(text: str) -> tuple[int, int] | None:
    """(n, m) for "n:m", None for "none". Raises `ValueError` unless 1 <= n < m < 10,000."""
    if text == "none":
        return None
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text, re.ASCII)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"'{text}' is not a pattern: write none, or n:m with n below m and at most four digits, such as 2:4")
    return int(found[1]), int(found[2])


def _checked(text: str) -> str:
    read_pattern(text)
    return text


Pattern: TypeAlias = Annotated[str, AfterValidator(_checked)]  # "none" or n:m
