"""The command line: the tasks' scripts (train, evaluate, predict) and `supertickets info | compact | export | ...`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from supertickets.config.section import Section
from supertickets.errors import UserError
from supertickets.processes import leave_process_group


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the user's making end as one line and exit code 2; Ctrl-C ends quietly with 130.

    A command that has come to its end leaves its process group.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            leave_process_group()
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


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are ours: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class SettingsParser(Parser):
    """A parser whose `--help [SECTION]` also lists the config keys of a schema, or of one of its sections."""

    def __init__(self, prog: str, schema: Callable[[argparse.Namespace], type[Section]], description: str) -> None:
        super().__init__(prog, description=description, epilog="--section.key value sets any config key.", add_help=False)
        self.schema = schema
        self.add_argument(
            "-h", "--help", nargs="?", metavar="SECTION", action=_Help, help="show this help, or one section's keys"
        )


class _Help(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, section: object, option: str | None = None
    ) -> None:
        from supertickets.config.help import print_help

        assert isinstance(parser, SettingsParser)
        if not section:
            parser.print_help()
        print_help(parser.schema(namespace), str(section or ""))
        parser.exit()


@friendly
def train(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`train.py [CONFIG.yaml] [--dotted.key value ...]`: draw a ticket; no config = the embedded data set."""
    from supertickets.baselines import draw_by_rounds, search_then_prune
    from supertickets.config.reader import load_config
    from supertickets.draw import draw_ticket
    from supertickets.task import task_class

    cls = task_class(task_name)
    parser = SettingsParser("train.py", lambda _: cls.Config, f"Draw a {task_name} ticket.")
    parser.add_argument("config", nargs="?", type=Path, help="YAML recipe; none = the embedded data set")
    options, overrides = split_overrides(parser, argv)
    config = load_config(cls.Config, options.config, overrides)
    draw = draw_by_rounds if config.imp.rounds else search_then_prune if config.pipeline.enabled else draw_ticket
    draw(cls(config), config)


@friendly
def evaluate(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`evaluate.py TICKET [CONFIG.yaml] [--dotted.key value ...] [--out metrics.json]`"""
    from accelerate import Accelerator

    from supertickets.config.reader import load_config
    from supertickets.task import task_class
    from supertickets.terminal import console, watch
    from supertickets.training.cpu import prepare_cpu
    from supertickets.training.run import write_text

    cls = task_class(task_name)
    parser = SettingsParser("evaluate.py", lambda _: cls.Config, f"Score a {task_name} ticket on its validation data.")
    parser.add_argument("ticket", type=Path, help="ticket folder")
    parser.add_argument("config", nargs="?", type=Path, help="YAML file over the ticket's own settings")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options, overrides = split_overrides(parser, argv)
    if options.out and options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder; name a JSON file")
    ticket = _load_ticket(options.ticket, task_name)
    config = load_config(cls.Config, options.config, overrides, base=ticket.settings)
    prepare_cpu(config.run.threads)
    task, accelerator = cls(config), Accelerator()
    if difference := ticket.other_labels(task.labels):
        raise UserError(f"{options.ticket}: the ticket {difference}")
    net = ticket.build().to(accelerator.device, memory_format=torch.channels_last)
    loader = accelerator.prepare_data_loader(task.build_val_loader(config.train.batch_size))
    with torch.no_grad():
        shown = watch(loader, lambda: "evaluation", show=accelerator.is_main_process)
        scores = task.evaluate(net, shown, accelerator)
    if accelerator.is_main_process:
        console.print(score_table(f"{options.ticket}", scores))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, json.dumps(scores, indent=1) + "\n")
            console.print(f"written to {options.out}", highlight=False)


@friendly
def predict(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`predict.py TICKET IMAGE... --out DIR [--dotted.key value ...]`; a task whose predictions are words needs no DIR."""
    from supertickets.config.reader import load_config
    from supertickets.task import task_class
    from supertickets.terminal import console

    cls = task_class(task_name)
    parser = SettingsParser("predict.py", lambda _: cls.Config, f"Predict with a {task_name} ticket.")
    parser.add_argument("ticket", type=Path, help="ticket folder")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--out", type=Path, help="folder for the pictures and data")
    short = getattr(cls, "predict_options", {})
    for name, text in short.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{text}; short for --predict.{name}")
    options, overrides = split_overrides(parser, argv)
    overrides += [f"--predict.{name}={value}" for name in short if (value := getattr(options, name)) is not None]
    if options.out is None and not getattr(cls, "predicts_in_words", False):
        parser.error("--out: name the folder for the pictures")
    ticket = _load_ticket(options.ticket, task_name)
    task = cls(load_config(cls.Config, None, overrides, base=ticket.settings))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = ticket.build().to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        written = task.predict(net, options.images, options.out)
    for path in written:
        console.print(str(path), highlight=False)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """The `supertickets` console script."""
    parser = Parser(
        "supertickets", description="Look at tickets, make them smaller, export them, bring in original checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_info, _add_compact, _add_export, _add_import_original):
        add(commands)
    options = parser.parse_args(argv)
    options.run(options)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="what a ticket is and what it costs")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    _add_size(parser, "for the MACs")

    def run(options: argparse.Namespace) -> None:
        from supertickets.report.tables import info_tables
        from supertickets.terminal import console
        from supertickets.ticket.facts import describe
        from supertickets.ticket.ticket import Ticket

        facts = describe(Ticket.load(options.ticket), _size(options))
        if options.json:
            print(json.dumps(facts, indent=1))
            return
        for table in info_tables(facts, str(options.ticket)):
            console.print(table)

    parser.set_defaults(run=run)


def _add_compact(commands: Any) -> None:
    parser = commands.add_parser("compact", help="remove, exactly, what pruning has left without effect")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="ticket folder to write")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    _add_size(parser, "for MACs and latency")

    def run(options: argparse.Namespace) -> None:
        """Write the compact ticket, and say what it saves and how far its outputs differ."""
        from supertickets.deploy.compact import compact, compact_table, compare
        from supertickets.terminal import console
        from supertickets.ticket.hub import ticket_folder
        from supertickets.ticket.ticket import FILES, Ticket

        source = ticket_folder(options.ticket)
        ticket = Ticket.load(source)
        small = compact(ticket)
        facts = compare(ticket, small, _size(options))
        for side, folder in ((facts["before"], source), (facts["after"], options.out)):  # the two folders may be the same
            if side is facts["after"]:
                small.save(folder)
            side["file_bytes"] = sum((folder / name).stat().st_size for name in FILES)
        if options.json:
            print(json.dumps(facts, indent=1))
            return
        console.print(compact_table(facts, f"{options.ticket}"))
        console.print(f"ticket written to {options.out}", highlight=False)

    parser.set_defaults(run=run)


