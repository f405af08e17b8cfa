"""Reads checkpoints of the original SuperTickets / HR-NAS code into tickets.

The original runs a block's kernels one by one; here their tensors are put end to end into the one-conv form. All shapes
are read off the tensors; the JSON's `searched` list is checked against them.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.build import build_net
from supertickets.networks.supernet import Supernet, prunable
from supertickets.task import load_task, task_class
from supertickets.ticket.ticket import Ticket

Tensors = dict[str, Tensor]
_BN = ("weight", "bias", "running_mean", "running_var")
_SEARCHED = "[C_out, 1, stride, kernels, channels, ...]"


def import_original(weights: Path, network: Path, *, task: str) -> Ticket:
    """The ticket of an original checkpoint: `weights` (.safetensors or .state_dict) beside `network` (JSON).

    `network` holds the original's `kwargs` and `searched`, or only the `searched` list. Raises `UserError` naming the file
    and the tensor or entry that does not fit.
    """
    cls = task_class(task)
    tensors = _effective(read_tensors(weights), weights)
    kwargs, searched = _read_network(network)
    try:
        head = _read_head(tensors)
        settings = cls.settings_for(outputs=len(_classifier(tensors)), head_channels=head["channels"])
        try:
            instance = load_task(task, settings | {"head": settings["head"] | head})
        except UserError as error:  # the head of one task has settings that another's does not know
            raise UserError(f"{weights}: not a checkpoint of the original {task} network ({error})") from error
        arch = _read_arch(tensors, kwargs, norms=instance.config.arch)
        net = build_net(arch, instance)
        _check_searched(net, _block_names(arch, tensors), searched, network, weights)
        state, mask = _convert(tensors, net, weights)
    except KeyError as error:
        raise UserError(f"{weights}: no tensor {error.args[0]}; not a checkpoint of the original {task} network") from error
    except (RuntimeError, ValueError) as error:  # shapes that do not go together
        raise error if isinstance(error, UserError) else UserError(f"{weights}: {error}") from error
    net.load_state_dict(state, strict=False)
    if all(bool(kept.all()) for kept in mask.values()):
        mask = {}
    ticket = Ticket.from_net(net, instance, metrics={}, mask=mask)
    ticket.provenance["imported_from"] = {"weights": weights.name, "network": network.name}
    return ticket


def read_tensors(path: Path) -> Tensors:
    """Tensors of a safetensors file, or of one saved by torch (read with `weights_only`, so nothing in it is run)."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        struct.error,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
    ) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as tensors only ({first})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a flat mapping of names to tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _effective(tensors: Tensors, path: Path) -> Tensors:
    """Weights times their masks; the masks are kept as `*_mask`. What the forward pass never used is left out."""
    used = {n: t for n, t in tensors.items() if ".bns." not in n and not n.endswith("num_batches_tracked")}
    for name, mask in list(used.items()):
        if name.endswith("_mask"):
            weight = used.get(name.removesuffix("_mask"))
            if weight is None or weight.shape != mask.shape:
                raise UserError(f"{path}: {name} has no weight of its shape beside it")
            used[name.removesuffix("_mask")] = weight * mask
    return used


def _read_network(path: Path) -> tuple[dict[str, Any], list[Any]]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    kwargs: Any = {}
    searched: Any = data
    if isinstance(data, dict):
        kwargs, searched = data.get("kwargs", data.get("model_kwparams", {})), data.get("searched")
    if not isinstance(searched, list) or not isinstance(kwargs, dict):
        raise UserError(f"{path}: no 'searched' list of {_SEARCHED}, or 'kwargs' that are no mapping")
    return kwargs, searched


def _is_classification(tensors: Tensors) -> bool:
    return "classifier.1.weight" in tensors


def _classifier(tensors: Tensors) -> Tensor:
    return tensors["classifier.1.weight" if _is_classification(tensors) else "classifier.weight"]


def _read_head(tensors: Tensors) -> dict[str, Any]:
    """The head's settings, from the tensors' shapes."""
    if not _is_classification(tensors):
        return {"channels": len(tensors["transform.pw_bn.weight"])}
    found = _head_modules(tensors, "incre_modules")
    widths = [len(tensors[f"{found[i]}.pw_bn.weight"]) for i in sorted(found)]
    return {"channels": len(_named(tensors, r"features\.\d+\.final_layer\.0\.weight")), "widths": widths}


