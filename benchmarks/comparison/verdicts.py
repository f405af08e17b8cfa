"""Rows of several seeds as one line, and whether one of our tickets is ahead of a peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import mean, stdev

from rows import Row

OURS = "supertickets"
TOLERANCE = 0.02  # on MACs: how closely a budget is met


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
    minutes: float

    @property
    def name(self) -> str:
        return f"{self.entrant}, {self.start}"

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
        means = {key: mean(float(row[key]) for row in group) for key in ("macs", "nonzeros", "bytes", "ms", "minutes")}
        scores = [float(row["score"]) for row in group]
        spread = stdev(scores) if len(scores) > 1 else nan
        runtime = "/".join(sorted({row["runtime"] for row in group}))
        known = {"metric": group[0]["metric"], "runtime": runtime, **means}
        lines.append(Line(entrant, start, len(group), mean(scores), spread, **known))
    return sorted(lines, key=lambda line: -line.score)


def lead(ours: Line, peer: Line) -> str:
    """'' where `ours` is ahead of `peer`: a higher score, by more than one standard deviation of either, at no more MACs and
    milliseconds. Otherwise what is missing, in words.
    """
    gain = ours.score - peer.score
    reasons = []
    if gain <= 0:
        reasons.append(f"its score is higher by {-gain:.3f}")
    elif isnan(ours.deviation) or isnan(peer.deviation):
        reasons.append(f"ours is higher by {gain:.3f}, but with one seed nothing is decided")
    elif gain <= max(ours.deviation, peer.deviation):
        reasons.append(f"ours is higher by {gain:.3f}, within one standard deviation")
    if ours.macs > peer.macs * (1 + TOLERANCE):
        reasons.append(f"it has {peer.macs / ours.macs:.2f} times our MACs")
    if ours.ms > peer.ms:
        reasons.append(f"it takes {peer.ms / ours.ms:.2f} times our time")
    return "; ".join(reasons)


def not_beaten(lines: Sequence[Line]) -> dict[str, str]:
    """The peers that no ticket of ours is ahead of, and what is missing for the ticket with the best score."""
    ours = [line for line in lines if line.entrant == OURS]
    peers = [line for line in lines if line.entrant != OURS]
    if not ours:
        return {peer.name: "there is no ticket of ours yet" for peer in peers}
    return {peer.name: lead(ours[0], peer) for peer in peers if all(lead(ticket, peer) for ticket in ours)}
