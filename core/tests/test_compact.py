"""Compaction removes what has no effect and nothing else: the outputs stay."""

from __future__ import annotations

import json

import pytest
import torch

from supertickets import cli
from supertickets.config.sections import Config
from supertickets.deploy.compact import compact, compact_net
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.constants import constant_outputs
from supertickets.networks.supernet import prunable
from supertickets.pruning.prune import choose_mask, hold, prune
from supertickets.testing import ToyTask, micro_net, randomise_norms
from supertickets.ticket.ticket import Ticket

pytestmark = pytest.mark.usefixtures("toy_installed")
BLOCK = "stages.1.branches.0.0"


def trained_like(seed: int = 0, **arch):
    """A network in eval mode whose BN scales and shifts have both signs."""
    net = micro_net(seed, **arch).eval()
    randomise_norms(net, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data *= torch.where(torch.rand(len(module.weight), generator=generator) < 0.2, -1.0, 1.0)
    return net


def random_mask(net, share):
    generator = torch.Generator().manual_seed(3)
    return choose_mask({n: torch.rand(w.shape, generator=generator) for n, w in prunable(net).items()}, share)


@torch.no_grad()
def output_change(net, change) -> float:
    """How far `change(net)` moves the outputs, at sizes where borders matter."""
    inputs = [torch.randn(2, 3, *size, dtype=next(net.parameters()).dtype) for size in ((23, 31), (9, 8))]
    before = [net(x) for x in inputs]
    change(net)
    return max(float((old - net(x)).abs().max()) for old, x in zip(before, inputs, strict=True))


@pytest.mark.parametrize("tokens", [0, 4])
@pytest.mark.parametrize(("dtype", "allowed", "choose"), [(torch.float64, 1e-10, random_mask), (torch.float32, 1e-5, prune)])
def test_outputs_stay_and_units_go(dtype, allowed, tokens, choose):
    gone = []
    for share in (0.8, 0.95, 0.99):
        net = trained_like(tokens=tokens).to(dtype)
        hold(choose(net, share), net)
        assert output_change(net, lambda net: gone.append(compact_net(net))) < allowed
    assert 0 < gone[0] < gone[1] < gone[2]


ROW, KERNEL, COLUMN = ("expand.weight", 0), ("depthwise.5.weight", 0), ("project.weight", 1)
CASES = {
    "nothing": ({}, False),
    "column": ({COLUMN: 0}, True),
    "kernel": ({KERNEL: 0}, True),
    "depthwise gamma": ({("depthwise_bn.weight", 0): 0}, True),
    "row, hidden 0": ({ROW: 0, ("expand_bn.bias", 0): -9}, True),
    "expansion gamma, hidden 0": ({("expand_bn.weight", 0): 0, ("expand_bn.bias", 0): -9}, True),
    "row, hidden > 0, meets the padding": ({ROW: 0, ("expand_bn.bias", 0): 9, KERNEL: 1}, False),
    "row, hidden > 0, centre tap": ({ROW: 0, ("expand_bn.bias", 0): 9, KERNEL: "centre"}, True),
    "never fires": ({KERNEL: -1, ("depthwise_bn.bias", 0): -9}, True),
    "never fires, gamma < 0": ({KERNEL: 1, ("depthwise_bn.weight", 0): -1, ("depthwise_bn.bias", 0): -9}, True),
    "may fire at one tap": ({KERNEL: "centre", ("depthwise_bn.bias", 0): -9}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_which_units_go(case):
    changes, goes = CASES[case]
    net = trained_like().double()
    block = mixed_blocks(net)[BLOCK]
    unit = {"": block.units[3] + 2, "depthwise.5.weight": 2}  # the third of the 5x5 units
    with torch.no_grad():
        block.depthwise["5"].weight[2].abs_()  # with the scale below: can fire
        block.depthwise_bn.weight[unit[""]] = 1
        for (name, dim), value in changes.items():
            weight = block.get_parameter(name).select(dim, unit.get(name, unit[""]))
            weight.fill_(0 if value == "centre" else value)
            if value == "centre":
                weight[0, 2, 2] = 1
    gone = ~constant_outputs(block).isnan() | (block.project.weight == 0).flatten(1).all(0)
    assert bool(gone[unit[""]]) is goes
    assert output_change(net, compact_net) < 1e-10
    assert sum(block.units.values()) == int((~gone).sum())


@pytest.mark.parametrize("leaves_constant", [True, False])
def test_a_block_keeps_one_unit_only_where_its_constant_needs_it(leaves_constant):
    net = trained_like().double()
    block = mixed_blocks(net)[BLOCK]
    block.project.weight.data.zero_()
    if not leaves_constant:
        block.project_bn.bias.data.zero_()
        block.project_bn.running_mean.zero_()
    assert output_change(net, compact_net) < 1e-10
    assert block.units == ({3: 1} if leaves_constant else {})


@pytest.mark.parametrize("emptied", [False, True])
def test_a_transformer_that_gives_a_constant_goes_where_a_bn_takes_it(emptied):
    net = trained_like(tokens=3, **({"units": {BLOCK: {}}} if emptied else {})).double()
    block = mixed_blocks(net)[BLOCK]
    block.mixer.restore.weight.data.zero_()
    assert output_change(net, compact_net) < 1e-10
    assert (block.mixer is None) is not emptied
    assert all(other.mixer is not None for other in mixed_blocks(net).values() if other is not block)


def sparse_ticket(share=0.95) -> Ticket:
    net = trained_like()
    mask = prune(net, share, criterion="lamp")
    hold(mask, net)
    return Ticket.from_net(net, ToyTask(Config()), metrics={"accuracy": 0.5, "units": -1, "macs": -1}, mask=mask)


def test_a_compacted_ticket_is_an_ordinary_ticket(tmp_path):
    ticket = sparse_ticket()
    small = Ticket.load(compact(ticket).save(tmp_path / "small"))
    x = torch.randn(2, 3, 30, 26)
    assert torch.allclose(ticket.build()(x), small.build()(x), atol=1e-5)
    assert set(small.mask) == set(prunable(small.build())) and 0 < small.sparsity < ticket.sparsity
    weights = prunable(small.build())
    assert all(torch.equal(weights[name] != 0, kept) for name, kept in small.mask.items())
    before, after = (small.provenance["compacted"][side] for side in ("before", "after"))
    assert all(after[key] < before[key] for key in ("units", "macs", "sparse_macs", "params"))
    assert small.metrics["units"] == after["units"] == sum(sum(units.values()) for units in small.arch.units.values())
    assert small.metrics["accuracy"] == 0.5 and ticket.metrics["units"] == -1


def test_once_is_enough():
    once = compact(sparse_ticket())
    twice = compact(once)
    assert twice.arch == once.arch and all(torch.equal(twice.tensors[name], once.tensors[name]) for name in once.tensors)


def test_a_dense_ticket_stays_as_it_is():
    net = trained_like()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.fill_(5)  # every unit can fire
    ticket = Ticket.from_net(net, ToyTask(Config()), metrics={})
    assert compact(ticket).arch == ticket.arch


def test_command_writes_the_ticket_and_says_what_went(capsys, tmp_path):
    folder, out = sparse_ticket().save(tmp_path / "t"), tmp_path / "small"
    cli.main(["compact", str(folder), "--out", str(out), "--json", "--size", "24", "32"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["difference"] < 1e-5 and facts["size"] == [24, 32]
    for key in ("units", "macs", "sparse_macs", "params", "file_bytes", "sparsity"):
        assert 0 < facts["after"][key] < facts["before"][key]
    assert min(facts[side]["latency_ms"] for side in ("before", "after")) > 0
    assert Ticket.load(out).provenance["compacted"]["after"]["units"] == facts["after"]["units"]
    cli.main(["compact", str(folder), "--out", str(out)])
    assert "outputs differ by" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["compact", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")])
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "x").exists()
