"""The base of every group of settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from supertickets.names import printable


def _of_unit_range(value: float) -> float:
    if abs(value) > 10:
        raise ValueError(f"{value} given, but colours range from 0 to 1 here; divide means and deviations for 0 to 255 by 255")
    return value


Mean = Annotated[float, AfterValidator(_of_unit_range)]
"""Of a colour between 0 and 1."""
Deviation = Annotated[float, Field(ge=1e-4), AfterValidator(_of_unit_range)]
"""Standard deviation of a colour between 0 and 1."""
LARGEST = 2**31  # no network or run needs a larger whole number


class Section(BaseModel):
    """A group of settings. Unknown keys are an error, assignments are checked, and the docstring below a key is its help.

    Numbers must be finite, and whole numbers at most `LARGEST`.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def paths(self) -> list[Path]:
        """All files and folders that the settings name."""
        values = [getattr(self, name) for name in type(self).model_fields]
        below = [path for value in values if isinstance(value, Section) for path in value.paths()]
        return [value for value in values if isinstance(value, Path)] + below

    @field_validator("*")
    @classmethod
    def _expand_paths(cls, value: object) -> object:
        if isinstance(value, Path):
            value = expand_path(value)
            if printable(str(value)) != str(value):  # settings are stored as UTF-8
                raise ValueError(f"{printable(str(value))}: the name is not UTF-8; rename it, or use a link with another name")
        return value

    @field_validator("*")
    @classmethod
    def _bound_numbers(cls, value: object, info: ValidationInfo) -> object:
        named = str(info.field_name).endswith("_id")  # an id in the user's data may be any number
        if isinstance(value, int) and abs(value) > LARGEST and not named:
            raise ValueError(f"{value} given, expected at most {LARGEST}")
        return value


def expand_path(given: str | Path) -> Path:
    """Expand `~`, `~user` and `$NAME` in a path, as a shell does. Raises `ValueError` if one of them is not known."""
    text = str(os.path.expandvars(given))
    if unset := re.search(r"(?:^|/)\$(?:([A-Za-z_]\w*)(?=/|$)|\{([A-Za-z_]\w*)\})", text):
        raise ValueError(f"{given}: the environment variable {unset[1] or unset[2]} is not set")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{given}: the home folder for ~ is not known; write the full path") from None
