"""Laws of the search: penalty, shrink surgery, budget."""

from __future__ import annotations

import copy

import pytest
import torch

from supertickets.config.sections import ArchConfig, TrainConfig
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.heads import DenseHead
from supertickets.networks.macs import count_layers, count_params
from supertickets.networks.supernet import Supernet, prunable
from supertickets.search.budget import budget_at, measure, resolve_target, units_over_budget
from supertickets.search.bundles import bundle_units
from supertickets.search.importance import Statistics, gamma_per_mac, uniform
from supertickets.search.penalty import build_penalty, rho_at
from supertickets.search.shrink import shrink
from supertickets.search.threshold import dead_units
from supertickets.testing import micro_net, randomise_norms
from supertickets.training.ema import start_ema
from supertickets.training.optim import build_optimizer
from supertickets.units.costs import module_macs, savings, unit_costs
from supertickets.units.groups import entries, unit_groups

SHAPE = (3, 32, 32)


def over_budget(net, ema, penalty, *, budget, resource="macs", divisor=1):
    groups = unit_groups(net)
    scores = gamma_per_mac(groups, Statistics(ema, penalty.weights))
    layers = count_layers(net, SHAPE)
    costs, saved_by = unit_costs(net, groups, layers, resource), savings(net, groups, layers, resource)
    excess = measure(net, resource, SHAPE) - budget
    return units_over_budget(groups, scores, costs, excess=excess, divisor=divisor, saved_by=saved_by)


def some_dead(net: Supernet, seed: int = 0) -> dict[str, torch.Tensor]:
    """A third of all units at random; a kernel and a block wholly gone."""
    generator = torch.Generator().manual_seed(seed)
    dead = {group.name: torch.rand(group.count, generator=generator) < 0.33 for group in unit_groups(net)}
    dead["stages.1.branches.1.0.depthwise.3"][:] = True
    for kernel in net.arch.kernels:
        dead[f"stages.2.fusion.edges.1to0.depthwise.{kernel}"][:] = True
    return dead


def whole_block(dead: dict[str, torch.Tensor], block: str) -> torch.Tensor:
    """The block's dead units over all kernels, as they lie in its tensors."""
    return torch.cat([gone for name, gone in dead.items() if name.startswith(f"{block}.depthwise.")])


def silence(net: Supernet, dead: dict[str, torch.Tensor]) -> None:
    """Dead channels at zero: scale and shift of their BN."""
    with torch.no_grad():
        for group in unit_groups(net):
            if group.kind != "token" and group.name in dead:
                positions, units = entries(group, group.gates[0])
                gone = positions[dead[group.name][units]]
                net.get_parameter(group.gates[0])[gone] = 0
                net.get_parameter(group.gates[0].replace(".weight", ".bias"))[gone] = 0


@pytest.mark.parametrize("training", [False, True])
def test_shrink_keeps_the_output(training):
    net = micro_net()
    randomise_norms(net)
    dead = some_dead(net)
    silence(net, dead)
    smaller = copy.deepcopy(net)
    assert shrink(smaller, dead) == sum(int(gone.sum()) for gone in dead.values())
    x = torch.randn(4, 3, 32, 32)
    # An emptied block loses its last BN: its shift, all that is left of it, must be zero for equal outputs.
    norm = net.stages[2].fusion.edges["1to0"].project_bn
    torch.nn.init.zeros_(norm.bias)
    torch.nn.init.zeros_(norm.running_mean)
    net.train(training)
    smaller.train(training)
    torch.testing.assert_close(smaller(x), net(x), atol=1e-5, rtol=1e-5)


def test_empty_kernels_and_blocks_vanish():
    net = micro_net()
    shrink(net, some_dead(net))
    blocks = mixed_blocks(net)
    assert 3 not in blocks["stages.1.branches.1.0"].units
    assert "3" not in blocks["stages.1.branches.1.0"].depthwise
    assert not any("1to0" in name and "shortcut" not in name for name, _ in net.named_parameters() if "stages.2" in name)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 3, 16, 16)


