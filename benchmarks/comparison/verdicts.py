"""Combines rows of several seeds into one line, and compares our tickets with each peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan, nan
from statistics import mean, stdev

from rows import Row

OURS = "supertickets"  # prefix of the names of our own entrants
TOLERANCE = 0.02  # relative differences of costs up to this count as equal, because budgets and times are only this accurate


@dataclass(frozen=True)
class Line:
    """The rows of an entrant that starts from a network: means over the seeds, and the standard deviation of the score."""

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
    """The comparison of one of our tickets with a peer, by score and by cost, that is, MACs and milliseconds."""

    AHEAD = "ahead of"  # a higher score at no more cost
    NEITHER = "neither ahead of nor behind"  # close scores, or a better score at more cost
    BEHIND = "behind"  # a lower score at no less cost


@dataclass(frozen=True)
class Comparison:
    """One of our tickets compared with a peer. Costs are relative to the peer's."""

    verdict: Verdict
    ours: Line
    peer: Line
    doubt: str  # why the difference of the scores is not decided; empty if it is decided

    @property
    def gain(self) -> float:
        return self.ours.score - self.peer.score

    @property
    def shares(self) -> tuple[float, float, float]:
        """A text with our MACs, milliseconds and minutes of training."""
        pairs = ((getattr(self.ours, key), getattr(self.peer, key)) for key in ("macs", "ms", "minutes"))
        macs, ms, minutes = (mine / theirs for mine, theirs in pairs)
        return macs, ms, minutes


def compare(ours: Line, peer: Line) -> Comparison:
    """Compare our ticket with a peer.

    Scores count as different if the difference exceeds one standard deviation of either; with one seed each, nothing is
    decided.
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
    """For each peer, the best verdict of any of our tickets.

    Among those with the same verdict, a ticket with a higher score than the peer's comes first, and then the cheapest of those
    that cost more than the peer.
    """
    tickets, order = [line for line in lines if line.ours], list(Verdict)
    peers = [line for line in lines if tickets and not line.ours]

    def rank(it: Comparison) -> tuple[int, bool, float, float]:
        macs, ms, _ = it.shares
        return order.index(it.verdict), it.gain <= 0, max(macs, ms, 1 + TOLERANCE), -it.gain

    return [min((compare(ticket, peer) for ticket in tickets), key=rank) for peer in peers]
