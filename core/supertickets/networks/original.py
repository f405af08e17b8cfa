"""The original SuperTickets / HR-NAS networks under this project's names: arch, weights and mask from their tensors.

The original runs the kernels of a block one by one; here, their tensors are concatenated into the one-conv form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError
from supertickets.networks.arch import SupernetArch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.supernet import prunable
from supertickets.networks.unit_group import BN_TENSORS

Tensors = dict[str, Tensor]
SEARCHED = "[C_out, 1, stride, kernels, channels, ...]"


def _is_classification(tensors: Tensors) -> bool:
    return "classifier.1.weight" in tensors


def classifier_of(tensors: Tensors) -> Tensor:
    """The weight of the layer that computes the classes, the joints or the labels; its first dimension is their number."""
    return tensors["classifier.1.weight" if _is_classification(tensors) else "classifier.weight"]


def read_head(tensors: Tensors) -> dict[str, object]:
    """The settings of the head, from the shapes of the tensors."""
    if not _is_classification(tensors):
        return {"channels": len(tensors["transform.pw_bn.weight"])}
    found = _head_modules(tensors, "incre_modules")
    widths = [len(tensors[f"{found[i]}.pw_bn.weight"]) for i in sorted(found)]
    return {"channels": len(_named(tensors, r"features\.\d+\.final_layer\.0\.weight")), "widths": widths}


def _named(tensors: Tensors, pattern: str) -> Tensor:
    return tensors[next((name for name in tensors if re.fullmatch(pattern, name)), pattern.replace("\\", ""))]


def _head_modules(tensors: Tensors, kind: str) -> dict[int, str]:
    """Index -> name for the blocks of one kind in the classification head."""
    pattern = rf"(features\.\d+\.{kind}\.(\d+)(?:\.0)?)\.pw_bn\.weight"
    found = (re.fullmatch(pattern, name) for name in tensors)
    return {int(match[2]): match[1] for match in found if match}


def arch_of(tensors: Tensors, kwargs: Mapping[str, object], *, norms: ArchConfig) -> SupernetArch:
    """The arch from the shapes of the tensors; what these do not tell comes from `kwargs` or from the task (`norms`)."""
    stages: list[dict[str, list[int]]] = []
    while any(name.startswith(f"features.{2 * len(stages) + 1}.branches.") for name in tensors):
        s = len(stages)
        blocks = _indices(tensors, rf"features\.{2 * s + 1}\.branches\.(\d+)\.(\d+)\.pw_bn\.weight")
        branches = 1 + max(b for b, _ in blocks)
        counts = [sum(b == branch for b, _ in blocks) for branch in range(branches)]
        widths = [len(tensors[f"features.{2 * s + 1}.branches.{branch}.0.pw_bn.weight"]) for branch in range(branches)]
        stages.append({"blocks": counts, "widths": widths})
    arch = SupernetArch.from_dict(
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
    arch.units = {name: _units(tensors, old) for name, old in block_names(arch, tensors).items()}
    return arch


def _indices(tensors: Tensors, pattern: str) -> list[tuple[int, ...]]:
    found = (re.fullmatch(pattern, name) for name in tensors)
    return [tuple(int(part) for part in match.groups()) for match in found if match]


def block_names(arch: SupernetArch, tensors: Tensors) -> dict[str, str]:
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


def check_searched(net: nn.Module, names: dict[str, str], searched: list[Any], network: Path, weights: Path) -> None:
    """Raise `UserError` if the `searched` list of the JSON does not agree with the blocks that the tensors form."""
    blocks = mixed_blocks(net)
    if len(searched) != len(names):
        raise UserError(f"{network}: 'searched' lists {len(searched)} blocks, {weights.name} holds {len(names)}")
    for i, (name, entry) in enumerate(zip(names, searched, strict=True)):
        try:
            channels, _, stride, kernels, units = entry[:5]
            listed = {k: n for k, n in zip(kernels, units, strict=True) if n}
        except (TypeError, ValueError) as error:
            raise UserError(f"{network}: searched[{i}] is {entry}, not {SEARCHED}") from error
        block = blocks[name]
        if (channels, stride, listed) != (block.out_channels, block.stride, block.units):
            found = [block.out_channels, 1, block.stride, list(block.units), list(block.units.values())]
            raise UserError(f"{network}: searched[{i}] is {entry[:5]}, but {weights.name} holds {found} ({names[name]})")


def convert(tensors: Tensors, net: nn.Module, names: dict[str, str], path: Path) -> tuple[Tensors, Tensors]:
    """This project's state dict and mask, both from the original's tensors."""

    def state_of(read: Callable[[str], Tensor]) -> Tensors:
        """What `read` returns for the original's names, weights or masks, under this project's names."""
        state = {
            "stem.0.weight": read("downsamples.0.0.weight"),
            "stem.3.weight": read("downsamples.1.0.weight"),
            **{f"stem.{3 * i + 1}.{part}": read(f"downsamples.{i}.1.{part}") for i in range(2) for part in BN_TENSORS},
        }
        classifier = "classifier.1" if _is_classification(tensors) else "classifier"
        state |= {f"head.classifier.{part}": read(f"{classifier}.{part}") for part in ("weight", "bias")}
        if _is_classification(tensors):
            final = next(n for n in tensors if n.endswith("final_layer.0.weight")).removesuffix(".0.weight")
            state["head.final.0.weight"] = read(f"{final}.0.weight")
            state |= {f"head.final.1.{part}": read(f"{final}.1.{part}") for part in BN_TENSORS}
        for name, old in names.items():
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
    for part in BN_TENSORS:
        block[f"expand_bn.{part}"] = torch.cat([read(f"{row}.0.1.{part}") for row in rows])
        block[f"depthwise_bn.{part}"] = torch.cat([read(f"{row}.1.1.{part}") for row in rows])
        block[f"project_bn.{part}"] = read(f"{old}.pw_bn.{part}")
    return block