def test_whole_network_of_shortcuts_still_runs_and_rebuilds():
    net = micro_net(tokens=3)
    shrink(net, {group.name: torch.ones(group.count, dtype=torch.bool) for group in unit_groups(net)})
    assert not unit_groups(net) and net(torch.randn(2, 3, 32, 32)).shape == (2, 3, 16, 16)
    assert sum(net.arch.tokens_left.values()) == 0


def trained(optimizer: str = "adamw", tokens: int = 0):
    """A network after two updates, so that optimizer state, EMA and BN statistics are not trivial."""
    net = micro_net(tokens=tokens)
    opt = build_optimizer(net, TrainConfig(optimizer=optimizer, lr=1e-3, weight_decay=1e-2))
    for seed in range(2):
        torch.manual_seed(seed)
        net(torch.randn(4, 3, 32, 32)).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return net, opt


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("tokens", [0, 5])
def test_survivors_keep_values_state_mask_and_penalty_bit_for_bit(optimizer, tokens):
    net, opt = trained(optimizer, tokens)
    ema, penalty = start_ema(net), build_penalty(net, SHAPE)
    mask = {name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(net).items()}
    dead = some_dead(net)
    before = {n: p.detach().clone() for n, p in net.state_dict().items()}
    state = {n: copy.deepcopy(opt.state[p]) for n, p in net.named_parameters()}
    old_mask, old_penalty = dict(mask), dict(penalty.weights)
    shrink(net, dead, mask=mask, ema=ema, penalty=penalty, optimizer=opt)

    name = "stages.2.branches.1.0"
    keep = ~whole_block(dead, name)
    for key in ("expand.weight", "expand_bn.running_var", "depthwise_bn.weight", "depthwise_bn.running_mean"):
        assert torch.equal(net.state_dict()[f"{name}.{key}"], before[f"{name}.{key}"][keep])
        assert torch.equal(ema[f"{name}.{key}"], before[f"{name}.{key}"][keep])
    assert torch.equal(net.state_dict()[f"{name}.project.weight"], before[f"{name}.project.weight"][:, keep])
    assert torch.equal(mask[f"{name}.project.weight"], old_mask[f"{name}.project.weight"][:, keep])
    fives = keep[24:48]
    assert torch.equal(mask[f"{name}.depthwise.5.weight"], old_mask[f"{name}.depthwise.5.weight"][fives])
    assert torch.equal(penalty.weights[f"{name}.depthwise_bn.weight"], old_penalty[f"{name}.depthwise_bn.weight"][keep])
    for param, rows in (("expand.weight", keep), ("depthwise_bn.bias", keep)):
        for key, value in opt.state[net.get_parameter(f"{name}.{param}")].items():
            old = state[f"{name}.{param}"][key]
            expected = old[rows] if isinstance(old, torch.Tensor) and old.ndim else old
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected))
    held = [p for group in opt.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters()} and len(held) == len(set(map(id, held)))
    assert set(mask) == set(prunable(net)) and set(ema) == {n for n, t in net.state_dict().items() if t.is_floating_point()}


def test_optimizer_goes_on_as_if_the_dead_had_never_been():
    """After surgery an update moves survivors exactly as it would have moved them in the big network."""
    net, opt = trained()
    dead = {f"head.block.depthwise.{k}": torch.arange(72) % 3 == 0 for k in (3, 5, 7)}
    silence(net, dead)
    small = copy.deepcopy(net)
    small_opt = build_optimizer(small, TrainConfig(lr=1e-3, weight_decay=1e-2))
    for (_, a), (_, b) in zip(net.named_parameters(), small.named_parameters(), strict=True):
        small_opt.state[b] = copy.deepcopy(opt.state[a])
    shrink(small, dead, optimizer=small_opt)
    x = torch.randn(4, 3, 32, 32)
    for model, optimizer in ((net, opt), (small, small_opt)):
        model(x).square().mean().backward()
        optimizer.step()
    keep = ~whole_block(dead, "head.block")
    torch.testing.assert_close(small.head.block.expand.weight, net.head.block.expand.weight[keep], atol=1e-5, rtol=1e-4)


