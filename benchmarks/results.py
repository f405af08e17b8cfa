"""Write docs/results.md and its pictures from the CSV files of the benchmarks.

    python benchmarks/results.py [--results benchmarks/results] [--out docs/results.md]

The page has a section for each existing file, `peers.csv` (peers.py) and `claims.csv` (claims.py). Its first lines say where
our tickets are ahead and where they are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from textwrap import wrap

from comparison.charts import draw_scores, draw_sweep, sweep_of
from comparison.verdicts import Comparison, Line, Verdict, comparisons_of, lines_of
from rows import Row, read_rows

from supertickets.arguments import friendly
from supertickets.errors import UserError

ROOT = Path(__file__).parents[1]
HOW = """There is one table for each data set and machine. Every network has the same data, augmentation, batch size,
optimizer, schedule, averaging and evaluation, and the same planned CPU time for training: an entrant whose network
shrinks early has more epochs in these minutes. The measured minutes differ by up to a third. The search of FastNAS
takes additional time, so its rows show more minutes. Networks train on the split "train", which also provides the
batches for searches and pruners. The split "val" is used only for the score at the end, not for any choice. Searches
and pruners get a budget of half of the MACs of the network that they start from, or of Lite0 if they start from a
larger EfficientNet-Lite. `supertickets` is searched and pruned, `supertickets-unpruned` is searched but not pruned,
`supertickets-small` is searched down to a sixth of the MACs and not pruned, and `supertickets-as-lite0` is a ticket of
a larger EfficientNet-Lite that has as many MACs as Lite0, not pruned.

