"""Checkpoints of the original classification network: its layout, written here kernel by kernel, gives the same network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from supertickets.errors import UserError
from supertickets.networks.blocks import MixedBlock, mixed_blocks
from supertickets.networks.heads import ClassificationHead
from supertickets.networks.supernet import Supernet, prunable
from supertickets.testing import micro_arch, randomise_norms
from supertickets.ticket.original import import_original
from supertickets.ticket.ticket import Ticket

BN = ("weight", "bias", "running_mean", "running_var")


def original_name(ours: str, branches: list[int]) -> str:
    """Where the original keeps a block; `branches` of each stage."""
    if edge := re.fullmatch(r"stages\.(\d+)\.fusion\.edges\.(\d+)to(\d+)", ours):
        s, j, i = map(int, edge.groups())
        if i >= (branches[s - 1] if s else 1):
            return f"features.{2 * s}.fuse_layers.{i}.0"
        return f"features.{2 * s}.fuse_layers.{i}.{j}" + (".0" if i != j else "")
    if branch := re.fullmatch(r"stages\.(\d+)\.branches\.(\d+)\.(\d+)", ours):
        s, b, n = map(int, branch.groups())
        return f"features.{2 * s + 1}.branches.{b}.{n}"
    kind, i = ours.split(".")[1:]
    return f"features.{2 * len(branches)}.{dict(widen='incre', downsample='downsamp')[kind]}_modules.{i}"


def write_block(block: MixedBlock, old: str, state: dict[str, Tensor]) -> list[object]:
    """The block kernel by kernel into `state`; its entry of the `searched` list."""
    at = 0
    for r, (k, n) in enumerate(block.units.items()):
        rows, at = slice(at, at + n), at + n
        state[f"{old}.ops.{r}.0.0.weight"] = block.expand.weight[rows]
        state[f"{old}.ops.{r}.1.0.weight"] = block.depthwise[str(k)].weight
        state[f"{old}.ops.{r}.2.weight"] = block.project.weight[:, rows]
        for part in BN:
            state[f"{old}.ops.{r}.0.1.{part}"] = getattr(block.expand_bn, part)[rows]
            state[f"{old}.ops.{r}.1.1.{part}"] = getattr(block.depthwise_bn, part)[rows]
    state |= {f"{old}.pw_bn.{part}": getattr(block.project_bn, part) for part in BN}
    if not isinstance(block.shortcut, torch.nn.Identity):
        state[f"{old}.residual.weight"] = block.shortcut.weight
    return [block.out_channels, 1, block.stride, list(block.units), list(block.units.values()), True]


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Supernet, Path, Path]:
    torch.manual_seed(0)
    arch = micro_arch(stem_stride=4)
    net = Supernet(arch, ClassificationHead(arch, classes=5, widths=(6, 8, 10), channels=12)).eval()
    randomise_norms(net)
    branches = [len(stage.widths) for stage in arch.stages]
    state: dict[str, Tensor] = {}
    for i in range(2):
        state[f"downsamples.{i}.0.weight"] = net.stem[3 * i].weight
        state |= {f"downsamples.{i}.1.{part}": getattr(net.stem[3 * i + 1], part) for part in BN}
    blocks = {original_name(name, branches): block for name, block in mixed_blocks(net).items()}
    # Fusion edges by target, then source, the stage's blocks; the head last: the order of the original's modules.
    order = sorted(blocks, key=lambda old: [(0, int(p)) if p.isdigit() else (1, p) for p in old.split(".")])
    head = [old for old in order if "_modules" in old]
    head = [old for kind in ("incre", "downsamp") for old in head if f"{kind}_modules" in old]
    order = [old for old in order if "_modules" not in old] + head
    searched = [write_block(blocks[old], old, state) for old in order]
    final = f"features.{2 * len(branches)}.final_layer"
    state[f"{final}.0.weight"] = net.head.final[0].weight
    state |= {f"{final}.1.{part}": getattr(net.head.final[1], part) for part in BN}
    state |= {f"classifier.1.{part}": getattr(net.head.classifier, part) for part in ("weight", "bias")}
    torch.save({f"module.{name}": tensor.detach().clone() for name, tensor in state.items()}, tmp_path / "net.state_dict")
    (tmp_path / "net.json").write_text(json.dumps({"searched": searched}))
    return net, tmp_path / "net.state_dict", tmp_path / "net.json"


def test_the_imported_network_is_the_same(checkpoint, tmp_path):
    net, weights, network = checkpoint
    ticket = Ticket.load(import_original(weights, network, task="classification").save(tmp_path / "ticket"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ticket.build()(images), net(images))
    assert len(ticket.load_task().labels) == 5 and len(prunable(ticket.build())) == len(prunable(net))


def test_a_head_of_another_task_is_named(checkpoint):
    _, weights, network = checkpoint
    with pytest.raises(UserError, match=r"net\.state_dict"):
        import_original(weights, network, task="segmentation")
