"""The one error that speaks to the user, and how it names many things in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(ValueError):
    """A message for the user: it names the file, key or value at fault and the valid choices.

    Entry points print it as one `error: ...` line and exit with status 2; anything else is a bug.
    """


def listed(names: Sequence[str]) -> str:
    """The first ten, and how many more."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def and_more(found: Sequence[Any]) -> str:
    """What goes behind the first of several: ` (and 3 more)`, or nothing where there is but one."""
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