Milliseconds are CPU time for one image in float32 on one thread, with ONNX Runtime or, for our tickets, with the sparse
engine if that is faster. The networks of a table are timed alternately, so that each starts with the caches filled by
the others. MACs and milliseconds that differ by at most 2 % count as equal. A ticket is ahead of a peer if its score is
higher by more than one standard deviation of either and neither its MACs nor its milliseconds are higher. It is behind
if its score is lower by more than that and neither is lower. Otherwise it is neither; with one seed each, nothing is
decided. "File" is the size of the file with the weights. A score is the mean over the seeds with its standard
deviation. Each row of `benchmarks/results/peers.csv` names its seed, commit, command, minutes and machine."""

CLAIMS_HOW = """Each claim compares two arms with the same seeds. It holds if the whole 95 % interval of the paired
differences (Student's t) is above zero, or, for claims that something is no worse, above minus a margin. It does not
hold if the whole interval is below this limit; otherwise it is not decided. If a claim is about a share of the score of
an arm, that arm's scores are multiplied by the share. Scores are from the split "val", which is not used for any choice:
every arm uses the recipe's settings and is scored once, at its end. Each row of `benchmarks/results/claims_runs.csv`
names its command."""


def peers_section(rows: Sequence[Row], pictures: Path) -> tuple[list[str], list[str]]:
    """The lines for the top of the page, and the section about peers; its pictures are written to `pictures`."""
    top, text = [], ["## Comparison with other tools and networks", "", *HOW.splitlines(), ""]
    for data_set, machine in dict.fromkeys((row["data_set"], row["machine"]) for row in rows):
        lines = lines_of([row for row in rows if (row["data_set"], row["machine"]) == (data_set, machine)])
        compared = comparisons_of(lines)
        where = f"{data_set}, {machine}"
        top += summary(where, compared)
        number = list(dict.fromkeys(row["machine"] for row in rows if row["data_set"] == data_set)).index(machine) + 1
        picture = pictures / f"results_{data_set}{f'_{number}' if number > 1 else ''}.png"
        draw_scores(lines, picture, title=where)
        image = f"![Scores and costs: {where}](pictures/{picture.name})"
        text += [f"### {where}", "", *table(lines), "", *comparison_table(compared), "", image, ""]
    return top, text


def table(lines: Sequence[Line]) -> list[str]:
    """The lines as a Markdown table."""
    head = ("entrant", "starts from", lines[0].metric, "seeds", "dense MACs", "nonzeros", "file", "ms", "epochs", "minutes")
    cells = [
        (
            *(f"**{line.entrant}**" if line.ours else line.entrant, line.start, line.scored()),
            *(str(line.seeds), f"{line.macs / 1e6:.1f} M", f"{line.nonzeros / 1e3:.0f} k", f"{line.bytes / 1024:.0f} KiB"),
            *(f"{line.ms:.2f} ({line.runtime})", f"{line.epochs:.0f}", f"{line.minutes:.1f}"),
        )
        for line in lines
    ]
    return markdown(head, cells)


def summary(where: str, compared: Sequence[Comparison]) -> list[str]:
    """One item of a list: which peers our tickets are ahead of, and which they are not."""
    parts = []
    for verdict in Verdict:
        if names := [it.peer.name for it in compared if it.verdict is verdict]:
            parts.append(f"{verdict.value} {', '.join(names)}")
    return item(f"{where}: {'; '.join(parts)}.") if parts else []


def comparison_table(compared: Sequence[Comparison]) -> list[str]:
    """For each peer, the one of our tickets that compares best with it."""
    head = ("our ticket is", "peer", "our ticket", "score", "MACs", "milliseconds", "minutes of training")
    cells = []
    for it in compared:
        doubt = f" ({it.doubt})" if it.doubt else ""
        shares = (f"{share:.3f} times" for share in it.shares)
        cells.append((it.verdict.value, it.peer.name, it.ours.name, f"{it.gain:+.3f}{doubt}", *shares))
    return markdown(head, cells) if cells else []


def item(text: str) -> list[str]:
    """The lines of one item of a Markdown list."""
    return wrap(text, width=120, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def markdown(head: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *cells)]


def claims_section(claims: Sequence[Row], runs: Sequence[Row], pictures: Path) -> list[str]:
    """The section about the paper's claims: for each setting, the verdicts with their numbers, and the runs behind them.

    The picture of a sweep over sparsities is written to `pictures`.
    """
    text = ["## Claims of the paper and of this project", "", *CLAIMS_HOW.splitlines(), ""]
    for data_set in dict.fromkeys(row["data_set"] for row in claims):
        judged = [row for row in claims if row["data_set"] == data_set]
        head = ("claim", "verdict", "difference of the scores", "95 % interval", "may be worse by", "seeds")
        cells = [
            (row["claim"], f"**{row['verdict']}**", row["mean"], f"{row['low']} to {row['high']}", row["margin"], row["seeds"])
            for row in judged
        ]
        behind = [row for row in runs if row["data_set"] == data_set]
        text += [f"### {data_set}", "", *markdown(head, cells), "", *arms_table(behind)]
        if sweep_of(behind):
            picture = pictures / f"results_sweep_{data_set.split(', ')[0]}.png"
            draw_sweep(behind, picture, title=data_set)
            text += [f"![Scores by sparsity: {data_set}](pictures/{picture.name})", ""]
    return text


def verdicts_in_words(claims: Sequence[Row]) -> list[str]:
    """An item for each setting and verdict, with the claims of this verdict."""
    lines = []
    for data_set in dict.fromkeys(row["data_set"] for row in claims):
        rows = [row for row in claims if row["data_set"] == data_set]
        for verdict in dict.fromkeys(row["verdict"] for row in rows):
            texts = "; ".join(row["claim"] for row in rows if row["verdict"] == verdict)
            lines += item(f'Claims of the paper and of this project ({data_set}), verdict "{verdict}": {texts}.')
    return lines


def arms_table(runs: Sequence[Row]) -> list[str]:
    """The runs of one setting as a table: for each arm and machine the mean over the seeds."""
    if not runs:
        return []
    cells = []
    for arm, where in dict.fromkeys((row["arm"], row["machine"]) for row in runs):
        rows = [row for row in runs if (row["arm"], row["machine"]) == (arm, where)]
        scores = [float(row["score"]) for row in rows]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        means = {key: mean(float(row[key]) for row in rows) for key in ("macs", "sparsity", "revived", "epochs", "minutes")}
        score, cost = f"{rows[0]['metric']} {mean(scores):.3f}{spread}", f"{means['macs'] / 1e6:.1f} M"
        known = (f"{means['sparsity']:.2f}", f"{means['revived']:.0f}", f"{means['epochs']:.0f}", f"{means['minutes']:.1f}")
        cells.append((arm, score, str(len(rows)), cost, *known, where.rpartition(",")[0]))
    head = ("arm", "score", "seeds", "dense MACs", "sparsity", "weights that came back", "epochs", "minutes", "machine")
    return [*markdown(head, cells), ""]


def sizes_section(rows: Sequence[Row]) -> list[str]:
    """The section about how cost grows."""
    columns = {
        "preset": "preset",
        "size_px": "pixels",
        "images": "images",
        "processes": "processes",
        "units": "units",
        "macs": "MACs",
        "params": "parameters",
        "step_s": "step, s",
        "small_step_s": "step after events, s",
        "epoch_s": "epoch, s",
        "memory_mib": "memory, MiB",
        "checkpoint_mib": "checkpoint, MiB",
        "shrink_s": "shrink, s",
        "prune_s": "prune, s",
        "all_reduce_ms": "all-reduce, ms",
    }
    millions = ("macs", "params")
    cells = [[f"{float(row[key]) / 1e6:.2f} M" if key in millions else row[key] for key in columns] for row in rows]
    about = "`python benchmarks/sizes.py`: segmentation scenes, 8 images per process and step, one thread for each process."
    return ["## How cost grows", "", about, "", *markdown(list(columns.values()), cells), ""]


def write_page(results: Path, page: Path) -> None:
    """Write the page and its pictures. Raises `UserError` if there is no CSV file to write about."""
    names = ("peers.csv", "claims.csv", "claims_runs.csv", "sizes.csv")
    peers, claims, runs, sizes = (read_rows(results / name) for name in names)
    if not peers and not claims:
        raise UserError(f"{results}: holds neither peers.csv nor claims.csv; run benchmarks/peers.py or benchmarks/claims.py")
    top, text = peers_section(peers, page.parent / "pictures") if peers else ([], [])
    head = ["# Results", "", "Where our tickets are ahead, and where they are not:", "", *top, *verdicts_in_words(claims), ""]
    note = ["This page is written by `python benchmarks/results.py` from `benchmarks/results/*.csv`.", ""]
    text += claims_section(claims, runs, page.parent / "pictures") if claims else []
    text += sizes_section(sizes) if sizes else []
    page.write_text("\n".join([*head, *note, *text]).rstrip() + "\n")


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
