"""The commands of `supertickets` about runs: begin one, compare several, write their report."""

from __future__ import annotations

import argparse
from pathlib import Path

from supertickets.arguments import Commands, path_argument


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
