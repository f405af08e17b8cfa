"""Names for the loosely typed data that rooms and tasks hand to each other."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # an object of a JSON file, or data that can be written as one
Metrics: TypeAlias = dict[str, object]  # the results of an evaluation by name: JSON-able, some of them nested
Batch: TypeAlias = Any  # what a task's loader yields; only that task looks inside
