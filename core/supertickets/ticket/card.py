"""The model card of a ticket: its description, scores and costs and how to load it, all taken from the ticket itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supertickets.terminal import beside_supernet, human
from supertickets.ticket.facts import describe, preprocessing

if TYPE_CHECKING:
    from supertickets.ticket.ticket import Ticket

_COSTS = {"macs", "sparse_macs", "params", "sparsity", "units", "protocol"}  # metrics that are in another section of the card


def model_card(ticket: Ticket, repo_id: str, *, picture: str | None = None) -> str:
    """Markdown with the hub's YAML header, for a README.md next to the ticket; it shows the file `picture`."""
    facts = describe(ticket)
    height, width = facts["size"]
    how = preprocessing(ticket, (height, width))
    full = ticket.provenance.get("supernet") or {}
    scores = {key: value for key, value in ticket.metrics.items() if isinstance(value, int | float) and key not in _COSTS}
    rows = {
        "parameters": beside_supernet(facts["params"], full.get("params"))
        + f", {human(facts['nonzero_params'])} of them not zero",
        f"MACs, dense, at {height}x{width}": beside_supernet(facts["macs"], full.get("macs")),
        "MACs, sparse (with a nonzero weight)": human(facts["sparse_macs"]),
        "sparsity of the prunable weights": f"{facts['sparsity']:.4f}",
        "search units": str(facts["units"]),
    }
    shown = f"\n![How the ticket was drawn, or what it predicts]({picture})\n" if picture else ""
    return f"""---
library_name: supertickets
tags:
- supertickets
- {ticket.task}
---

# {repo_id.split("/")[-1]}

A {ticket.task} ticket: a network whose architecture was searched and whose weights were pruned in one training run
(SuperTickets, arXiv 2207.03677). Unstructured zeros make the file small. In dense runtimes, the speed depends on the dense
MACs; the project's own sparse engine computes only the sparse MACs.
{shown}
## Scores
{_table(("score", "value"), {key: _number(value) for key, value in scores.items()}) if scores else "None were recorded."}

{f"Protocol: {ticket.metrics['protocol']}" if ticket.metrics.get("protocol") else "The protocol was not recorded."}

## Costs
{_table(("cost", "value"), rows)}

## Input and output
(B, 3, H, W) float32, RGB in 0..1, then (x - mean) / std with mean {how["mean"]} and std {how["std"]}; trained at
{height}x{width}.

{len(facts["labels"])} labels: {", ".join(facts["labels"])}

## Use
```python
from supertickets import Ticket

ticket = Ticket.load("{repo_id}")  # revision="..." for another version
found = ticket.predict("picture.jpg")  # arrays, with the names of the labels
net = ticket.build()  # a plain nn.Module in eval mode
```
`pip install supertickets` and the task's package (`supertickets-{ticket.task}`). Nothing in the files is unpickled.

## Provenance
{_provenance(ticket)}
"""


def _table(head: tuple[str, str], rows: dict[str, str]) -> str:
    return "\n".join(f"| {key} | {value} |" for key, value in ({head[0]: head[1], "---": "---"} | rows).items())


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _provenance(ticket: Ticket) -> str:
    provenance = ticket.provenance
    parts = [f"supertickets {provenance.get('version')}, PyTorch {provenance.get('torch')}"]
    if provenance.get("seed") is not None:
        parts.append(f"seed {provenance['seed']}")
    if "compacted" in provenance:
        before, after = (provenance["compacted"][side]["units"] for side in ("before", "after"))
        parts.append(f"compacted from {before} to {after} units")
    return ", ".join(parts) + ". The whole config is in `ticket.json`."
