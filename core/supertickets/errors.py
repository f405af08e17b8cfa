"""The errors that are shown to the user, and helpers that list many items in one line."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Mapping, Sequence, Sized
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A message for the user: it names the file, key or value at fault and the valid choices.

    Entry points print it as one `error: ...` line and exit with status 2; any other exception is a bug.
    """


class SharedError(UserError):
    """A `UserError` that all processes of a run raise together; the first process prints it."""


class Stopped(Exception):
    """Raised after a run that was asked to stop has saved its state. Entry points print it and exit with `status`."""

    def __init__(self, asked_by: signal.Signals | None, *, checkpoint: str, step: int | None = None) -> None:
        self.name = "another process" if asked_by is None else asked_by.name
        self.status = 128 + (signal.SIGTERM if asked_by is None else asked_by)
        self.checkpoint, self.step = checkpoint, step
        self.folder = ""  # of the run

    def __str__(self) -> str:
        again = f"the same command with --run.dir {self.folder} --run.resume" if self.folder else "run.resume"
        after = "" if self.step is None else f" after step {self.step}"
        return f"stopped by {self.name}{after}, saved in {self.checkpoint}; {again} continues the run"


def one_of(choices: Mapping[str, T], name: str, *, key: str) -> T:
    """The choice with this name. Raises `UserError`, naming the config key, the most similar choice and all valid ones."""
    if name not in choices:
        near = difflib.get_close_matches(name, choices, 1)
        hint = f": did you mean {near[0]}?" if near else ":"
        raise UserError(f"{key}: {name!r} is not known{hint} valid: {', '.join(choices)}")
    return choices[name]


def listed(names: Sequence[str]) -> str:
    """The first ten names, and the number of the others."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def and_more(found: Sized) -> str:
    """The text that follows the first of several items in a message: ` (and 3 more)`, or nothing if there is only one item."""
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
