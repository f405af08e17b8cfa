"""Laws of recomputing activations: the same numbers bit for bit, and less kept for the backward pass."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.blocks import outer_blocks
from supertickets.networks.library import build_maps
from supertickets.testing import ToyTask, micro_net, toy_config
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


@pytest.mark.parametrize("kind", ["supernet", "frozen BN", "timm"])
def test_recomputed_blocks_give_the_same_bits_and_keep_less(kind):
    if kind == "timm":
        pytest.importorskip("timm")
        net, x = build_maps("timm:test_efficientnet"), torch.randn(2, 3, 32, 32)
    else:
        net, x = micro_net(tokens=4), torch.randn(2, 3, 32, 32)  # its transformer has dropout
    other = copy.deepcopy(net)
    recompute_blocks(other)
    copied = copy.deepcopy(other)
    nets = (net, other, copied)
    (plain, all_kept), (again, kept), (third, _) = (train_twice(each, x, frozen=kind == "frozen BN") for each in nets)
    assert plain.keys() == again.keys()
    for name in plain:
        assert torch.equal(plain[name], again[name]) and torch.equal(plain[name], third[name]), name
    assert kept < 0.6 * all_kept


@pytest.mark.usefixtures("toy_installed")
def test_a_drawing_with_checkpointing_is_the_same(tmp_path):
    found = []
    for on in (False, True):
        config = toy_config(tmp_path / str(on), train={"epochs": 4, "checkpointing": on})
        ticket = draw_ticket(ToyTask(config), config)
        records = [json.loads(line) for line in (tmp_path / str(on) / "metrics.jsonl").read_text().splitlines()]
        found.append(([{k: v for k, v in record.items() if k != "seconds"} for record in records], ticket))
    (plain, ticket), (again, other) = found
    assert plain == again and ticket.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in ticket.tensors.items())


def test_a_network_without_blocks_is_refused():
    net = build_maps("torchvision:mobilenet_v3_small", [0, 1])
    assert not outer_blocks(net)
    with pytest.raises(UserError, match=r"train\.checkpointing: this body has no blocks"):
        recompute_blocks(net)
