"""Write docs/results.md and its pictures from the CSV files of the benchmarks.

    python benchmarks/results.py [--results benchmarks/results] [--out docs/results.md]

The page has a section for each of the files that is there, `peers.csv` (peers.py) and `claims.csv` (claims.py). Its first lines
say where our tickets are not ahead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from comparison.charts import draw_scores
from comparison.verdicts import Line, lines_of, not_beaten
from rows import Row, read_rows

from supertickets.arguments import friendly
from supertickets.errors import UserError

ROOT = Path(__file__).parents[1]
HOW = """One table for each data set. Every network has the same data, augmentation, batch size, optimizer, schedule, averaging
and evaluation, and as many epochs as the network that it starts from can be trained for in the data set's minutes of CPU time.
Networks train on the split "train", which also gives the batches that searches and pruners look at. The split "val" gives the
one score at the end and chooses nothing. Searches and pruners have half of the MACs of the network that they start from.
Milliseconds are CPU time for one image in float32 on one thread, with ONNX Runtime or, if that is faster, the sparse engine
for networks with zeros. "File" is the file of the weights. A score is the mean over the seeds with its standard deviation. Each
row of `benchmarks/results/peers.csv` names its seed, commit, command, minutes and machine."""


def peers_section(rows: Sequence[Row], pictures: Path) -> tuple[list[str], list[str]]:
    """What stands at the top of the page, and the section about peers; its pictures are written to `pictures`."""
    top, text = [], ["## Beside other tools and networks", "", *HOW.splitlines(), ""]
    for data_set in dict.fromkeys(row["data_set"] for row in rows):
        lines = lines_of([row for row in rows if row["data_set"] == data_set])
        missing = not_beaten(lines)
        if missing:
            top.append(f"- {data_set}: not ahead of " + ". Not ahead of ".join(f"{k} ({v})" for k, v in missing.items()) + ".")
        else:
            top.append(f"- {data_set}: ahead of every other network of the table.")
        picture = pictures / f"results_{data_set}.png"
        draw_scores(lines, picture, title=data_set)
        text += [f"### {data_set}", "", *table(lines), "", f"![Scores and costs on {data_set}](pictures/{picture.name})", ""]
    return top, text


def table(lines: Sequence[Line]) -> list[str]:
    """The lines as a Markdown table."""
    head = ("entrant", "starts from", f"{lines[0].metric}", "seeds", "dense MACs", "nonzeros", "file", "ms", "minutes")
    cells = [
        (
            *(f"**{line.entrant}**" if line.entrant == "supertickets" else line.entrant, line.start, line.scored()),
            *(str(line.seeds), f"{line.macs / 1e6:.1f} M", f"{line.nonzeros / 1e3:.0f} k", f"{line.bytes / 1024:.0f} KiB"),
            *(f"{line.ms:.2f} ({line.runtime})", f"{line.minutes:.1f}"),
        )
        for line in lines
    ]
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *cells)]


def claims_section(rows: Sequence[Row]) -> list[str]:
    """The section about the paper's claims: a verdict for each, with its numbers."""
    head = ("claim", "verdict", "difference, mean and 95 % interval", "seeds", "data set")
    cells = [
        (row["claim"], f"**{row['verdict']}**", f"{row['mean']} ({row['low']} to {row['high']})", row["seeds"], row["data_set"])
        for row in rows
    ]
    return ["## The claims of the paper", ""] + ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *cells)]


def write_page(results: Path, page: Path) -> None:
    """Write the page and its pictures. `UserError` where there is no CSV file to write about."""
    peers, claims = (read_rows(results / name) for name in ("peers.csv", "claims.csv"))
    if not peers and not claims:
        raise UserError(f"{results}: holds neither peers.csv nor claims.csv; run benchmarks/peers.py or benchmarks/claims.py")
    top, text = peers_section(peers, page.parent / "pictures") if peers else ([], [])
    undecided = [f"- {row['claim']}: {row['verdict']} ({row['data_set']})." for row in claims if row["verdict"] != "holds"]
    head = ["# Results", "", "Where our tickets are ahead, and where they are not:", "", *top, *undecided, ""]
    note = ["This page is written by `python benchmarks/results.py` from `benchmarks/results/*.csv`.", ""]
    page.write_text("\n".join([*head, *note, *text, *(claims_section(claims) if claims else [])]).rstrip() + "\n")


@friendly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    write_page(options.results, options.out)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
