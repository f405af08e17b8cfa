"""Latency of several networks, measured alternately, so that anything that slows the machine affects all of them equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import quantiles

Latencies = dict[str, list[float]]


def latencies_ms(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    warmup: int = 3,
    pause: float = 0.0,
    burst: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Latencies:
    """Milliseconds of each call in `rounds` rounds; every round runs them in a rotating order.

    `warmup` rounds run first and are not counted. With `pause`, each timed call is preceded by that many seconds of rest, in
    which threads of other calls stop spinning, and by an untimed call, which wakes the call's own threads. `burst` calls
    immediately follow one another and are timed together; their mean counts as one measurement. `clock` returns seconds;
    `time.process_time` does not count the time of other processes on a busy machine, but counts the time of all threads.
    """
    names = list(calls)
    taken: Latencies = {name: [] for name in names}
    for i in range(-warmup, rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if pause:
                time.sleep(pause)
                calls[name]()
            began = clock()
            for _ in range(burst):
                calls[name]()
            if i >= 0:
                taken[name].append((clock() - began) / burst * 1e3)
    return taken


def quartiles_ms(taken: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, median, high = quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
    return low, median, high
