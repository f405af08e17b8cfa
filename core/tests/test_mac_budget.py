"""Laws of a budget of sparse MACs: exactly met by the fewest weights, through shrinks and a resume, or refused."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from supertickets.config.sections import PruneConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.forecast import forecast_run
from supertickets.networks.macs import count_layers, dense_macs
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import CRITERIA, Evidence
from supertickets.pruning.mac_budget import positions_of, share_to_prune, sparse_share
from supertickets.pruning.mask import apply_mask
from supertickets.pruning.prune import choose_by_macs, prune
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.training.schedule import plan_prunes

SHAPE = (3, 16, 16)
BUDGET = {"target": None, "target_sparse_macs": 0.3}


def test_the_lowest_scores_go_until_the_budget_is_met():
    scores = {"fine": torch.tensor([1.0, 4.0, 4.0]), "coarse": torch.tensor([2.0, 3.0, 5.0])}
    positions = {"fine": 4, "coarse": 1}  # 15 MACs
    kept = [torch.cat(list(choose_by_macs(scores, asked / 15, positions).values())).int().tolist() for asked in range(11)]
    assert kept[0] == [1] * 6 and kept[1:5] == [[0, 1, 1, 1, 1, 1]] * 4
    assert kept[5:7] == [[0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1]] and kept[7:] == [[0, 0, 1, 0, 0, 1]] * 4
    floored = choose_by_macs(scores, 5 / 15, positions, min_layer_density=0.5)  # two weights of each stay
    assert {name: kept.int().tolist() for name, kept in floored.items()} == {"fine": [0, 1, 1], "coarse": [0, 1, 1]}
    with pytest.raises(
        UserError, match=r"the layers that are not pruned need more MACs than this and prune\.min_layer_density 0\.5"
    ):
        choose_by_macs(scores, 0.5, positions, min_layer_density=0.5)


@pytest.mark.parametrize("criterion", ["lamp", "lamp_per_mac", "synflow"])
def test_the_whole_network_meets_the_budget_and_one_weight_more_would_not(criterion):
    net, budget = micro_net(), 0.3
    layers, weights = count_layers(net, SHAPE), prunable(net)
    positions, share = positions_of(weights, layers), share_to_prune(budget, net, layers, weights)
    evidence, rounds = Evidence(input_shape=SHAPE), 5 if criterion == "synflow" else None
    mask = prune(net, share, criterion=criterion, evidence=evidence, rounds=rounds, positions=positions)
    assert not all(kept.all() for kept in mask.values()) and set(positions) < {f"{name}.weight" for name in layers}
    apply_mask(mask, weights)
    left = sparse_share(net, layers) * dense_macs(layers)
    assert left <= budget * dense_macs(layers) < left + max(positions.values())
    if rounds is None:  # the pruned weight of the highest score is the one that the budget asked for last
        scores = {n: s.masked_fill(mask[n], -1) for n, s in CRITERIA[criterion](micro_net(), evidence).items()}
        last = max(scores, key=lambda name: float(scores[name].max()))
        assert left + positions[last] > budget * dense_macs(layers)


@pytest.mark.usefixtures("toy_installed")
def test_a_run_ends_at_the_budget_of_the_searched_network_and_a_resumed_one_too(tmp_path, capsys):
    sections = {"prune": BUDGET, "train": {"epochs": 4}}

    class StopsAtThree(ToyTask):
        def evaluate(self, model, loader, accelerator):
            if (tmp_path / "cut" / "checkpoints" / "epoch_0002.safetensors").exists():
                raise KeyboardInterrupt
            return super().evaluate(model, loader, accelerator)

    whole = draw_ticket(ToyTask(None, images=16), toy_config(tmp_path / "whole", **sections))
    said = capsys.readouterr().out
    assert "to 0.3 of the MACs, shrinks after" in said and "0.300 of the MACs" in said
    macs, sparse = whole.metrics["macs"], whole.metrics["sparse_macs"]
    assert 0.3 * macs - 64 < sparse <= 0.3 * macs < 0.2 * whole.provenance["supernet"]["macs"]
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    plan = plan_prunes(4, PruneConfig(**BUDGET, every=1, end=0.7))
    pruned = [record for record in records if "target_sparse_macs" in record]
    assert [record["target_sparse_macs"] for record in pruned] == [pytest.approx(1 - share) for share in plan.values()]
    assert pruned[-1]["target_sparsity"] == pytest.approx(whole.sparsity) and max(plan.values()) == 0.7
    with pytest.raises(KeyboardInterrupt):
        draw_ticket(StopsAtThree(None, images=16), toy_config(tmp_path / "cut", **sections))
    resumed = draw_ticket(ToyTask(None, images=16), toy_config(tmp_path / "cut", **sections, run={"resume": True}))
    assert all(torch.equal(resumed.mask[name], kept) for name, kept in whole.mask.items())
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_the_budget_stands_alone_and_a_dry_run_names_it(tmp_path):
    with pytest.raises(ValidationError, match=r"target_sparse_macs 0\.3 replaces target: set target to null"):
        PruneConfig(target_sparse_macs=0.3)
    for other in ({"scope": "layer"}, {"regrow": "random"}, {"pattern": "2:4"}):
        with pytest.raises(ValidationError, match="target_sparse_macs needs pattern none, scope global and regrow none"):
            PruneConfig(**BUDGET, **other)
    for budget in (0, 1, 1.5, -1, float("nan")):
        with pytest.raises(ValidationError):
            PruneConfig(target=None, target_sparse_macs=budget)
    with pytest.raises(UserError, match=r"prune\.target_sparse_macs: 0\.3 is not reached .*: 0\.8 after epoch 2\)"):
        plan_prunes(3, PruneConfig(**BUDGET, schedule="progressive", every=1))
    config = toy_config(tmp_path / "run", prune=BUDGET, train={"epochs": 4})
    assert "3 (0.30 of the MACs)" in str(forecast_run(ToyTask(config), config).table().columns[1]._cells)
    for changes, said in (
        ({"target_sparse_macs": 0.001}, r"prune\.target_sparse_macs: 0\.001 .*; it must be above 0\.0\d+ in this network"),
        ({"min_layer_density": 0.3}, r"not pruned and prune\.min_layer_density 0\.3; it must be above 0\.3\d+"),
    ):
        config = toy_config(tmp_path / "run", prune=BUDGET | changes)
        with pytest.raises(UserError, match=said):
            draw_ticket(ToyTask(config), config)
    config = toy_config(tmp_path / "run", prune=BUDGET, run={"tickets_at": [0.5]})
    with pytest.raises(UserError, match=r"run\.tickets_at needs prune\.target"):
        draw_ticket(ToyTask(config), config)
    assert not (tmp_path / "run").exists()
