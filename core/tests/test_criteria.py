"""Every criterion against scores worked out by hand, exactly k by each, and what keeps layers alive."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.macs import count_layers
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import CRITERIA, Evidence, gradients, grasp, lamp_per_mac, random, snip, synflow
from supertickets.pruning.mask import sparsity
from supertickets.pruning.prune import emptied, prune
from supertickets.pruning.regrow import regrow, regrow_share
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.testing.processes import run_on_two_processes


def weighing() -> nn.Module:
    """y = w . x with w = (1, -2)."""
    net = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1))
    return net


def half_square(*inputs: tuple[float, float]) -> Evidence:
    """Loss y^2 / 2 of each input: g = y x, H = x x'."""
    return Evidence(lambda net: [net(torch.tensor(x).view(1, 2, 1, 1)).square().sum() / 2 for x in inputs])


def chain(*channels: int) -> nn.Module:
    torch.manual_seed(0)
    convs = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(channels, channels[1:], strict=False)]
    return nn.Sequential(*(part for conv in convs for part in (conv, nn.ReLU())))


def noisy(net: nn.Module) -> Evidence:
    """Three batches of noise through the net."""
    x = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Evidence(lambda net: [net(part).square().mean() for part in x], input_shape=(3, 16, 16))


def test_snip_by_hand():
    # y = 3 - 2 = 1, g = (3, 1); with the second input y = -2, g = (0, -2): mean (1.5, -0.5).
    assert snip(weighing(), half_square((3.0, 1.0)))["0.weight"].flatten().tolist() == [3, 2]
    assert snip(weighing(), half_square((3.0, 1.0), (0.0, 1.0)))["0.weight"].flatten().tolist() == [1.5, 1]


def test_grasp_by_hand():
    # g = (3, 1), H g = x (x . g) = (30, 10): w Hg = (30, -20); removing the second weight lets more gradient flow.
    assert grasp(weighing(), half_square((3.0, 1.0)))["0.weight"].flatten().tolist() == [30, -20]


def test_synflow_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
        net[3].weight.copy_(torch.tensor([-3.0, 4.0]).view(1, 2, 1, 1))
        net[1].bias.fill_(7)  # shifts must not count
    scores = synflow(net, Evidence(input_shape=(1, 1, 1)))
    assert scores["0.weight"].flatten().tolist() == scores["3.weight"].flatten().tolist() == [3, 8]


def test_lamp_per_mac_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, stride=2, bias=False))
    with torch.no_grad():
        for conv in net:
            conv.weight.copy_(torch.tensor([1.0, -2.0]).view(conv.weight.shape))
    scores = lamp_per_mac(net, Evidence(input_shape=(1, 6, 6)))  # LAMP: 1 / 5 and 1; used at 36 and at 9 positions
    assert scores["0.weight"].flatten().tolist() == pytest.approx([0.2 / 6, 1 / 6])
    assert scores["1.weight"].flatten().tolist() == pytest.approx([0.2 / 3, 1 / 3])


def test_lamp_per_mac_leaves_fewer_sparse_macs_at_the_same_sparsity():
    net, evidence = micro_net(), Evidence(input_shape=(3, 32, 32))
    layers, macs = count_layers(net, evidence.input_shape), {}
    for criterion in ("lamp", "lamp_per_mac"):
        mask = prune(net, 0.8, criterion=criterion, evidence=evidence)
        macs[criterion] = sum(int(kept.sum()) * layers[name.removesuffix(".weight")].positions for name, kept in mask.items())
        assert not emptied(mask)
    assert macs["lamp_per_mac"] < 0.9 * macs["lamp"]


