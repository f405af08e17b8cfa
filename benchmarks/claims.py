"""Test each claim of the paper at small scale: paired differences over several seeds, their 95 % interval, and a verdict.

    python benchmarks/claims.py TASK [RECIPE] [--claims ...] [--seeds 0 1 2] [--target TASK] [--dotted.key value ...]

Every run is a row of `claims_runs.csv`. Finished runs are kept, and interrupted ones are continued. Scores depend on the
processor, so runs from another machine do not count as finished, and only runs from the same machine are paired. `claims.csv`
has the verdicts, based on all existing runs: a claim holds if the whole interval is above minus its margin, does not hold if
the whole interval is below, and is not decided otherwise. A single seed decides nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import torch
from arms import TEACHERS, TRANSFERS, Bench, arm_named
from comparison.data_sets import QUIET, as_arguments
from rows import Row, append_row, commit, find_row, machine, read_rows, write_rows

from supertickets.arguments import Parser, friendly, split_overrides
from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.pruning.criteria import CRITERIA
from supertickets.recipes import find_recipe
from supertickets.task import package_of, task_class

RUN_FIELDS = (
    *("data_set", "arm", "seed", "score", "metric", "macs", "sparsity", "revived", "epochs", "minutes"),
    *("commit", "command", "machine"),
)
FIELDS = ("data_set", "claim", "verdict", "mean", "low", "high", "margin", "seeds", "arm", "against", "commit", "machine")
# Quantiles 0.975 of Student's t by degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Claim:
    """The claim that `arm` is better than this share of `against` or, with a margin, not worse by more than the margin."""

    text: str
    arm: str
    against: str
    margin: float = 0.0
    share: float = 1.0  # the scores of `against` are multiplied by it


KEPT = 0.97  # share of its supernet's score that a ticket is meant to have
CLAIMS: dict[str, list[Claim]] = {
    "equal": [Claim("joint is better than search, prune, retrain in as many epochs", "joint", "pipeline")],
    "half": [Claim("joint in half the epochs is no worse than search, prune, retrain", "half", "pipeline", 0.01)],
    "progressive": [Claim("progressive pruning is better than one shot", "joint", "one shot")],
    "reactivation": [Claim("reactivation helps", "reactivated", "never reactivated")],
    "regrowth": [Claim("weights that grow back by gradient help", "regrown", "joint")],
    "no_retraining": [
        Claim("a ticket is no worse than itself trained for as many epochs again", "joint", "retrained", 0.01),
        Claim("joint is no worse than joint in half of the epochs and then retrained", "joint", "half retrained", 0.01),
    ],
    "kept": [
        Claim(f"a ticket has {KEPT:g} of the score of its supernet", "joint", "dense", share=KEPT),
        Claim(
            f"a ticket has {KEPT:g} of the score of its supernet trained for as many minutes",
            "joint",
            "dense as long",
            share=KEPT,
        ),
    ],
    "search": [
        Claim("the search is better than uniform width", "searched by default", "searched by uniform"),
        Claim("the search is better than random units", "searched by default", "searched by random"),
        Claim(
            "the searched architecture from scratch is better than uniform width from scratch",
            "searched by default, from scratch",
            "searched by uniform, from scratch",
        ),
    ],
    "distillation": [Claim(f"distillation helps, taught by {name}", f"taught by {name}", "joint") for name in TEACHERS],
}

MORE = ("transfer", "sweep")


def transfers(target: str) -> list[Claim]:
    """A transferred ticket against each control on the task `target`."""
    ours = f"to {target} transferred"
    others = [control for control in TRANSFERS if control != "transferred"]
    return [Claim(f"a ticket transferred to {target} is better than: {c}", ours, f"to {target} {c}") for c in others]


def sweep(sparsities: Sequence[float], criteria: Sequence[str]) -> list[Claim]:
    """Joint drawing against search, prune, retrain at each sparsity and with each criterion."""
    return [
        Claim(f"at {s:g} joint is better than search, prune by {c}, retrain", f"joint {s:g}", f"pipeline {s:g} {c}")
        for s in sparsities
        for c in criteria
    ]


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The mean and the bounds of its 95 % interval by Student's t; (mean, -inf, inf) for a single difference."""
    middle, n = mean(differences), len(differences)
    if n < 2:
        return middle, float("-inf"), float("inf")
    half = T975[min(n - 1, len(T975)) - 1] * stdev(differences) / sqrt(n)
    return middle, middle - half, middle + half


def judge(claim: Claim, rows: Sequence[Row], data_set: str) -> dict[str, object] | None:
    """The verdict on a claim from the runs of both arms with the same seeds and machines; None if there is no pair."""
    scores: dict[str, dict[tuple[str, str], float]] = {claim.arm: {}, claim.against: {}}
    for row in rows:
        if row["data_set"] == data_set and row["arm"] in scores:
            scores[row["arm"]][row["seed"], row["machine"]] = float(row["score"])
    pairs = scores[claim.arm].keys() & scores[claim.against].keys()
    if not pairs:
        return None
    seeds = sorted({seed for seed, _ in pairs}, key=int)
    ours, theirs = scores[claim.arm], scores[claim.against]
    middle, low, high = interval([ours[pair] - claim.share * theirs[pair] for pair in sorted(pairs)])
    verdict = "holds" if low > -claim.margin else "does not hold" if high < -claim.margin else "not decided"
    returned = [row["revived"] for row in rows if row["data_set"] == data_set and row["arm"] == "reactivated"]
    if claim.arm == "reactivated" and "0" in returned:
        verdict = "not decided: no weight came back"
    return {
        **{"data_set": data_set, "claim": claim.text, "verdict": verdict, "margin": claim.margin},
        **{"mean": f"{middle:+.4f}", "low": f"{low:+.4f}", "high": f"{high:+.4f}", "seeds": " ".join(seeds)},
        **{"arm": claim.arm, "against": claim.against, "commit": commit(), "machine": machine()},
    }


