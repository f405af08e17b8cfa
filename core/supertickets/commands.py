"""The commands of `supertickets` about runs: begin one, see its plan, compare several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from supertickets.arguments import Commands, path_argument

if TYPE_CHECKING:
    from supertickets.config.sections import Config
    from supertickets.task import Task


def add_new(commands: Commands) -> None:
    """`supertickets new DIR --task TASK`: write a recipe and a README for own data."""
    parser = commands.add_parser("new", help="begin with your own data: write a commented recipe and a README")
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


def show_forecast(task: Task, config: Config) -> None:
    """What `--dry-run` prints: see `forecast.forecast_run`."""
    from supertickets.forecast import forecast_run
    from supertickets.processes import is_first_process
    from supertickets.terminal import console

    forecast = forecast_run(task, config)
    if is_first_process():
        console.print(forecast.table())