def test_random_is_the_seeds():
    weights = prunable(micro_net())
    one, again, other = (random(weights, seed)["stem.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("rounds", [1, 3])
def test_exactly_k_by_every_criterion_and_nothing_is_touched(criterion, rounds):
    net = micro_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mask = prune(net, 0.837, criterion=criterion, evidence=noisy(net), rounds=rounds)
    total = sum(kept.numel() for kept in mask.values())
    assert sum(int((~kept).sum()) for kept in mask.values()) == round(0.837 * total)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training and all(param.grad is None for param in net.parameters())


def test_rounds_only_take_more():
    net = micro_net()
    first = prune(net, 0.5, criterion="snip", evidence=noisy(net))
    second = prune(net, 0.9, criterion="snip", evidence=noisy(net), rounds=4, keep_pruned=first)
    assert all(not (second[name] & ~kept).any() for name, kept in first.items())


def test_synflow_keeps_every_layer_where_snip_at_once_loses_one():
    net = chain(3, 32, 2, 32, 32, 3)
    assert emptied(prune(net, 0.98, criterion="snip", evidence=noisy(net)))
    assert not emptied(prune(net, 0.98, criterion="synflow", evidence=noisy(net)))
    assert not emptied(prune(net, 0.98, criterion="snip", evidence=noisy(net), min_layer_density=0.01))


def test_gradients_are_those_of_zeroed_weights_too():
    net = weighing()
    with torch.no_grad():
        net[0].weight[0, 1] = 0
    assert gradients(net, half_square((3.0, 1.0)))["0.weight"].flatten().tolist() == [9, 3]


def test_what_a_prefix_names_is_ranked_by_itself():
    mask = prune(micro_net(), 0.5, prefix="head.")
    assert all(name.startswith("head.") for name in mask) and sparsity(mask) == pytest.approx(0.5, abs=1e-3)


def test_regrowth_gives_back_exactly_the_most_promising():
    mask = {"a": torch.tensor([True, False, False]), "b": torch.tensor([False, False])}
    growth = {"a": torch.tensor([9.0, 1.0, 3.0]), "b": torch.tensor([2.0, 3.0])}
    grown = regrow(mask, growth, 2)  # 9 is there already; of the two 3s both come
    assert grown["a"].tolist() == [True, False, True] and grown["b"].tolist() == [False, True]


def test_regrowth_fades_to_nothing():
    shares = [regrow_share(epoch, 8, 12, 0.3) for epoch in (8, 10, 12)]
    assert shares == pytest.approx([0.3, 0.15, 0])
    assert regrow_share(8, 8, 8, 0.3) == 0  # the only prune is the last one


_WORKER = """
import json, sys
from pathlib import Path
from supertickets.pruning.criteria import CRITERIA, Evidence
from supertickets.testing import ToyTask, mask_digest, toy_config
from supertickets.training.pruning import choose_mask
from supertickets.training.run import open_run
from supertickets.training.trainer import Trainer
config = toy_config(Path(sys.argv[1]), train={"batch_size": 4})
task = ToyTask(config)
run = open_run("toy", config)
state = run.state(task)
trainer = Trainer(task, config, state, run.accelerator, search_end=0)
evidence = Evidence(trainer.losses, mean=trainer.mean, input_shape=task.input_shape)
found = {}
for criterion in CRITERIA:
    cfg = config.prune.model_copy(update={"criterion": criterion, "rounds": 2})
    mask = choose_mask(state, 0.9, cfg=cfg, evidence=evidence)
    found[criterion] = [mask_digest(mask), sum(int((~kept).sum()) for kept in mask.values())]
rank = run.accelerator.process_index
Path(sys.argv[1]).mkdir(exist_ok=True)
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps([run.accelerator.num_processes, found]))
"""


@pytest.mark.slow
def test_two_processes_choose_one_mask_by_every_criterion(tmp_path):
    run_on_two_processes(_WORKER, tmp_path, str(tmp_path / "run"))
    ranks = [json.loads((tmp_path / "run" / f"rank{r}.json").read_text()) for r in range(2)]
    assert ranks[0] == ranks[1] and ranks[0][0] == 2
    assert len({digest for digest, _ in ranks[0][1].values()}) == len(CRITERIA)
    assert len({count for _, count in ranks[0][1].values()}) == 1


def test_a_criterion_from_outside_prunes_a_run(monkeypatch, tmp_path, toy_installed):
    """One name in `CRITERIA` is all that a new criterion needs: the run's mask is the one that it ranks."""
    monkeypatch.setitem(
        CRITERIA, "last", lambda net, _: {n: torch.arange(w.numel()).view(w.shape).double() for n, w in prunable(net).items()}
    )
    prunes = {"criterion": "last", "scope": "layer", "target": 0.5, "schedule": "one_shot", "end": 0.5}
    ticket = draw_ticket(
        ToyTask(None), toy_config(tmp_path / "run", search={"enabled": False}, train={"epochs": 2}, prune=prunes)
    )
    mask = prune(ticket.build(), 0.5, criterion="last", scope="layer")
    assert ticket.mask and all(torch.equal(ticket.mask[name], kept) for name, kept in mask.items())


def test_an_unknown_criterion_names_the_nearest_before_anything_is_written(tmp_path):
    config = toy_config(tmp_path / "run", prune={"criterion": "lampp"})
    with pytest.raises(UserError, match="prune.criterion: 'lampp' is not known: did you mean lamp\\? valid: magnitude, lamp"):
        draw_ticket(ToyTask(config), config)
    assert not (tmp_path / "run").exists()
