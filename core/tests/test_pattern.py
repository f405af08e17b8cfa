"""Laws of n:m patterns: exact counts in each block, the layers that they cover, and masks that hold through a run."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from supertickets.config.sections import ImpConfig, PruneConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.supernet import prunable
from supertickets.pruning.mask import sparsity, zero_sparsity
from supertickets.pruning.pattern import choose_by_pattern, pattern_layers
from supertickets.pruning.prune import prune
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.training.schedule import plan_prunes


def kept_per_block(kept: Tensor, m: int) -> list[Tensor]:
    """How many weights each block of m input channels keeps, (C_out, blocks), and the last, incomplete block."""
    rows = kept.flatten(1)
    whole = rows.shape[1] // m * m
    return [rows[:, :whole].reshape(len(rows), -1, m).sum(-1), rows[:, whole:].sum(-1)]


def assert_exact(net: nn.Module, mask: dict[str, Tensor], n: int, m: int) -> None:
    covered = pattern_layers(net)
    assert covered and mask.keys() == prunable(net).keys()
    for name, kept in mask.items():
        if name not in covered:
            assert kept.all()
            continue
        blocks, last = kept_per_block(kept, m)
        rest = kept.shape[1] % m
        assert (blocks == n).all() and (last == -(-rest * n // m)).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 7), (1, 2), (5, 8)])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp"])
def test_each_block_keeps_exactly_n(n, m, criterion):
    net = micro_net()
    mask = prune(net, 1 - n / m, criterion=criterion, pattern=(n, m))
    assert_exact(net, mask, n, m)
    counted = sum(int((~kept).sum()) for kept in mask.values()) / sum(w.numel() for w in prunable(net).values())
    assert sparsity(mask) == pytest.approx(counted)


def test_the_lowest_of_a_block_go_and_ties_by_position():
    scores = {"a": torch.tensor([[4.0, 1, 3, 2, 9, 8], [1, 1, 1, 1, 5, 5]])[:, :, None, None]}
    kept = choose_by_pattern(scores, 0.5, (2, 4))["a"].flatten(1).int().tolist()
    assert kept == [[1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 1]]  # of the last two, ceil(2 * 2 / 4) = 1 stays


def test_before_the_end_only_what_the_pattern_takes_is_pruned():
    net = micro_net()
    final, halfway = prune(net, 0.5, pattern=(2, 4)), prune(net, 0.2, pattern=(2, 4))
    covered = pattern_layers(net)
    assert all((halfway[name] | ~final[name]).all() for name in final)
    gone, total = (sum(int(f(halfway[name])) for name in covered) for f in (lambda kept: (~kept).sum(), torch.numel))
    assert gone == round(0.2 * total)


def test_only_1x1_convs_of_one_group_are_covered():
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, stride=2))
    assert pattern_layers(net) == {"0.weight", "3.weight"}


@pytest.mark.usefixtures("toy_installed")
@pytest.mark.parametrize("reactivate", ["never", "after_shrink", "after_prune"])
def test_a_run_ends_at_the_exact_pattern_through_shrinks(tmp_path, reactivate):
    prunes = {"target": None, "pattern": "2:4", "reactivate": reactivate}
    config = toy_config(tmp_path / "run", prune=prunes)
    ticket = draw_ticket(ToyTask(config, images=16), config)
    net = Ticket.load(tmp_path / "run" / "ticket").build()
    assert_exact(net, ticket.mask, 2, 4)
    assert ticket.sparsity == pytest.approx(sparsity(ticket.mask)) and zero_sparsity(net) >= ticket.sparsity - 1e-9
    for name, weight in prunable(net).items():
        assert not weight[~ticket.mask[name]].any()
    names = {name: weight.shape for name, weight in prunable(micro_net()).items()}
    assert any(weight.shape != names[name] for name, weight in prunable(net).items())  # units were removed on the way


@pytest.mark.usefixtures("toy_installed")
@pytest.mark.parametrize("reactivate", ["never", "after_shrink", "after_prune"])
def test_the_mask_of_a_ticket_holds_in_the_layers_that_the_pattern_leaves_alone(tmp_path, reactivate):
    source = toy_config(tmp_path / "source", prune={"target": 0.6, "scope": "layer"}, search={"enabled": False})
    draw_ticket(ToyTask(source, images=16), source)
    config = toy_config(
        tmp_path / "run",
        init={"ticket": tmp_path / "source" / "ticket"},
        prune={"enabled": True, "target": None, "pattern": "2:4", "reactivate": reactivate},
        search={"enabled": True, "target_macs": 0.8},
    )
    ticket = draw_ticket(ToyTask(config, images=16), config)
    covered = pattern_layers(ticket.build())
    others = {name: kept for name, kept in ticket.mask.items() if name not in covered}
    assert sparsity(others) == pytest.approx(0.6, abs=0.05)
    assert all(not ticket.tensors[name][~kept].any() for name, kept in others.items())
    assert_exact(ticket.build(), ticket.mask | {name: torch.ones_like(kept) for name, kept in others.items()}, 2, 4)


@pytest.mark.usefixtures("toy_installed")
def test_a_resumed_run_has_the_same_pattern(tmp_path):
    prunes = {"target": None, "pattern": "2:4", "reactivate": "after_shrink", "revive_from": "dormant"}
    whole = draw_ticket(ToyTask(None, images=16), toy_config(tmp_path / "whole", prune=prunes))

    class StopsAtFour(ToyTask):
        def evaluate(self, model, loader, accelerator):
            if (tmp_path / "cut" / "checkpoints" / "epoch_0003.safetensors").exists():
                raise KeyboardInterrupt
            return super().evaluate(model, loader, accelerator)

    with pytest.raises(KeyboardInterrupt):
        draw_ticket(StopsAtFour(None, images=16), toy_config(tmp_path / "cut", prune=prunes))
    resumed = draw_ticket(ToyTask(None, images=16), toy_config(tmp_path / "cut", prune=prunes, run={"resume": True}))
    assert all(torch.equal(resumed.mask[name], kept) for name, kept in whole.mask.items())
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_the_plan_ends_at_the_density_of_the_pattern():
    plan = plan_prunes(20, PruneConfig(target=None, pattern="1:4", every=2, end=0.5))
    assert plan[10] == 0.75 and list(plan.values()) == sorted(plan.values())
    assert plan_prunes(20, PruneConfig(target=None, pattern="2:4", schedule="one_shot", end=0.5)) == {10: 0.5}
    with pytest.raises(UserError, match=r"prune\.pattern: 1:4 is not reached"):
        plan_prunes(20, PruneConfig(target=None, pattern="1:4", schedule="progressive", every=10))


@pytest.mark.parametrize("pattern", ["4:2", "x", "0:4", "4:4", "2:4:8", "1:99999", ""])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValidationError, match=f"'{pattern}' is not a pattern: write none, or n:m with n below m and at most"):
        PruneConfig(target=None, pattern=pattern)


def test_a_pattern_stands_alone(tmp_path):
    with pytest.raises(ValidationError, match=r"pattern 2:4 fixes the sparsity: set target to null \(it is 0\.8\)"):
        PruneConfig(pattern="2:4")
    with pytest.raises(ValidationError, match="target null needs a pattern"):
        PruneConfig(target=None)
    for other in ({"scope": "layer"}, {"regrow": "random"}, {"min_layer_density": 0.1}):
        with pytest.raises(ValidationError, match=r"pattern 2:4 needs scope global"):
            PruneConfig(target=None, pattern="2:4", **other)
    with pytest.raises(ValidationError, match=r"it needs prune\.target"):
        toy_config(tmp_path, prune={"target": None, "pattern": "2:4"}, imp=ImpConfig(rounds=2).model_dump())
