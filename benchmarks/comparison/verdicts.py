"""Rows of several seeds as one line, and how our tickets stand beside each peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan, nan
from statistics import mean, stdev

from rows import Row

OURS = "supertickets"  # what the names of our own entrants begin with
TOLERANCE = 0.02  # costs that differ by no more are equal: a budget is met, and time is measured, this closely


@dataclass(frozen=True)
class Line:
    """The rows of one entrant that starts from one network: means over the seeds, and the score's standard deviation."""

    entrant: str
    start: str
    seeds: int
    score: float
    deviation: float  # nan with one seed
    metric: str
    macs: float
    nonzeros: float
    bytes: float
    ms: float
    runtime: str
    epochs: float
    minutes: float

    @property
    def name(self) -> str:
        return f"{self.entrant} ({self.start})"

    @property
    def ours(self) -> bool:
        return self.entrant.startswith(OURS)

    def scored(self) -> str:
        """The score with its deviation."""
        return f"{self.score:.3f}" + ("" if isnan(self.deviation) else f" ± {self.deviation:.3f}")


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """The rows of one data set by entrant and start, the best score first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["entrant"], row["start"]), []).append(row)
    lines = []
    for (entrant, start), group in groups.items():
        averaged = ("macs", "nonzeros", "bytes", "ms", "epochs", "minutes")
        means = {key: mean(float(row[key]) for row in group) for key in averaged}
        scores = [float(row["score"]) for row in group]
        spread = stdev(scores) if len(scores) > 1 else nan
        runtime = "/".join(sorted({row["runtime"] for row in group}))
        known = {"metric": group[0]["metric"], "runtime": runtime, **means}
        lines.append(Line(entrant, start, len(group), mean(scores), spread, **known))
    return sorted(lines, key=lambda line: -line.score)


class Verdict(Enum):
    """How one of our tickets stands beside a peer, by score and by cost, which is MACs and milliseconds."""

    AHEAD = "ahead of"  # a higher score at no more cost
    NEITHER = "neither ahead of nor behind"  # close scores, or a better score at more cost
    BEHIND = "behind"  # a lower score at no less cost


@dataclass(frozen=True)
class Comparison:
    """One of our tickets beside a peer. Costs are as shares of the peer's."""

    verdict: Verdict
    ours: Line
    peer: Line
    doubt: str  # why the difference of the scores is not decided; empty where it is

    @property
    def gain(self) -> float:
        return self.ours.score - self.peer.score

    @property
    def shares(self) -> tuple[float, float, float]:
        """Our MACs, milliseconds and minutes of training."""
        pairs = ((getattr(self.ours, key), getattr(self.peer, key)) for key in ("macs", "ms", "minutes"))
        macs, ms, minutes = (mine / theirs for mine, theirs in pairs)
        return macs, ms, minutes


def compare(ours: Line, peer: Line) -> Comparison:
    """Our ticket beside a peer.

    Scores differ if they do so by more than one standard deviation of either; where both have one seed, nothing is decided.
    """
    gain = ours.score - peer.score
    deviations = [line.deviation for line in (ours, peer) if not isnan(line.deviation)]
    decided = bool(deviations) and abs(gain) > max(deviations)
    costs = [(ours.macs, peer.macs), (ours.ms, peer.ms)]
    dearer = any(mine > theirs * (1 + TOLERANCE) for mine, theirs in costs)
    cheaper = any(mine * (1 + TOLERANCE) < theirs for mine, theirs in costs)
    verdict = Verdict.NEITHER
    if decided and gain > 0 and not dearer:
        verdict = Verdict.AHEAD
    elif decided and gain < 0 and not cheaper:
        verdict = Verdict.BEHIND
    return Comparison(verdict, ours, peer, "" if decided else "within one deviation" if deviations else "one seed")


def comparisons_of(lines: Sequence[Line]) -> list[Comparison]:
    """For each peer the best verdict that any ticket of ours has on it."""
    tickets, order = [line for line in lines if line.ours], list(Verdict)
    peers = [line for line in lines if tickets and not line.ours]
    return [min((compare(ticket, peer) for ticket in tickets), key=lambda it: order.index(it.verdict)) for peer in peers]
