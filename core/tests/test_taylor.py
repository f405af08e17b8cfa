"""Laws of the running Taylor importance and of the proximal penalty."""

from __future__ import annotations

import torch

from supertickets.search.importance import Statistics, taylor, taylor_per_mac
from supertickets.search.penalty import build_penalty
from supertickets.search.shrink import shrink
from supertickets.search.taylor import note_taylor
from supertickets.testing import micro_net, randomise_norms
from supertickets.units.groups import unit_groups

GATE, GROUP = "head.block.depthwise_bn.weight", "head.block.depthwise.3"
SHAPE = (3, 32, 32)


def test_taylor_is_the_averaged_square_of_the_first_order_change():
    net, noted = micro_net(), {}
    scale, shift = net.get_parameter(GATE), net.get_parameter(GATE.replace("weight", "bias"))
    expected = None
    for step in range(3):
        scale.grad, shift.grad = torch.full_like(scale, step + 1.0), torch.full_like(shift, 0.5)
        with torch.no_grad():
            shift.fill_(2.0)
        change = (scale * scale.grad + shift * shift.grad).detach().square()
        expected = change if expected is None else 0.9 * expected + 0.1 * change
        note_taylor(noted, net, [GATE], decay=0.9)
    assert list(noted) == [GATE]
    torch.testing.assert_close(noted[GATE], expected)


def test_an_overflow_of_fp16_leaves_the_averages_as_they_are():
    net, noted = micro_net(), {}
    scale, shift = net.get_parameter(GATE), net.get_parameter(GATE.replace("weight", "bias"))
    scale.grad, shift.grad = torch.ones_like(scale), torch.zeros_like(shift)
    note_taylor(noted, net, [GATE], overflows=True)
    before = noted[GATE].clone()
    assert before.any()
    scale.grad[3] = torch.inf
    note_taylor(noted, net, [GATE], overflows=True)
    assert torch.equal(noted[GATE], before)
    fresh: dict[str, torch.Tensor] = {}
    note_taylor(fresh, net, [GATE], overflows=True)
    assert torch.equal(fresh[GATE], torch.zeros_like(before))


def test_taylor_foretells_what_a_removed_unit_does_to_the_loss():
    """For a small gamma and beta the first-order change is the real one."""
    torch.manual_seed(0)
    net, x = micro_net().double().eval(), torch.randn(2, *SHAPE, dtype=torch.double)
    scale, shift = net.get_parameter(GATE), net.get_parameter(GATE.replace("weight", "bias"))
    with torch.no_grad():
        scale[4], shift[4] = 1e-4, 1e-4
    loss = net(x).square().mean()
    loss.backward()
    noted: dict[str, torch.Tensor] = {}
    note_taylor(noted, net, [GATE])
    with torch.no_grad():
        scale[4], shift[4] = 0, 0
        change = net(x).square().mean() - loss
    torch.testing.assert_close(noted[GATE][4].sqrt(), change.abs(), rtol=0.05, atol=0)


def test_statistics_follow_a_shrink_and_scores_divide_by_present_cost():
    net = micro_net()
    noted = {gate: torch.arange(len(net.get_parameter(gate))).float() for gate in build_penalty(net, SHAPE).weights}
    before = noted[GATE].clone()
    gone = torch.arange(72) % 2 == 0
    shrink(net, {GROUP: gone}, statistics=noted)
    assert torch.equal(noted[GATE], torch.cat([before[:72][~gone], before[72:]]))
    groups = unit_groups(net, GROUP)
    scores = taylor(groups, Statistics({}, taylor=noted))
    per_mac = taylor_per_mac(groups, Statistics({}, taylor=noted, costs={GROUP: torch.full((36,), 4.0)}))
    assert torch.equal(scores[GROUP], before[:72][~gone].double()) and torch.equal(per_mac[GROUP], scores[GROUP] / 4)


def test_the_proximal_step_is_a_soft_threshold_that_ends_at_exact_zero():
    net = micro_net(tokens=3)
    randomise_norms(net)
    penalty = build_penalty(net, SHAPE)
    with torch.no_grad():
        net.get_parameter(GATE)[:50] *= -1
    before = {name: net.get_parameter(name).detach().clone() for name in penalty.weights}
    penalty.pull(net, 3.0, lambda param: 0.1)
    for name, gamma in before.items():
        expected = gamma.sign() * (gamma.abs() - 0.3 * penalty.weights[name]).clamp(min=0)
        torch.testing.assert_close(net.get_parameter(name).detach(), expected)
    for _ in range(9):
        penalty.pull(net, 3.0, lambda param: 0.1)
    assert penalty.value(net) < 0.5 * sum(float((penalty.weights[n] * g.abs()).sum()) for n, g in before.items())
    untouched = net.get_parameter("stages.0.branches.0.0.depthwise_bn.weight").detach().clone()
    penalty.pull(net, 3.0, lambda param: 0.1, prefix="head.")
    assert torch.equal(net.get_parameter("stages.0.branches.0.0.depthwise_bn.weight").detach(), untouched)


def test_value_and_step_of_the_penalty_concern_only_the_gates_that_are_asked_for():
    net = micro_net()
    randomise_norms(net)
    penalty = build_penalty(net, SHAPE)
    head = sum(
        float((p * net.get_parameter(n).abs()).sum().detach()) for n, p in penalty.weights.items() if n.startswith("head.")
    )
    assert 0 < penalty.value(net, "head.") < penalty.value(net) and abs(penalty.value(net, "head.") - head) < 1e-4
    before = {name: net.get_parameter(name).detach().clone() for name in penalty.weights}
    resting = {param for name, param in net.named_parameters() if not name.startswith("head.")}
    penalty.pull(net, 3.0, lambda param: 0.0 if param in resting else 0.1)
    changed = {name for name, gamma in before.items() if not torch.equal(gamma, net.get_parameter(name).detach())}
    assert changed == {name for name in before if name.startswith("head.")}
