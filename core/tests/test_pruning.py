"""Laws of pruning: exactly k, exact zeros that stay, masks that grow or come back as asked."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from supertickets.config.sections import PruneConfig, SearchConfig, TrainConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import Evidence, lamp, magnitude
from supertickets.pruning.mask import density_by_kind, mask_gradients, sparsity, zero_sparsity
from supertickets.pruning.prune import choose_mask, count_revived, hold, prune, revive
from supertickets.pruning.regrow import regrow_share
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.training.ema import start_ema, update_ema
from supertickets.training.optim import build_optimizer
from supertickets.training.pruning import check_prunes, prune_weights
from supertickets.training.schedule import plan_prunes, plan_shrinks, sparsity_at
from supertickets.training.state import new_state


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("criterion", ["magnitude", "lamp"])
@pytest.mark.parametrize("share", [0.0, 0.337, 0.8, 0.98])
def test_exactly_k_weights_go(scope, criterion, share):
    net = micro_net()
    mask = prune(net, share, criterion=criterion, scope=scope)
    total = sum(kept.numel() for kept in mask.values())
    assert sum(int((~kept).sum()) for kept in mask.values()) == round(share * total)


def test_ties_are_broken_by_position():
    mask = choose_mask({"a": torch.ones(2, 3), "b": torch.ones(4)}, 0.7)
    assert mask["a"].tolist() == [[False] * 3] * 2 and mask["b"].tolist() == [False, True, True, True]


def test_magnitude_takes_the_smallest():
    mask = choose_mask(magnitude({"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([-2.0, 0.5])}), 0.5)
    assert mask["a"].tolist() == [True, False] and mask["b"].tolist() == [True, False]


def test_lamp_scores_by_hand():
    scores = lamp({"a": torch.tensor([[3.0, -1.0], [2.0, 2.0]]), "b": torch.tensor([0.1])})
    # Squares 9 1 4 4: 1/18; both 4s over 4+4+9, since each is at least as large as the other; 9/9.
    assert scores["a"].flatten().tolist() == pytest.approx([1, 1 / 18, 4 / 17, 4 / 17])
    assert scores["b"].tolist() == [1]


def test_lamp_ignores_the_scale_of_a_layer():
    w = {"a": torch.randn(50), "b": torch.randn(50)}
    kept = choose_mask(lamp(w), 0.6)
    scaled = choose_mask(lamp({"a": w["a"] * 1000, "b": w["b"]}), 0.6)
    assert all(torch.equal(kept[n], scaled[n]) for n in kept)


def test_layer_scope_takes_the_same_share_everywhere():
    mask = prune(micro_net(), 0.75, scope="layer")
    assert all(abs(int(kept.sum()) - 0.25 * kept.numel()) <= 1 for kept in mask.values())


def test_erk_keeps_small_layers_denser():
    mask = prune(micro_net(), 0.9, scope="erk")
    density = {name: float(kept.float().mean()) for name, kept in mask.items()}
    assert density["stages.0.branches.0.0.depthwise.3.weight"] > density["head.block.expand.weight"]
    assert max(density.values()) <= 1


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_min_layer_density_holds(scope):
    scores = {"big": torch.arange(1000.0) + 1000, "small": torch.arange(10.0)}
    mask = choose_mask(scores, 0.9, scope=scope, min_layer_density=0.05)
    assert int(mask["small"].sum()) >= 1 and int(mask["big"].sum()) >= 50
    assert sum(int(kept.sum()) for kept in mask.values()) == 101
    with pytest.raises(UserError, match="min_layer_density"):
        choose_mask(scores, 0.9, scope=scope, min_layer_density=0.2)


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("regrow", ["none", "random"])
def test_a_floor_without_room_is_refused_before_training(tmp_path, scope, regrow):
    """It names the largest target that works, and that one works."""
    prunes = {"criterion": "lamp", "scope": scope, "regrow": regrow, "min_layer_density": 0.2}
    search = {"enabled": False}
    config = toy_config(
        tmp_path / "run", search=search, prune=prunes | {"target": 0.8}
    )  # 0.2 + 0.8 = 1, but floors are rounded up
    with pytest.raises(UserError, match=r"prune\.min_layer_density: 0\.2 leaves no room for prune\.target 0\.8") as refusal:
        draw_ticket(ToyTask(config), config)
    assert not (tmp_path / "run").exists()
    largest = float(str(refusal.value).rsplit(" ", 1)[1])
    state = new_state(ToyTask(config), config, torch.device("cpu"))
    sizes = [weight.numel() for weight in prunable(state.net).values()]
    floors = sum(math.ceil(0.2 * size - 1e-9) for size in sizes)
    if regrow == "none":
        assert 0 <= 1 - floors / sum(sizes) - largest < 0.001
    for target, works in ((largest, True), (largest + 0.001, False)):
        cfg = PruneConfig(**(prunes | {"target": target, "every": 1, "end": 0.7}))
        with nullcontext() if works else pytest.raises(UserError):
            check_prunes(state, cfg, epochs=6, input_shape=(3, 16, 16))
            plan = plan_prunes(6, cfg)
            for state.epoch in plan:
                prune_weights(state, cfg, plan=plan, evidence=Evidence())
            assert sparsity(state.mask) == pytest.approx(target, abs=1e-4)
        state = new_state(ToyTask(config), config, torch.device("cpu"))


@pytest.mark.usefixtures("toy_installed")
@pytest.mark.parametrize("prune", [{"target": 0.85, "min_layer_density": 0.15}, {"target": None, "target_sparse_macs": 0.012}])
def test_what_fits_at_the_start_also_fits_the_smaller_network_at_the_end(tmp_path, prune, capsys):
    config = toy_config(tmp_path / "run", prune=prune, search={"target_macs": 0.2}, train={"epochs": 5})
    largest = 0.0
    if prune["target"]:  # the floors are rounded up, so the message asks for a slightly lower target
        with pytest.raises(UserError) as refusal:
            draw_ticket(ToyTask(config, images=16), config)
        largest = float(str(refusal.value).split()[-1])
        config = config.model_copy(update={"prune": config.prune.model_copy(update={"target": largest})})
    ticket = draw_ticket(ToyTask(config, images=16), config)
    said = capsys.readouterr().out
    if prune["target"]:
        assert ticket.sparsity == pytest.approx(largest, abs=1e-3) and "note" not in said
        assert all(kept.any() for kept in ticket.mask.values() if kept.numel() > 6)
    else:
        assert "need more MACs than this" in said and ticket.sparsity > 0.99


@pytest.mark.parametrize("criterion", ["lamp", "grasp", "random"])
def test_an_exchange_takes_only_as_many_weights_as_planned(criterion):
    task = ToyTask(None, images=16)
    state = new_state(task, toy_config(Path("unused")), torch.device("cpu"))
    batches = list(task.build_loaders(8)[0])
    cfg = PruneConfig(
        target=0.7, every=1, start=0.0, end=0.9, regrow="gradient", regrow_fraction=0.2, reactivate="never", criterion=criterion
    )
    plan = plan_prunes(10, cfg)
    evidence = Evidence(lambda net: (task.loss(net, batch) for batch in batches), input_shape=task.input_shape)
    for state.epoch in plan:
        before = dict(state.mask)
        alive = {name: weight != 0 for name, weight in prunable(state.net).items()}
        events = prune_weights(state, cfg, plan=plan, evidence=evidence)
        if before:
            gone = sum(int((alive[name] & ~kept).sum()) for name, kept in state.mask.items())
            count = sum(kept.numel() for kept in state.mask.values())
            exchanged = regrow_share(state.epoch, min(plan), max(plan), 0.2) * (1 - plan[state.epoch]) * count
            assert events["revived"] <= exchanged + 1
            assert gone <= exchanged + (plan[state.epoch] - plan[state.epoch - 1]) * count + 2
        with torch.no_grad():
            for name, weight in prunable(state.net).items():
                weight.copy_(torch.where(state.mask[name] & (weight == 0), 1e-3, weight))  # weights that came back have trained


def test_nan_is_named():
    with pytest.raises(UserError, match="scores of a contain nan"):
        choose_mask({"a": torch.tensor([1.0, torch.nan])}, 0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
def test_zeros_stay_zero_for_fifty_updates(optimizer):
    """In weights, EMA and optimizer state, whatever decay and momentum do."""
    net = micro_net()
    opt = build_optimizer(net, TrainConfig(optimizer=optimizer, lr=1e-3, weight_decay=0.1, momentum=0.9))
    ema = start_ema(net)
    torch.manual_seed(0)

    def update(masked: bool) -> None:
        net(torch.randn(2, 3, 16, 16)).square().mean().backward()
        if masked:
            mask_gradients(mask, net)
        opt.step()
        opt.zero_grad()
        update_ema(ema, net, 0.9)

    update(masked=False)
    mask = prune(net, 0.8, criterion="lamp")
    hold(mask, net, ema=ema, optimizer=opt)
    for _ in range(50):
        update(masked=True)
    assert zero_sparsity(net) == pytest.approx(0.8, abs=1 / sum(k.numel() for k in mask.values()))
    for name, weight in prunable(net).items():
        tensors = [weight, ema[name], *(v for v in opt.state[weight].values() if v.shape == weight.shape)]
        assert all(not t[~mask[name]].any() for t in tensors)
        assert weight[mask[name]].ne(0).all()


def test_masks_that_grow_never_give_back():
    net = micro_net()
    first = prune(net, 0.3)
    hold(first, net)
    with torch.no_grad():  # more weights at zero than the mask took: they must not change places with masked ones
        net.head.block.expand.weight[:20] = 0
    second = prune(net, 0.6, keep_pruned=first)
    assert count_revived(first, second) == 0 and sparsity(second) == pytest.approx(0.6, abs=1e-4)


def test_dormant_values_come_back():
    net = micro_net()
    before = {name: weight.detach().clone() for name, weight in prunable(net).items()}
    dormant, ema = {}, start_ema(net)
    mask = prune(net, 0.5)
    hold(mask, net, ema=ema, dormant_weights=dormant)
    assert zero_sparsity(net) == pytest.approx(0.5, abs=1e-4)
    hold(prune(net, 0.7, keep_pruned=mask), net, ema=ema, dormant_weights=dormant)
    revive(prune(net, 0.7, keep_pruned=mask), net, dormant, ema)
    assert all(torch.equal(weight, before[name]) for name, weight in prunable(net).items())
    assert torch.equal(ema["head.block.expand.weight"], before["head.block.expand.weight"])


def test_density_by_kind_sums_up():
    kinds = density_by_kind({"s.depthwise.3.weight": torch.tensor([True, False]), "stem.0.weight": torch.tensor([True])})
    assert kinds == {"depthwise": 0.5, "stem": 1.0}


def test_progressive_schedule_is_the_papers():
    cfg = PruneConfig(schedule="progressive", target=0.9, every=25)
    plan = plan_prunes(350, cfg)
    assert plan == {25 * i: pytest.approx(min(0.1 * i, 0.9)) for i in range(1, 14)}  # at the target it goes on
    assert [sparsity_at(e, 350, cfg) for e in (24, 25, 75, 349)] == [0, 0.1, 0.3, 0.9]


def test_cubic_and_one_shot_end_at_the_target():
    cubic = plan_prunes(30, PruneConfig(target=0.8, every=1, start=0.1, end=0.6))
    assert max(cubic) == 18 and cubic[18] == 0.8 and min(cubic) == 4
    assert cubic[4] == pytest.approx(0.8 * (1 - (14 / 15) ** 3))
    assert list(cubic.values()) == sorted(cubic.values())
    assert plan_prunes(30, PruneConfig(target=0.8, schedule="one_shot", end=0.5)) == {15: 0.8}


@pytest.mark.parametrize("every", [1, 4, 25])
def test_a_constant_sparsity_begins_at_the_start(every):
    cfg = PruneConfig(target=0.8, schedule="constant", start=0.1, end=0.6, every=every)
    assert plan_prunes(30, cfg) == plan_prunes(30, cfg.model_copy(update={"end": 0.0})) == {3: 0.8}
    exchanging = cfg.model_copy(update={"regrow": "gradient"})
    assert list(plan_prunes(30, exchanging)) == sorted({3, *range(18, 3, -every)})


@pytest.mark.parametrize("epochs", [2, 3, 4, 7])
@pytest.mark.parametrize(("start", "end"), [(0.45, 0.75), (0.4, 0.7), (0.2, 0.5)])
def test_short_runs_have_time_for_prunes_and_an_epoch_after_them(epochs, start, end):
    prunes = plan_prunes(epochs, PruneConfig(target=0.8, every=1, start=start, end=end))
    assert max(prunes) < epochs and prunes[max(prunes)] == 0.8


def test_target_out_of_reach_is_refused():
    with pytest.raises(UserError, match=r"prune\.target: 0\.9 is not reached"):
        plan_prunes(30, PruneConfig(schedule="progressive", target=0.9, every=25))


def test_search_ends_at_the_last_prune():
    assert plan_shrinks(30, SearchConfig(warmup=3, end=1.0), {10: 0.4, 18: 0.8}) == list(range(3, 19))
    assert plan_shrinks(30, SearchConfig(warmup=3, every=4), {10: 0.4, 18: 0.8}) == [4, 8, 12, 16]
    assert plan_shrinks(30, SearchConfig(warmup=3, every=4, target_macs=0.5), {18: 0.8}) == [6, 10, 14, 18]
    assert plan_shrinks(30, SearchConfig(warmup=3, end=0.2), {18: 0.8}) == [3, 4, 5, 6]
    assert plan_shrinks(30, SearchConfig(warmup=3, start=0.3, end=0.5), {18: 0.8}) == list(range(9, 16))
    assert plan_shrinks(30, SearchConfig(enabled=False), {}) == []
    with pytest.raises(UserError, match=r"prune\.end: the last prune comes before the first epoch"):
        plan_shrinks(30, SearchConfig(), {0: 0.8})
    assert plan_shrinks(30, SearchConfig(enabled=False), {0: 0.8}) == []
    assert max(plan_shrinks(10, SearchConfig(warmup=1), {})) == 9


@pytest.mark.parametrize(("scope", "floor"), [("layer", 0.0), ("erk", 0.0), ("global", 0.5)])
def test_weights_that_must_stay_pruned_are_kept_only_if_others_are_lacking(scope, floor):
    """Six of the ten weights of the first layer must stay pruned, so that the second one has to keep more than its share."""
    first = torch.arange(10.0)
    scores = {"a": first.masked_fill(first < 6, -math.inf).view(10, 1), "b": torch.arange(10.0).view(10, 1)}
    mask = choose_mask(scores, 0.5, scope=scope, min_layer_density=floor)
    assert sum(int(kept.sum()) for kept in mask.values()) == 10 and not mask["a"][:6].any()
    more = choose_mask(scores, 0.25, scope=scope)  # one more than the fourteen others
    assert sum(int(kept.sum()) for kept in more.values()) == 15 and more["a"][6:].all() and more["b"].all()


def test_layers_that_have_enough_weights_share_what_others_lack():
    sizes = {"poor": 1000, "rich": 1000, "small": 50}
    scores = {name: torch.arange(float(size)).view(size, 1) for name, size in sizes.items()}
    scores["poor"][:900] = -math.inf
    density = {name: float(kept.float().mean()) for name, kept in choose_mask(scores, 0.5, scope="layer").items()}
    assert (
        density["poor"] == pytest.approx(0.1)
        and density["rich"] == pytest.approx(density["small"], abs=0.02)
        and density["rich"] > 0.85
    )
