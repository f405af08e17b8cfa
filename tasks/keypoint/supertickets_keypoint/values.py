"""Values in COCO's JSON in the forms that tools write: ids as text or fractions, numbers as text, flags as words."""

from __future__ import annotations

from collections.abc import Container
from math import isfinite

LARGEST = 1e12  # limit for coordinates, areas and scores: larger than in any picture, but safe to compute with
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "": 0}


def to_id(value: object) -> int | str | None:
    """An id: a whole number, which may be written as 7.0, or a text. None for anything else."""
    if isinstance(value, float):
        return int(value) if isfinite(value) and value.is_integer() else None
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def other_form(value: int | str) -> int | str | None:
    """The other form of the same id, as text or as a number: 7 and "7"; None for a text that is not a number."""
    if isinstance(value, int):
        return str(value)
    return int(value) if value.isdecimal() and len(value) <= 30 else None


def match_id(value: object, known: Container[int | str]) -> int | str | None:
    """The known id that `value` refers to, either exactly or in its other form. None if there is none."""
    exact = to_id(value)
    if exact is None or exact in known:
        return exact
    other = other_form(exact)
    return other if other is not None and other in known else None


def same_id(one: object, other: int | str | None) -> bool:
    """Whether two ids are the same, regardless of the form in which they are written."""
    return other is not None and match_id(one, (other,)) is not None


def to_number(value: object) -> int | float | None:
    """A finite number, which may be written as text. None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        return None
    return value


def to_whole(value: object) -> int | None:
    """A whole number, which may be written as 64.0 or as text. None for anything else."""
    number = to_number(value)
    return int(number) if number is not None and number == int(number) else None


def to_flag(value: object) -> int | None:
    """0 or 1 from a number, a Boolean or the corresponding text; a missing value is 0. None for anything else."""
    if value is None:
        return 0
    if isinstance(value, str):
        return FLAGS.get(value.strip().lower())
    return int(bool(value)) if isinstance(value, int | float) and value == value else None
