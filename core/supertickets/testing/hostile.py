"""Data with one place changed to something unexpected, for tests that readers refuse it with a one-line message."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

HOSTILE: tuple[object, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), 10**6, 10**12, 2**62, 2**63, -(10**30)),
    *(
        "",
        "x",
        "x" * 5000,
        "\ud800",
        "[bold]",
        "class_1",
        "../../x",
        "/dev/zero",
        "segmentation",
        "nan",
        "0x10",
        "${HOME}",
        "~",
    ),
    *([], {}, [[]], [None], [0], ["a", "a"], {"a": {}}, {"": 1}, [1] * 300, ["x"] * 300, {str(i): i for i in range(300)}),
)


def mutated(value: object, rng: random.Random) -> object:
    """A copy of JSON data in which one place is removed, duplicated, or replaced by something hostile or by another place."""
    copied = json.loads(json.dumps(value))
    places = [
        (holder, key) for holder in _holders(copied) for key in (holder if isinstance(holder, dict) else range(len(holder)))
    ]
    if not places:
        return rng.choice(HOSTILE)
    holder, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif how == 1:
        holder[f"{key}x"] = holder[key]
    elif how == 2:
        other, at = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[at]))
    elif how == 3 and type(holder[key]) in (int, float):
        holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 10, holder[key] * 10**6, str(holder[key])))
    elif how == 4 and rng.random() < 0.1:
        for _ in range(rng.choice((30, 300))):
            holder[key] = [holder[key]]
    else:
        holder[key] = rng.choice(HOSTILE)
    return copied


def _holders(value: object) -> Iterator[Any]:
    """All mappings and lists in JSON data, including the data itself."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            yield one
            waiting += one.values() if isinstance(one, dict) else one
