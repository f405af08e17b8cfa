"""The command line: the tasks' scripts (train, evaluate, predict) and `supertickets info | import-original`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from supertickets.errors import UserError


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the user's making end as one line and exit code 2; Ctrl-C ends quietly with 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            # A loader's worker hands on its error with its traceback as text: the message is what stands last.
            print(f"error: {str(error).rsplit('UserError: ', 1)[-1].strip()}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if error.filename is None:  # not about a file: not of the user's making
                raise
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted; a run continues with --run.dir FOLDER --run.resume", file=sys.stderr)
            sys.exit(130)

    return run


class _Parser(argparse.ArgumentParser):
    """argparse, whose complaints are ours: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


@friendly
def train(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`train.py [CONFIG.yaml] [--dotted.key value ...]`: draw a ticket; no config = the embedded data set."""
    from supertickets.draw import draw_ticket
    from supertickets.training.dialect import load_config
    from supertickets.training.task import task_class

    parser = _Parser("train.py", description=f"Draw a {task_name} ticket.", epilog="--section.key value sets any config key.")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe; none = the embedded data set")
    options, overrides = _split(parser, argv)
    cls = task_class(task_name)
    config = load_config(cls.Config, options.config, overrides)
    draw_ticket(cls(config), config)


@friendly
def evaluate(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`evaluate.py TICKET [CONFIG.yaml] [--dotted.key value ...] [--out metrics.json]`"""
    from accelerate import Accelerator

    from supertickets.training.dialect import load_config
    from supertickets.training.progress import console, watch
    from supertickets.training.run import write_text
    from supertickets.training.task import task_class

    parser = _Parser("evaluate.py", description=f"Score a {task_name} ticket on its validation data.")
    parser.add_argument("ticket", type=Path, help="ticket folder")
    parser.add_argument("config", nargs="?", type=Path, help="YAML file over the ticket's own settings")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options, overrides = _split(parser, argv)
    if options.out and options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder; name a JSON file")
    ticket = _load_ticket(options.ticket, task_name)
    cls = task_class(task_name)
    config = load_config(cls.Config, options.config, overrides, base=ticket.settings)
    task, accelerator = cls(config), Accelerator()
    if len(task.labels) != len(ticket.load_task().labels):
        raise UserError(
            f"{options.ticket}: the ticket knows {len(ticket.load_task().labels)} labels, the data have {len(task.labels)}"
        )
    net = ticket.build().to(accelerator.device, memory_format=torch.channels_last)
    loader = accelerator.prepare_data_loader(task.build_val_loader(config.train.batch_size))
    with torch.no_grad():
        shown = watch(loader, lambda: "evaluation", show=accelerator.is_main_process)
        scores = task.evaluate(net, shown, accelerator)
    if accelerator.is_main_process:
        console.print(_score_table(f"{options.ticket}", scores))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, json.dumps(scores, indent=1) + "\n")
            console.print(f"written to {options.out}", highlight=False)


@friendly
def predict(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`predict.py TICKET IMAGE... --out DIR`"""
    from supertickets.training.progress import console

    parser = _Parser("predict.py", description=f"Predict with a {task_name} ticket.")
    parser.add_argument("ticket", type=Path, help="ticket folder")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    options = parser.parse_args(argv)
    ticket = _load_ticket(options.ticket, task_name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = ticket.build().to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        written = ticket.load_task().predict(net, options.images, options.out)
    for path in written:
        console.print(str(path), highlight=False)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """The `supertickets` console script."""
    parser = _Parser("supertickets", description="Look at tickets and bring in the original project's checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="what a ticket is and what it costs")
    info.add_argument("ticket", type=Path)
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="input size for the MACs (default: the task's)")
    original = commands.add_parser("import-original", help="read a checkpoint of the original project into a ticket")
    original.add_argument("--weights", type=Path, required=True, help=".safetensors, or the original's .state_dict")
    original.add_argument("--network", type=Path, required=True, help="JSON with the searched list")
    original.add_argument("--task", required=True, help="segmentation, ...")
    original.add_argument("--out", type=Path, required=True, help="ticket folder to write")
    options = parser.parse_args(argv)
    if options.command == "info":
        _info(options)
    else:
        from supertickets.ticket.original import import_original

        ticket = import_original(options.weights, options.network, task=options.task)
        print(f"ticket written to {ticket.save(options.out)}")


def _info(options: argparse.Namespace) -> None:
    from supertickets.ticket.info import describe, info_tables
    from supertickets.ticket.ticket import Ticket
    from supertickets.training.progress import console

    if options.size and min(options.size) < 1:
        raise UserError(f"--size: {options.size} must be two positive numbers, height and width in pixels")
    facts = describe(Ticket.load(options.ticket), tuple(options.size) if options.size else None)
    if options.json:
        print(json.dumps(facts, indent=1))
        return
    for table in info_tables(facts, str(options.ticket)):
        console.print(table)


def _split(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The parser's own arguments, which come first or by name, and the dotted overrides."""
    given = list(sys.argv[1:] if argv is None else argv)
    own: list[str] = []
    rest: list[str] = []
    for i, word in enumerate(given):
        dotted = word.startswith("--") and "." in word.split("=")[0]
        value = i > 0 and bool(rest) and given[i - 1] == rest[-1] and rest[-1].startswith("--") and "=" not in rest[-1]
        (rest if dotted or (value and not word.startswith("--")) else own).append(word)
    unknown = [word for word in own if word.startswith("--") and word.split("=")[0] not in _known(parser)]
    if unknown:
        raise UserError(
            f"unknown option {unknown[0]}; config keys are dotted, such as --train.epochs 3 "
            f"(known: {', '.join(sorted(_known(parser)))})"
        )
    return parser.parse_args(own), rest


def _known(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}


def _load_ticket(folder: Path, task_name: str) -> Any:
    from supertickets.ticket.ticket import Ticket

    ticket = Ticket.load(folder)
    if ticket.task != task_name:
        raise UserError(f"{folder}: a {ticket.task} ticket, not a {task_name} one; use tasks/{ticket.task}'s script")
    return ticket


def _score_table(title: str, scores: dict[str, Any]) -> Any:
    from supertickets.training.run import summary_table

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4f}"
        if isinstance(value, dict):
            return "\n".join(f"{key}: {text(part)}" for key, part in value.items())
        return str(value)

    return summary_table(title, {key: text(value) for key, value in scores.items()})


if __name__ == "__main__":
    main()