def _named(tensors: Tensors, pattern: str) -> Tensor:
    return tensors[next((name for name in tensors if re.fullmatch(pattern, name)), pattern.replace("\\", ""))]


def _head_modules(tensors: Tensors, kind: str) -> dict[int, str]:
    """Index -> name of the classification head's blocks of a kind."""
    pattern = rf"(features\.\d+\.{kind}\.(\d+)(?:\.0)?)\.pw_bn\.weight"
    found = (re.fullmatch(pattern, name) for name in tensors)
    return {int(match[2]): match[1] for match in found if match}


def _read_arch(tensors: Tensors, kwargs: dict[str, Any], *, norms: ArchConfig) -> Arch:
    """Arch from the tensors' shapes; what shapes do not tell from `kwargs`, or as the task has it (`norms`)."""
    stages: list[dict[str, list[int]]] = []
    while any(name.startswith(f"features.{2 * len(stages) + 1}.branches.") for name in tensors):
        s = len(stages)
        blocks = _indices(tensors, rf"features\.{2 * s + 1}\.branches\.(\d+)\.(\d+)\.pw_bn\.weight")
        branches = 1 + max(b for b, _ in blocks)
        counts = [sum(b == branch for b, _ in blocks) for branch in range(branches)]
        widths = [len(tensors[f"features.{2 * s + 1}.branches.{branch}.0.pw_bn.weight"]) for branch in range(branches)]
        stages.append({"blocks": counts, "widths": widths})
    arch = Arch.from_dict(
        {
            "stem": [len(tensors[f"downsamples.{i}.1.weight"]) for i in range(2)],
            "stem_stride": kwargs.get("input_stride", 4),
            "stages": stages,
            "kernels": kwargs.get("kernel_sizes", [3, 5, 7]),
            "expand": kwargs.get("expand_ratio", 4),
            "bn_eps": kwargs.get("bn_epsilon", norms.bn_eps or 1e-3),
            "bn_momentum": kwargs.get("bn_momentum", norms.bn_momentum or 0.01),
        }
    )
    arch.units = {name: _units(tensors, old) for name, old in _block_names(arch, tensors).items()}
    return arch


def _indices(tensors: Tensors, pattern: str) -> list[tuple[int, ...]]:
    found = (re.fullmatch(pattern, name) for name in tensors)
    return [tuple(int(part) for part in match.groups()) for match in found if match]


def _block_names(arch: Arch, tensors: Tensors) -> dict[str, str]:
    """Our block names -> the original's, in the original's module order."""
    names: dict[str, str] = {}
    branches_before = 1
    for s, stage in enumerate(arch.stages):
        for i in range(branches_before):
            for j in range(max(0, i - 1), min(branches_before, i + 2)):
                names[f"stages.{s}.fusion.edges.{j}to{i}"] = f"features.{2 * s}.fuse_layers.{i}.{j}" + (".0" if i != j else "")
        new = len(stage.widths)
        if new > branches_before:
            names[f"stages.{s}.fusion.edges.{new - 2}to{new - 1}"] = f"features.{2 * s}.fuse_layers.{new - 1}.0"
        for b, count in enumerate(stage.blocks):
            for n in range(count):
                names[f"stages.{s}.branches.{b}.{n}"] = f"features.{2 * s + 1}.branches.{b}.{n}"
        branches_before = new
    if not _is_classification(tensors):
        return names | {"head.block": "transform"}
    widen, downsample = _head_modules(tensors, "incre_modules"), _head_modules(tensors, "downsamp_modules")
    names |= {f"head.widen.{i}": widen[i] for i in sorted(widen)}
    return names | {f"head.downsample.{i}": downsample[i] for i in sorted(downsample)}


def _kernels(tensors: Tensors, old: str) -> dict[int, int]:
    """Kernel size -> index r of the original's `ops.r`, by kernel size."""
    count = len(_indices(tensors, re.escape(old) + r"\.ops\.(\d+)\.1\.0\.weight"))
    return dict(sorted((tensors[f"{old}.ops.{r}.1.0.weight"].shape[-1], r) for r in range(count)))