def test_transformer_tokens_shrink():
    net = micro_net(tokens=6)
    penalty = build_penalty(net, SHAPE)
    name = "stages.1.branches.0.0"
    gamma, before = f"{name}.mixer.token_bn.weight", net.get_parameter(f"{name}.mixer.queries").detach().clone()
    gone = torch.tensor([False, True, False, True, False, False])
    old = penalty.weights[gamma][0].item()
    shrink(net, {f"{name}.mixer": gone}, penalty=penalty)
    mixer = mixed_blocks(net)[name].mixer
    assert mixer.tokens == 4 and torch.equal(mixer.queries, before[~gone])
    # Attention is quadratic: each token left costs 2 * 64 * (2 * (4 - 6)) MACs less than before.
    assert penalty.weights[gamma].tolist() == pytest.approx([old - 512 / penalty.z] * 4)
    assert net(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_penalty_weights_are_mac_shares_with_mean_one():
    net = micro_net()
    penalty, costs = build_penalty(net, SHAPE), unit_costs(net, unit_groups(net), count_layers(net, SHAPE), "macs")
    weights = torch.cat(list(penalty.weights.values()))
    assert float(weights.mean()) == pytest.approx(1, rel=1e-5)
    block = penalty.weights["head.block.depthwise_bn.weight"]
    assert float(block[0] / block[-1]) == pytest.approx(
        float(costs["head.block.depthwise.3"][0] / costs["head.block.depthwise.7"][0])
    )


def test_token_penalty_follows_the_formula():
    net = micro_net(tokens=6)
    penalty, name = build_penalty(net, SHAPE), "head.block"
    macs, n = module_macs(f"{name}.mixer", count_layers(net, SHAPE)), 6
    expected = ((macs - 2 * n * n * 64) / n + 2 * 64 * (n**2 - (n - 1) ** 2)) / penalty.z
    assert float(penalty.weights[f"{name}.mixer.token_bn.weight"][0]) == pytest.approx(expected)


def test_penalty_gradient_is_the_gradient_of_its_value():
    net = micro_net(tokens=3)
    randomise_norms(net)
    penalty = build_penalty(net, SHAPE)
    params = {name: net.get_parameter(name) for name in penalty.weights}
    with torch.no_grad():
        params["head.block.depthwise_bn.weight"][:50] *= -1
    sum((0.1 * penalty.weights[n] * p.abs()).sum() for n, p in params.items()).backward()
    expected = {n: p.grad.clone() for n, p in params.items()}
    for param in params.values():
        param.grad.zero_()
    penalty.add_gradient(net, 0.1)
    assert all(torch.allclose(param.grad, expected[name]) for name, param in params.items())


def test_rho_rises_then_stays():
    assert [rho_at(e, rho=2.0, warmup=4) for e in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    assert rho_at(0, rho=2.0, warmup=0) == 2


def test_a_unit_dies_by_both_or_at_the_end_by_its_average():
    net = micro_net()
    ema = start_ema(net)
    gate, name = "head.block.depthwise_bn.weight", "head.block.depthwise.3"
    with torch.no_grad():
        net.get_parameter(gate)[:2] = torch.tensor([1e-4, 1e-4])
    ema[gate][1:3] = 1e-4
    assert dead_units(net, ema, threshold=1e-3)[name].nonzero().flatten().tolist() == [1]
    assert dead_units(net, ema, threshold=1e-3, last=True)[name].nonzero().flatten().tolist() == [1, 2]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(("resource", "tokens"), [("macs", 0), ("params", 0), ("macs", 6)])
def test_budget_is_met_within_two_percent(resource, share, tokens):
    net = micro_net(tokens=tokens)
    randomise_norms(net)
    ema, penalty = start_ema(net), build_penalty(net, SHAPE)
    target = resolve_target(net, share, resource, SHAPE)
    while dead := over_budget(net, ema, penalty, budget=target, resource=resource):
        shrink(net, dead, ema=ema, penalty=penalty)
    assert measure(net, resource, SHAPE) == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_of_parameters_is_met_at_once_to_within_a_module_that_goes_with_its_last_token(share):
    net = micro_net(tokens=6)
    randomise_norms(net)
    target = resolve_target(net, share, "params", SHAPE)
    largest = max(count_params(net.get_submodule(group.module)) for group in unit_groups(net) if group.module)
    shrink(net, over_budget(net, start_ema(net), build_penalty(net, SHAPE), budget=target, resource="params"))
    assert target - largest < count_params(net) <= target


def test_budget_takes_the_least_important_for_its_cost():
    net = micro_net()
    ema, penalty = start_ema(net), build_penalty(net, SHAPE)
    ema["stages.0.branches.0.0.depthwise_bn.weight"][5] = 1e-6
    full = measure(net, "macs", SHAPE)
    dead = over_budget(net, ema, penalty, budget=full - 1)
    gone = [(n, g.nonzero().flatten().tolist()) for n, g in dead.items() if g.any()]
    assert gone == [("stages.0.branches.0.0.depthwise.3", [5])]


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_with_a_divisor_every_kernel_is_left_with_a_multiple_of_it(share):
    net = micro_net()
    randomise_norms(net)
    odd = {group.name: torch.arange(group.count) < (group.kind == "3") for group in unit_groups(net)}
    shrink(net, odd)  # so that some kernels begin with a unit too few
    ema, penalty = start_ema(net), build_penalty(net, SHAPE)
    target = resolve_target(net, share, "macs", SHAPE)
    dead = over_budget(net, ema, penalty, budget=target, divisor=4)
    before = {name: dict(block.units) for name, block in mixed_blocks(net).items()}
    shrink(net, dead, ema=ema, penalty=penalty)
    changed = 0
    for name, block in mixed_blocks(net).items():
        for k, n in before[name].items():
            left = block.units.get(k, 0)
            assert left == n or left % 4 == 0
            changed += left != n
    assert changed > 3 and measure(net, "macs", SHAPE) <= target


def test_a_bundle_goes_when_all_of_it_is_dead():
    net = micro_net()
    ema = start_ema(net)
    gate, name = "head.block.depthwise_bn.weight", "head.block.depthwise.3"
    (group,) = unit_groups(net, name)
    first = group.count
    bundles = bundle_units([group], {name: torch.arange(first, 0, -1.0)}, 4)[name]
    assert bundles[first - 4 :].unique().tolist() == [0] and first % 4 == 0  # the least four of the kernel
    ema[gate][:3] = 1e-4
    assert not dead_units(net, ema, threshold=1e-3, last=True, divisor=4)[name].any()
    ema[gate][first - 1] = 1e-4
    dead = dead_units(net, ema, threshold=1e-3, last=True, divisor=4)[name]
    assert dead.nonzero().flatten().tolist() == [0, 1, 2, first - 1]


def test_unreachable_budget_says_what_is_possible():
    with pytest.raises(UserError, match="target_macs.*every unit removed"):
        resolve_target(micro_net(), 0.001, "macs", SHAPE)


def test_budget_schedule_runs_from_full_to_target():
    assert [budget_at(e, full=10, target=4, start=2, end=5) for e in (1, 2, 3, 5, 9)] == [10, 10, 8, 4, 4]


def test_uniform_width_stays_uniform_over_many_events_and_bundles():
    """Groups of 48 to 384 units in bundles of 8: after six events each has about the share that it should have."""
    net = Supernet(arch := resolve_arch(ArchConfig(preset="nano")), DenseHead(arch, channels=8, outputs=3))
    full, macs = {group.name: group.count for group in unit_groups(net)}, measure(net, "macs", SHAPE)
    for event in range(6):
        groups, layers = unit_groups(net), count_layers(net, SHAPE)
        excess = measure(net, "macs", SHAPE) - (0.9 - 0.1 * event) * macs
        statistics = Statistics({}, full_counts=full, seed=event)
        costs = unit_costs(net, groups, layers, "macs")
        shrink(net, units_over_budget(groups, uniform(groups, statistics), costs, excess=excess, divisor=8))
    shares = torch.tensor([group.count / full[group.name] for group in unit_groups(net)])
    assert float(shares.min()) > 0.3 and float(shares.max()) < 0.45
