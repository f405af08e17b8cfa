"""What comes from outside works like what is built in: a family of networks, an importance."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.build import FAMILIES, Family, build_net, read_arch
from supertickets.networks.macs import count_layers, dense_macs
from supertickets.networks.network import Network
from supertickets.networks.unit_group import BN_TENSORS, UnitGroup, indices_of
from supertickets.search.budget import units_over_budget
from supertickets.search.importance import IMPORTANCES, Statistics, importance_named
from supertickets.search.penalty import build_penalty
from supertickets.search.shrink import shrink
from supertickets.testing import ToyTask, micro_net, randomise_norms, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.training.ema import start_ema
from supertickets.units.costs import unit_costs
from supertickets.units.groups import count_units, unit_groups

SHAPE = (3, 16, 16)


class PlainArch(Arch):
    """Two convs, the first with so many channels."""

    family: Literal["plain"] = "plain"
    channels: int = 12
    out: int = 6

    @property
    def widths(self):
        return [self.out]


class PlainNet(Network):
    """(B, 3, H, W) -> head([features]); the channels between the two convs are units."""

    def __init__(self, arch, head):
        super().__init__()
        self._arch, self.head = arch, head
        self.first = nn.Conv2d(3, arch.channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(arch.channels)
        self.second = nn.Conv2d(arch.channels, arch.out, 3, padding=1, bias=False)

    @property
    def arch(self):
        blocks = {path: dict(module.units) for path, module in self.named_modules() if hasattr(module, "units")}
        return self._arch.model_copy(update={"channels": len(self.norm.weight), "units": blocks})

    def unit_groups(self):
        unit_of = indices_of(0, len(self.norm.weight), len(self.norm.weight))
        cuts = {("first.weight", 0): unit_of, ("second.weight", 1): unit_of}
        cuts |= {(f"norm.{tensor}", 0): unit_of for tensor in BN_TENSORS}
        return [UnitGroup("body", "channel", len(unit_of), ("norm.weight",), cuts)]

    def resize(self, tensors):
        self.head.block.resize(self._arch, {k.removeprefix("head.block."): t for k, t in tensors.items() if "head.block." in k})
        small = PlainNet(self._arch.model_copy(update={"channels": len(tensors["norm.weight"])}), None)
        self.first, self.norm, self.second = small.first, small.norm, small.second
        self.train(self.training).load_state_dict(dict(tensors))

    def forward(self, x):
        return self.head([self.second(torch.relu(self.norm(self.first(x))))])


@pytest.fixture
def family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "plain", Family(PlainArch, PlainNet))


def plain_net() -> Network:
    net = build_net(PlainArch(), ToyTask(toy_config("unused")))
    randomise_norms(net)
    return net.eval()


def test_another_family_is_searched_and_shrunk_by_the_same_functions(family):
    net = plain_net()
    groups, layers = unit_groups(net), count_layers(net, SHAPE)
    scores = importance_named("gamma_per_mac")(groups, Statistics(start_ema(net), build_penalty(net, SHAPE).weights))
    costs = unit_costs(net, groups, layers, "macs")
    dead = units_over_budget(groups, scores, costs, excess=0.4 * dense_macs(layers))
    with torch.no_grad():
        net.norm.weight[dead["body"]] = 0
        net.norm.bias[dead["body"]] = 0
    small, before = copy.deepcopy(net), count_units(net)
    only_body = {"body": dead["body"]}
    assert shrink(small, only_body) == int(dead["body"].sum()) > 0 and count_units(small) == before - int(dead["body"].sum())
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(small(x), net(x), atol=1e-5, rtol=1e-5)
    assert dense_macs(count_layers(small, SHAPE)) < dense_macs(count_layers(net, SHAPE))


def test_another_family_has_tickets(family, tmp_path, monkeypatch):
    task = ToyTask(toy_config(tmp_path))
    monkeypatch.setattr("supertickets.ticket.ticket.load_task", lambda name, settings: task)
    net = plain_net()
    shrink(net, {"body": torch.arange(12) < 5})
    again = Ticket.load(Ticket.from_net(net, task, metrics={}).save(tmp_path / "ticket"))
    x = torch.randn(2, *SHAPE)
    assert again.arch.family == "plain" and again.arch.channels == 7 and torch.equal(again.build()(x), net(x))


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(UserError, match="arch.family: 'moon' is not known here; valid: hrnas"):
        read_arch({"family": "moon"})


def test_an_importance_from_outside_decides(family, monkeypatch):
    monkeypatch.setitem(IMPORTANCES, "last_first", lambda groups, _: {g.name: -torch.arange(g.count).double() for g in groups})
    net = plain_net()
    groups = unit_groups(net, "body")
    scores = importance_named("last_first")(groups, Statistics({}))
    costs = unit_costs(net, groups, count_layers(net, SHAPE), "macs")
    dead = units_over_budget(groups, scores, costs, excess=1)
    assert dead["body"].nonzero().flatten().tolist() == [11]


def test_an_unknown_importance_names_the_nearest():
    with pytest.raises(UserError, match="search.importance: 'gama' is not known: did you mean gamma\\?"):
        importance_named("gama")


def test_built_in_importances_rank_by_what_they_say():
    """gamma by size, gamma_per_mac by size per cost, uniform the same share of every group, random by the seed alone."""
    net = micro_net()
    groups, ema = unit_groups(net), start_ema(net)
    ema["stages.0.branches.0.0.depthwise_bn.weight"][3] = 0.01
    penalty = build_penalty(net, SHAPE).weights
    taylor = {gate: torch.ones_like(values) for gate, values in penalty.items()}
    statistics = Statistics(ema, penalty, taylor, unit_costs(net, groups, count_layers(net, SHAPE), "macs"), {}, seed=1)
    scores = {name: importance_named(name)(groups, statistics) for name in IMPORTANCES}
    assert scores["gamma"]["stages.0.branches.0.0.depthwise.3"].argmin() == 3
    flat = {name: torch.cat(list(values.values())) for name, values in scores.items()}
    costs = torch.cat(list(statistics.costs.values()))
    full = flat["gamma"] == 1
    assert torch.equal(flat["gamma_per_mac"][full].argsort(stable=True), costs[full].argsort(descending=True, stable=True))
    assert bool((flat["taylor"] == 1).all()) and torch.equal(flat["taylor_per_mac"], 1 / costs)
    half = [int((scores["uniform"][group.name] < 0.5).sum()) - group.count // 2 for group in groups]
    assert not any(half)
    again = importance_named("random")(groups, Statistics({}, seed=1))
    assert all(torch.equal(again[name], values) for name, values in scores["random"].items())
