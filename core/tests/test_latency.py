"""Laws of timing calls in turns."""

from __future__ import annotations

from supertickets.deploy.latency import latencies_ms, quartiles_ms


def times(**options: float) -> tuple[dict[str, list[float]], list[str]]:
    """What two calls take on a clock that they move on themselves, and the order in which they ran."""
    ran: list[str] = []
    now = [0.0]

    def call(name: str, seconds: float) -> None:
        ran.append(name)
        now[0] += seconds

    calls = {"a": lambda: call("a", 0.25), "b": lambda: call("b", 0.5)}
    return latencies_ms(calls, rounds=2, warmup=1, clock=lambda: now[0], **options), ran


def test_calls_take_turns_in_a_rotating_order_and_the_warm_up_does_not_count():
    taken, ran = times()
    assert taken == {"a": [250.0, 250.0], "b": [500.0, 500.0]}
    assert ran == ["b", "a", "a", "b", "b", "a"]


def test_with_a_pause_an_untimed_call_comes_first():
    taken, ran = times(pause=1e-6)
    assert taken == {"a": [250.0, 250.0], "b": [500.0, 500.0]}
    assert ran == [name for name in "baabba" for _ in range(2)]


def test_a_burst_counts_as_one_measurement():
    taken, ran = times(pause=1e-6, burst=3)
    assert taken == {"a": [250.0, 250.0], "b": [500.0, 500.0]}
    assert ran == [name for name in "baabba" for _ in range(4)]


def test_quartiles_of_one_measurement_are_all_that_measurement():
    assert quartiles_ms([2.0]) == (2.0, 2.0, 2.0) and quartiles_ms([1.0, 2.0, 3.0])[1] == 2.0
