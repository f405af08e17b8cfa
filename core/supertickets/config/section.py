"""The base of every group of settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator


class Section(BaseModel):
    """A group of settings. Unknown keys are an error, assignments are checked, and the docstring below a key is its help."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _expand_paths(cls, value: object) -> object:
        return expand_path(value) if isinstance(value, Path) else value


def expand_path(given: str | Path) -> Path:
    """A path with `~`, `~user` and `$NAME` written out, as a shell would. `ValueError` where one of them is not known."""
    text = os.path.expandvars(given)
    if unset := re.match(r"\$([A-Za-z_]\w*)(?=/|$)|\$\{([A-Za-z_]\w*)\}", str(text)):
        raise ValueError(f"{given}: the environment variable {unset[1] or unset[2]} is not set")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{given}: the home folder that ~ means is not known; write the path in full") from None