def _add_export(commands: Any) -> None:
    from supertickets.deploy.plain import LAYOUTS

    parser = commands.add_parser("export", help="write a ticket for ONNX Runtime, OpenVINO or PyTorch alone")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torch"))
    parser.add_argument("--out", type=Path, required=True, help="file to write: .onnx, .xml (and .bin beside it) or .pt2")
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of images at once (default: one)")
    parser.add_argument("--check", nargs="+", type=Path, default=[], metavar="IMAGE", help="real images to compare on, too")
    parser.add_argument("--layout", choices=LAYOUTS, help="form of the blocks (default: the format's fastest)")
    _add_size(parser, "of the exported network")

    def run(options: argparse.Namespace) -> None:
        """Write the file, and say how far its outputs differ from the ticket's."""
        from supertickets.deploy.export import export, export_table
        from supertickets.images import expand_images
        from supertickets.terminal import console
        from supertickets.ticket.ticket import Ticket

        facts = export(
            Ticket.load(options.ticket),
            options.out,
            format=options.format,
            size=_size(options),
            dynamic_batch=options.dynamic_batch,
            layout=options.layout,
            pictures=expand_images(options.check) if options.check else [],
        )
        console.print(export_table(facts))

    parser.set_defaults(run=run)


def _add_import_original(commands: Any) -> None:
    parser = commands.add_parser("import-original", help="read a checkpoint of the original project into a ticket")
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors, or the original's .state_dict")
    parser.add_argument("--network", type=Path, required=True, help="JSON with the searched list")
    parser.add_argument("--task", required=True, help="segmentation, ...")
    parser.add_argument("--out", type=Path, required=True, help="ticket folder to write")

    def run(options: argparse.Namespace) -> None:
        from supertickets.ticket.original import import_original

        ticket = import_original(options.weights, options.network, task=options.task)
        print(f"ticket written to {ticket.save(options.out)}")

    parser.set_defaults(run=run)


def _add_size(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help=f"input size {use} (default: the task's)")


def _size(options: argparse.Namespace) -> tuple[int, int] | None:
    if options.size and min(options.size) < 1:
        raise UserError(f"--size: {options.size} must be two positive numbers, height and width in pixels")
    return tuple(options.size) if options.size else None


def split_overrides(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
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


def score_table(title: str, scores: dict[str, Any]) -> Any:
    from supertickets.terminal import summary_table

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4f}"
        if isinstance(value, dict):
            return "\n".join(f"{key}: {text(part)}" for key, part in value.items())
        return str(value)

    return summary_table(title, {key: text(value) for key, value in scores.items()})


if __name__ == "__main__":
    main()
