"""Type names for loosely typed data that the parts of the core and the tasks exchange."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # a JSON object, or data that can be written as one
Metrics: TypeAlias = dict[str, object]  # the results of an evaluation by name, JSON-serialisable and possibly nested
Batch: TypeAlias = Any  # what a task's loader yields; only the task itself uses its content
