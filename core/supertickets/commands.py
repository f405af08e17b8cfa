"""The `supertickets` commands for runs: start a project, show the plan of a run, compare several runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from supertickets.arguments import Commands, path_argument
from supertickets.errors import UserError
from supertickets.files import check_output_file

if TYPE_CHECKING:
    from supertickets.config.sections import Config
    from supertickets.task import Task


def add_new(commands: Commands) -> None:
    """`supertickets new DIR --task TASK`: write a recipe and a README for the user's own data."""
    parser = commands.add_parser("new", help="start with your own data: write a commented recipe and a README")
    parser.add_argument("folder", type=path_argument, metavar="DIR", help="folder to write to")
    parser.add_argument("--task", required=True, help="segmentation, classification, keypoint, ...")

    def run(options: argparse.Namespace) -> None:
        from supertickets.starter import write_starter
        from supertickets.terminal import console

        folder: Path = options.folder
        for path in write_starter(folder, options.task):
            console.print(f"written: {path}", highlight=False)
        console.print(f"next: put your data into {folder / 'data'}, as {folder / 'README.md'} says", highlight=False)

    parser.set_defaults(run=run)


def add_compare(commands: Commands) -> None:
    """`supertickets compare RUN...`: show the figures of several runs and the settings in which they differ."""
    parser = commands.add_parser("compare", help="show the figures of several runs, and the settings in which they differ")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a ticket")
    parser.add_argument("--json", action="store_true", help="machine-readable")

    def run(options: argparse.Namespace) -> None:
        from supertickets.report.comparison import compare, comparison_tables
        from supertickets.report.runs import measure_latencies, read_runs
        from supertickets.terminal import console

        runs = read_runs(options.runs)
        measure_latencies(runs)
        if options.json:
            print(json.dumps(compare(runs), indent=1))
            return
        for table in comparison_tables(runs):
            console.print(table)

    parser.set_defaults(run=run)


def add_report(commands: Commands) -> None:
    """`supertickets report RUN... --out FILE.html`: write a page about one run or about several."""
    parser = commands.add_parser("report", help="write one page about a run, or about several side by side")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or of a ticket")
    parser.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="HTML file to write")

    def run(options: argparse.Namespace) -> None:
        from supertickets.report.page import write_report
        from supertickets.report.runs import read_runs
        from supertickets.terminal import console

        check_output_file(options.out, named="--out", kind="an HTML file", inputs=[])
        if options.out.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"--out: {options.out} must end in .html")
        console.print(f"written to {write_report(read_runs(options.runs), options.out)}", highlight=False)

    parser.set_defaults(run=run)


def show_forecast(task: Task, config: Config) -> None:
    """What `--dry-run` prints: see `forecast.forecast_run`."""
    from supertickets.forecast import forecast_run
    from supertickets.processes import is_first_process
    from supertickets.terminal import console

    forecast = forecast_run(task, config)
    if is_first_process():
        console.print(forecast.table())
