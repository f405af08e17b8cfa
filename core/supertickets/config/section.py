"""The base of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings; unknown keys are an error, and assignments are checked like files are."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)
