"""Limits for the content of tickets, checked before anything is built, so that untrusted files cannot exhaust time or memory.

They are far above all networks of the papers (13 M weights, 34 blocks, 144 channels) and are not recommendations.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from supertickets.errors import UserError
from supertickets.networks.arch import Arch, SupernetArch
from supertickets.networks.body import BodyArch
from supertickets.networks.build import build_net
from supertickets.networks.library import build_classifier, build_maps
from supertickets.networks.network import Network
from supertickets.task import Task

JSON_BYTES, TENSOR_BYTES = 32 * 2**20, 2 * 2**30
DEPTH, VALUES, ITEMS, TEXT, NUMBER = 24, 1_000_000, 100_000, 100_000, 2**63
STAGES, BRANCHES, BLOCKS, WIDTH, KERNELS, KERNEL = 16, 8, 500, 16_384, 8, 31
WEIGHTS = 200_000_000
SIDE_PX = 16_384


def check_size(path: Path, most: int) -> None:
    """Raise `UserError` if `path` is not a regular file or has more than `most` bytes."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    if size > most:
        raise UserError(f"{path}: has {size} bytes; files of tickets have at most {most}")


def check_plain(content: object, path: Path) -> None:
    """Raise `UserError` if JSON is nested too deeply, or contains too many or too large values."""
    waiting: list[tuple[object, int]] = [(content, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        inner: list[object] = []
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list):
            inner = value
        elif isinstance(value, str) and (len(value) > TEXT or not value.isprintable() and _broken(value)):
            raise UserError(f"{path}: holds a text that is too long ({len(value)} characters) or not Unicode")
        elif isinstance(value, int) and abs(value) > NUMBER:
            raise UserError(f"{path}: holds a number beyond 64 bits")
        seen += len(inner)
        if depth > DEPTH or len(inner) > 2 * ITEMS or seen > VALUES:
            raise UserError(
                f"{path}: is nested deeper than {DEPTH}, or holds more than {ITEMS} values in one place or {VALUES} in all"
            )
        waiting += [(one, depth + 1) for one in inner]


def _broken(text: str) -> bool:
    """Whether a text contains unpaired surrogates, which JSON can express but no encoding can."""
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


def check_arch(arch: Arch, path: Path) -> None:
    """Raise `UserError` for numbers that no network of this project has."""
    found = {
        "kernels": (len(arch.kernels), KERNELS),
        "kernel size": (max(arch.kernels), KERNEL),
        "expand": (arch.expand, WIDTH),
        "tokens": (max([arch.tokens, *arch.tokens_left.values()]), WIDTH),
        "units": (max([0, *(n for units in arch.units.values() for n in units.values())]), WIDTH * 64),
        "named blocks": (max(len(arch.units), len(arch.tokens_left)), 100 * BLOCKS),
    }
    if isinstance(arch, SupernetArch):
        widths = [*arch.stem, *(width for stage in arch.stages for width in stage.widths)]
        found |= {
            "stages": (len(arch.stages), STAGES),
            "branches": (max(len(stage.widths) for stage in arch.stages), BRANCHES),
            "blocks": (sum(sum(stage.blocks) for stage in arch.stages), BLOCKS),
            "channels": (max(widths), WIDTH),
        }
    if isinstance(arch, BodyArch):
        found |= {"weights": (_weights_of(arch), WEIGHTS), "channels": (max([0, *arch.channels]), WIDTH)}
    for what, (number, most) in found.items():
        if number > most:
            raise UserError(f"{path}: its arch asks for {what} {number}; at most {most} is allowed")


def _weights_of(arch: BodyArch) -> int:
    """Number of weights of the full body, which is built before it is shrunk."""
    with torch.device("meta"):
        net = build_classifier(arch.body, 1) if arch.own_head else build_maps(arch.body, arch.outputs)
    return sum(tensor.numel() for tensor in net.state_dict().values())


def build_checked(arch: Arch, task: Task, path: Path) -> Network:
    """Build the network of `arch`, with new weights. Raises `UserError`, naming `path`, if it would be too large."""
    check_arch(arch, path)
    with torch.device("meta"):
        check_net(build_net(arch, task), task.input_shape, path)
    return build_net(arch, task)


def check_net(net: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Raise `UserError` if a network, which is still on the meta device, would have too many weights or too large an input."""
    count = sum(tensor.numel() for tensor in net.state_dict().values())
    if count > WEIGHTS:
        raise UserError(f"{path}: its arch asks for {count} weights; at most {WEIGHTS} are allowed")
    if max(input_shape) > SIDE_PX:
        raise UserError(f"{path}: its input has the shape {list(input_shape)}; at most {SIDE_PX} pixels per side are allowed")
