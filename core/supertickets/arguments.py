"""What all commands share: parsers for arguments and config keys, and one-line error messages."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeAlias

from supertickets.config.section import Section
from supertickets.errors import SharedError, Stopped, UserError
from supertickets.processes import is_first_process, leave_process_group
from supertickets.recipes import find_recipe, recipes_of

P = ParamSpec("P")
PIPE_CLOSED = 13  # the number of SIGPIPE, which Windows does not have


def friendly(command: Callable[P, None]) -> Callable[P, None]:
    """A command that reports a user's mistake in one line and exits with code 2; Ctrl-C exits quietly with code 130.

    A run that was asked to stop saves its state and exits with the status of the signal.

    When the command has finished, it leaves its process group.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        """Run the command; what it prints is written before its errors are reported."""
        try:
            try:
                command(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here, where it can be reported if this fails
            leave_process_group()
        except Stopped as stop:
            if is_first_process():
                print(stop, file=sys.stderr)
            leave_process_group()
            sys.exit(stop.status)
        except SharedError as error:
            if is_first_process():
                print(f"error: {error}", file=sys.stderr)
            leave_process_group()
            sys.exit(2)
        except UserError as error:
            # The error of a loader's worker arrives with its traceback as text; the message comes last.
            print(f"error: {str(error).rsplit('UserError: ', 1)[-1].strip()}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # what reads the output, such as `head`, has ended
            _discard_output()
            sys.exit(128 + PIPE_CLOSED)
        except OSError as error:
            if error.filename is None and error.errno != errno.ENOSPC:  # not about a file, so it is not the user's mistake
                raise
            if error.filename is None:
                _discard_output()
            print(f"error: {error.filename2 or error.filename or 'output'}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted; to continue a run, add --run.dir FOLDER --run.resume", file=sys.stderr)
            sys.exit(130)

    return run


def _discard_output() -> None:
    """Send further output nowhere, because Python would report at its end that it cannot be written."""
    with suppress(OSError):  # no real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports mistakes as `UserError`: in one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # the commands of one parser


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


def path_argument(text: str) -> Path:
    """A path from the command line; expands `~` and `$NAME` if the shell did not (`--out=~/x`)."""
    from supertickets.config.section import expand_path

    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or folder (. is the current folder)")
    try:
        return expand_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_recipe(parser: argparse.ArgumentParser, use: str, package: str | None = None) -> None:
    """Let a command accept a recipe, as a positional argument or as `--config`; the help lists the recipes of `package`."""
    names = f" ({', '.join(recipes_of(package))})" if package else ""
    parser.add_argument("config", nargs="?", metavar="RECIPE", help=f"YAML file, or name of a recipe of the task{names}; {use}")
    parser.add_argument("--config", dest="named_config", metavar="RECIPE", help="the recipe as an option instead")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Let a training command accept `--dry-run`."""
    help = "build everything, audit the data and show the plan with the expected memory and time, without writing anything"
    parser.add_argument("--dry-run", action="store_true", help=help)


def chosen_recipe(options: argparse.Namespace, package: str) -> Path | None:
    """The file of the given recipe, which is one of the task's `package` or any other file; None if no recipe was given."""
    if options.config and options.named_config:
        raise UserError(f"two recipes: {options.config} and --config {options.named_config}; give one of them")
    given = options.config or options.named_config
    return None if given is None else find_recipe(given, package)


def split_overrides(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the arguments into the parser's own, which come first or have a name without dots, and the dotted overrides."""
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
