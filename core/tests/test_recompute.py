"""Laws of recomputing activations: the same numbers (the supernet's but for rounding), and less kept for the backward pass."""

from __future__ import annotations

import copy
import json
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks import blocks
from supertickets.networks.blocks import MixedBlock, outer_blocks
from supertickets.networks.library import build_maps
from supertickets.testing import ToyTask, micro_arch, micro_net, toy_config
from supertickets.training.recompute import recompute_blocks


def train_twice(net: nn.Module, x: Tensor, *, frozen: bool) -> tuple[dict[str, Tensor], int]:
    """The net's tensors and gradients and the random state after two updates, and the bytes that the forward passes kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=1e-3)
    for module in net.modules() if frozen else ():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(x)
        sum(part.square().mean() for part in (out if isinstance(out, list) else [out])).backward()
        optimizer.step()
    gradients = {f"{name}.grad": param.grad for name, param in net.named_parameters()}
    return {**net.state_dict(), **gradients, "random": torch.rand(3)}, sum(kept.values())


@pytest.mark.parametrize("kind", ["supernet", "frozen BN", "changed BN", "timm"])
def test_recomputed_blocks_give_the_same_numbers_and_keep_less(kind):
    """In double precision the supernet's blocks, which add up kernel by kernel, agree to 1e-9; others bit for bit."""
    if kind == "timm":
        pytest.importorskip("timm")
        net, x = build_maps("timm:test_efficientnet"), torch.randn(2, 3, 32, 32)
    else:
        net, x = micro_net(tokens=4).double(), torch.randn(2, 3, 32, 32).double()  # its transformer has dropout
    for norm in net.modules() if kind == "changed BN" else ():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = MethodType(nn.BatchNorm2d.forward, norm)  # as train.sync_bn does
    other = copy.deepcopy(net)
    recompute_blocks(other)
    copied = copy.deepcopy(other)
    nets = (net, other, copied)
    (plain, all_kept), (again, kept), (third, _) = (train_twice(each, x, frozen=kind == "frozen BN") for each in nets)
    assert plain.keys() == again.keys()
    for name in plain:
        near = torch.equal if kind in ("timm", "changed BN") or name == "random" else close
        assert near(plain[name], again[name]) and torch.equal(again[name], third[name]), name
    assert kept < 0.6 * all_kept


@pytest.mark.parametrize("kind", ["supernet", "frozen BN", "changed BN"])
def test_large_blocks_train_one_kernel_size_after_the_other(kind, monkeypatch):
    """On a CPU; in double precision the numbers agree to 1e-9. With `train.sync_bn` they run as a whole."""
    calls = []
    in_parts = MixedBlock.forward_in_parts
    monkeypatch.setattr(MixedBlock, "forward_in_parts", lambda self, x, run: calls.append(self) or in_parts(self, x, run))
    net, x = micro_net(tokens=4).double(), torch.randn(2, 3, 32, 32).double()
    for norm in net.modules() if kind == "changed BN" else ():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = MethodType(nn.BatchNorm2d.forward, norm)
    other = copy.deepcopy(net)
    plain, _ = train_twice(net, x, frozen=kind == "frozen BN")
    assert not calls
    monkeypatch.setattr(blocks, "LARGE", 1)
    parts, _ = train_twice(other, x, frozen=kind == "frozen BN")
    assert bool(calls) == (kind != "changed BN")
    for name in plain:
        assert (torch.equal if not calls else close)(plain[name], parts[name]), name
    calls.clear()
    with torch.no_grad():
        other(x)
    other.eval()(x)
    assert not calls


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to 1e-9 of the largest value."""
    return bool((a - b).abs().max() <= 1e-9 * max(1e-3, float(a.abs().max())))


def test_the_hidden_values_of_one_kernel_size_are_the_most_that_is_held():
    """A block of three kernel sizes holds about as much at once as one of the largest alone."""
    peaks = {}
    for units in ({3: 96, 5: 96, 7: 96}, {7: 96}):
        arch = micro_arch(kernels=list(units), expand=24)
        block = MixedBlock(4, 4, stride=1, arch=arch, name="block")
        assert block.units == units
        recompute_blocks(holder := nn.Sequential(block))
        peaks[len(units)] = peak_bytes(holder.train(), torch.randn(1, 4, 32, 32, requires_grad=True))
    assert peaks[3] < 1.2 * peaks[1]


def peak_bytes(net: nn.Module, x: Tensor) -> int:
    """The most bytes that a forward and backward pass has allocated at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        net(x).square().mean().backward()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.usefixtures("toy_installed")
def test_a_drawing_with_checkpointing_is_the_same_but_for_rounding(tmp_path):
    found = []
    for on in (False, True):
        config = toy_config(tmp_path / str(on), train={"epochs": 4, "checkpointing": on})
        ticket = draw_ticket(ToyTask(config, images=16), config)
        lines = (tmp_path / str(on) / "metrics.jsonl").read_text().splitlines()
        found.append(([json.loads(line)["loss"] for line in lines], ticket))
    (plain, ticket), (again, other) = found
    assert plain[0] == pytest.approx(again[0], rel=1e-4) and plain == pytest.approx(again, rel=0.05)
    assert ticket.metrics["macs"] == pytest.approx(other.metrics["macs"], rel=0.05)


@pytest.mark.usefixtures("toy_installed")
def test_a_criterion_that_differentiates_twice_can_be_used_with_checkpointing(tmp_path):
    masks = []
    for on in (False, True):
        prune = {"criterion": "grasp", "schedule": "one_shot", "end": 0.5}
        config = toy_config(
            tmp_path / str(on), train={"epochs": 2, "checkpointing": on}, prune=prune, search={"enabled": False}
        )
        masks.append(draw_ticket(ToyTask(config, images=16), config).mask)
    same = sum(int((kept == masks[1][name]).sum()) for name, kept in masks[0].items())
    assert same > 0.99 * sum(kept.numel() for kept in masks[0].values())


def test_a_network_without_blocks_is_refused():
    net = build_maps("torchvision:mobilenet_v3_small", [0, 1])
    assert not outer_blocks(net)
    with pytest.raises(UserError, match=r"train\.checkpointing: this body has no blocks"):
        recompute_blocks(net)