def _units(tensors: Tensors, old: str) -> dict[int, int]:
    return {k: len(tensors[f"{old}.ops.{r}.1.0.weight"]) for k, r in _kernels(tensors, old).items()}


def _check_searched(net: Supernet, names: dict[str, str], searched: list[Any], network: Path, weights: Path) -> None:
    blocks = mixed_blocks(net)
    if len(searched) != len(names):
        raise UserError(f"{network}: 'searched' lists {len(searched)} blocks, {weights.name} holds {len(names)}")
    for i, (name, entry) in enumerate(zip(names, searched, strict=True)):
        try:
            channels, _, stride, kernels, units = entry[:5]
            listed = {k: n for k, n in zip(kernels, units, strict=True) if n}
        except (TypeError, ValueError) as error:
            raise UserError(f"{network}: searched[{i}] is {entry}, not {_SEARCHED}") from error
        block = blocks[name]
        if (channels, stride, listed) != (block.out_channels, block.stride, block.units):
            found = [block.out_channels, 1, block.stride, list(block.units), list(block.units.values())]
            raise UserError(f"{network}: searched[{i}] is {entry[:5]}, but {weights.name} holds {found} ({names[name]})")


def _convert(tensors: Tensors, net: Supernet, path: Path) -> tuple[Tensors, Tensors]:
    """Our state dict and mask, each taken from the original's tensors."""

    def state_of(read: Callable[[str], Tensor]) -> Tensors:
        """Our names for what `read` gives under the original's: its weights, or their masks."""
        state = {
            "stem.0.weight": read("downsamples.0.0.weight"),
            "stem.3.weight": read("downsamples.1.0.weight"),
            **{f"stem.{3 * i + 1}.{part}": read(f"downsamples.{i}.1.{part}") for i in range(2) for part in _BN},
        }
        classifier = "classifier.1" if _is_classification(tensors) else "classifier"
        state |= {f"head.classifier.{part}": read(f"{classifier}.{part}") for part in ("weight", "bias")}
        if _is_classification(tensors):
            final = next(n for n in tensors if n.endswith("final_layer.0.weight")).removesuffix(".0.weight")
            state["head.final.0.weight"] = read(f"{final}.0.weight")
            state |= {f"head.final.1.{part}": read(f"{final}.1.{part}") for part in _BN}
        for name, old in _block_names(net.arch, tensors).items():
            state |= {f"{name}.{key}": value for key, value in _convert_block(tensors, old, read).items()}
        return state

    state = state_of(lambda name: tensors[name])
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in state or state[name].shape != tensor.shape:
            found = list(state[name].shape) if name in state else "nothing"
            raise UserError(f"{path}: {name} should have shape {list(tensor.shape)}, but the file gives {found}")
    kept = state_of(lambda name: tensors.get(f"{name}_mask", torch.ones_like(tensors[name])))
    return state, {name: kept[name] != 0 for name in prunable(net)}


def _convert_block(tensors: Tensors, old: str, read: Callable[[str], Tensor]) -> Tensors:
    block: Tensors = {}
    if f"{old}.residual.weight" in tensors:
        block["shortcut.weight"] = read(f"{old}.residual.weight")
    kernels = _kernels(tensors, old)
    if not kernels:
        return block
    rows = [f"{old}.ops.{r}" for r in kernels.values()]
    block["expand.weight"] = torch.cat([read(f"{row}.0.0.weight") for row in rows])
    block["project.weight"] = torch.cat([read(f"{row}.2.weight") for row in rows], dim=1)
    for k, row in zip(kernels, rows, strict=True):
        block[f"depthwise.{k}.weight"] = read(f"{row}.1.0.weight")
    for part in _BN:
        block[f"expand_bn.{part}"] = torch.cat([read(f"{row}.0.1.{part}") for row in rows])
        block[f"depthwise_bn.{part}"] = torch.cat([read(f"{row}.1.1.{part}") for row in rows])
        block[f"project_bn.{part}"] = read(f"{old}.pw_bn.{part}")
    return block
