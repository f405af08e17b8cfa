"""The base of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings. Unknown keys are an error, assignments are checked, and the docstring below a key is its help."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, use_attribute_docstrings=True)