def run_arms(claims: Sequence[Claim], bench: Bench, options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Perform all runs that are not in `claims_runs.csv` yet."""
    path = runs_file(options.out)
    for seed in options.seeds:
        for arm in dict.fromkeys(name for claim in claims for name in (claim.arm, claim.against)):
            if find_row(read_rows(path), data_set=options.data_set, arm=arm, seed=seed, machine=machine()):
                continue
            found = asdict(arm_named(arm)(bench, seed))
            command = command_of(options, seed, overrides)
            about = {"data_set": options.data_set, "arm": arm, "seed": seed, "commit": commit(), "command": command}
            append_row(path, {**about, **found, "machine": machine()}, RUN_FIELDS)
            print(f"{arm}, seed {seed}: {found['metric']} {found['score']}")


def command_of(options: argparse.Namespace, seed: int, overrides: Sequence[str]) -> str:
    """The command that performs the chosen runs of one seed."""
    words = ["python benchmarks/claims.py", options.task, *([options.recipe] if options.recipe else [])]
    words += ["--claims", *options.claims, "--seeds", str(seed)]
    if "transfer" in options.claims:
        words += ["--target", options.target, "--target-epochs", str(options.target_epochs)]
        words += [f'--target-settings="{options.target_settings}"'] if options.target_settings else []
    if "sweep" in options.claims:
        words += ["--sparsities", *map(str, options.sparsities), "--criteria", *options.criteria]
    words += ["--ticket-time", str(options.ticket_time)] if options.ticket_time else []
    return " ".join([*words, *overrides])


def named(task: str, recipe: str | None, overrides: Sequence[str]) -> str:
    """The name of runs with the same data and settings: 'segmentation, scenes, train.epochs 8'."""
    settings = " ".join(overrides).removeprefix("--").split(" --") if overrides else []
    return ", ".join([task, recipe or "scenes", *settings])


def runs_file(out: Path) -> Path:
    """The file of the runs, next to that of the verdicts."""
    return out.with_name(f"{out.stem}_runs.csv")


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """Perform the missing runs and write the verdicts."""
    parser = Parser("claims.py", description="Test the paper's claims at small scale.")
    parser.add_argument("task", help="name of the task, for example classification")
    parser.add_argument("recipe", nargs="?", help="recipe of the task (default: the embedded scenes)")
    parser.add_argument("--claims", nargs="+", choices=[*CLAIMS, *MORE], default=[*CLAIMS, *MORE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--target", default="keypoint", help="task of the transfers, on its embedded scenes")
    parser.add_argument("--target-epochs", type=int, default=4)
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--criteria", nargs="+", choices=list(CRITERIA), default=["lamp", "magnitude", "random", "snip"])
    parser.add_argument("--target-settings", default="", help="for example ='--data.train_images 400'")
    parser.add_argument("--ticket-time", type=float, help="time of a ticket relative to its supernet (default: as in the runs)")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "claims.csv")
    options, overrides = split_overrides(parser, argv)
    torch.set_num_threads(1)
    cls = task_class(options.task)
    options.data_set = named(options.task, options.recipe, overrides)
    recipe = find_recipe(options.recipe, package_of(cls)) if options.recipe else None
    config = load_config(cls.Config, recipe, [*as_arguments(QUIET), *overrides])
    if options.target == options.task and "transfer" in options.claims:
        raise UserError(f"--target: {options.target} is the task itself; a ticket is transferred to another one")
    settings = (*as_arguments(QUIET), *options.target_settings.split())
    runs = options.runs / re.sub(r"[^\w.-]+", "_", options.data_set)
    bench = Bench(cls, config, runs, options.target, options.target_epochs, settings, options.ticket_time)
    of = CLAIMS | {"transfer": transfers(options.target), "sweep": sweep(options.sparsities, options.criteria)}
    claims = [claim for name in options.claims for claim in of[name]]
    run_arms(claims, bench, options, overrides)
    rows = read_rows(runs_file(options.out))
    verdicts = [verdict for claim in claims if (verdict := judge(claim, rows, options.data_set))]
    ours = {(verdict["data_set"], verdict["claim"]) for verdict in verdicts}
    others = [row for row in read_rows(options.out) if (row["data_set"], row["claim"]) not in ours]
    write_rows(options.out, [*others, *verdicts], FIELDS)
    for row in verdicts:
        print("{verdict:14} {mean} ({low} to {high})  {claim}".format(**row))


if __name__ == "__main__":
    main()
