"""The report: a page about one or several runs in a single file, which can be read without scripts and without a network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch

from supertickets.errors import UserError
from supertickets.files import write_text
from supertickets.report import contents
from supertickets.report.runs import RunFacts, measure_latencies

_SECTIONS = {
    "Summary": contents.summary,
    "Curves": contents.curves,
    "Score and cost": contents.score_and_cost,
    "Settings that differ": contents.settings_that_differ,
    "Scores by label": contents.scores_by_label,
    "Units and sparsity": contents.network,
    "Pictures": contents.pictures,
    "Settings": contents.settings,
}


def write_report(runs: Sequence[RunFacts], path: Path) -> Path:
    """Measure the latencies of the runs and write the page about them to `path`, which is returned.

    Raises `UserError` if the package that draws the charts is not installed, and if there are no runs.
    """
    if not runs:
        raise UserError("a report needs at least one run")
    measure_latencies(runs)
    page = report_page(runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def report_page(runs: Sequence[RunFacts]) -> str:
    """The page as HTML. Latencies that were not measured are left out."""
    found = {title: make(runs) for title, make in _SECTIONS.items()}
    shown = {title: content for title, content in found.items() if content}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    links = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in shown)
    sections = "\n".join(
        f'<section aria-labelledby="{_anchor(name)}"><h2 id="{_anchor(name)}">{escape(name)}</h2>\n{content}</section>'
        for name, content in shown.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} - SuperTickets</title>
<link rel="icon" href="data:,">
<style>
{_style()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
{contents.lead(runs)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="content" tabindex="-1">
{sections}
</main>
<footer><p>Written on {datetime.now():%Y-%m-%d %H:%M} by SuperTickets {escape(version("supertickets"))}. Milliseconds: one
image in PyTorch {escape(torch.__version__)} on {torch.get_num_threads()} CPU thread(s), the median of several turns; zeros cost
PyTorch as much as other numbers.</p></footer>
</body>
</html>
"""


@functools.cache
def _style() -> str:
    return files("supertickets.report").joinpath("page.css").read_text(encoding="utf-8")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
