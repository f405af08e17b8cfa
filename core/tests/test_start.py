"""Runs that start from a ticket: retraining, rewinding, controls, transfer, and lottery tickets by rounds."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import supertickets.task as tasks
import supertickets.ticket.ticket as ticket_module
from supertickets.baselines import draw_by_rounds, search_then_prune
from supertickets.config.reader import load_config
from supertickets.config.variants import InitConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.arch import Arch
from supertickets.networks.heads import DenseHead
from supertickets.networks.supernet import prunable
from supertickets.testing import ToyTask, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.training.run import open_run
from supertickets.training.start import check_arch_keys, start_from_ticket
from supertickets.training.trainer import Trainer

SHORT = {"epochs": 2}
FEW = 16  # images, for epochs of two steps


class WideToy(ToyTask):
    """The toy task with a head for five classes: another task to transfer to."""

    name = "wide"

    def __init__(self, config, images: int = FEW) -> None:
        super().__init__(config, images)
        self.labels = [*self.labels, "black", "white"]

    def build_head(self, arch: Arch):
        return DenseHead(arch, channels=10, outputs=5)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    found = tasks.task_class
    toys = {"toy": ToyTask, "wide": WideToy}
    monkeypatch.setattr(tasks, "task_class", lambda name: toys[name] if name in toys else found(name))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A ticket at 0.8 with its weights after epoch 1 beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "task_class", lambda name: ToyTask)
        config = toy_config(tmp_path_factory.mktemp("source") / "run", run={"rewind_epoch": 1, "keep_checkpoints": 9})
        draw_ticket(ToyTask(config, FEW), config)
    return config.run.dir / "ticket"


def begin(task, config):
    return start_from_ticket(config.init, task, arch=config.arch, seed=config.run.seed)


def start(source: Path, folder: Path, task=ToyTask, **init):
    config = toy_config(folder, train=SHORT, init={"ticket": source, **init})
    return (*begin(task(config, FEW), config), config)


def test_retraining_keeps_arch_and_mask_bit_for_bit(source, tmp_path):
    before = Ticket.load(source)
    config = toy_config(tmp_path / "run", train=SHORT, init={"ticket": source})
    after = draw_ticket(ToyTask(config, FEW), config)
    assert after.arch == before.arch and after.provenance["supernet"] == before.provenance["supernet"]
    assert all(torch.equal(after.mask[name], kept) for name, kept in before.mask.items())
    changed = [name for name, tensor in before.tensors.items() if not torch.equal(after.tensors[name], tensor)]
    assert len(changed) == len(before.tensors)  # and it did train


def test_the_start_is_the_ticket_bit_for_bit(source, tmp_path):
    net, mask, _, _ = start(source, tmp_path)
    ticket, state = Ticket.load(source), net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ticket.tensors.items())
    assert all(torch.equal(mask[name], kept) for name, kept in ticket.mask.items())


def test_rewinding_restores_the_early_weights_bit_for_bit(source, tmp_path):
    """The first shrink comes after epoch 1, so its checkpoint still has the full supernet's weights: find them there."""
    net, mask, _, _ = start(source, tmp_path, weights="rewind")
    early = load_file(source.parent / "checkpoints" / "epoch_0001.safetensors")
    name = "stem.0.weight"
    assert torch.equal(net.state_dict()[name], early[f"early/{name}"] * mask[name])
    rewound, late = Ticket.load(source / "rewind"), Ticket.load(source)
    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in rewound.tensors.items())
    assert not torch.equal(rewound.tensors[name], late.tensors[name])


def test_controls_keep_densities_and_change_what_they_say(source, tmp_path):
    ticket = Ticket.load(source)
    fresh, mask, _, _ = start(source, tmp_path, weights="fresh")
    assert all(torch.equal(mask[name], kept) for name, kept in ticket.mask.items())
    name = "head.block.expand.weight"
    assert not torch.equal(fresh.state_dict()[name], ticket.tensors[name])
    _, shuffled, _, _ = start(source, tmp_path, weights="fresh", mask="shuffle")
    assert all(int(shuffled[n].sum()) == int(kept.sum()) for n, kept in ticket.mask.items())
    assert not torch.equal(shuffled[name], ticket.mask[name])
    dense, none, _, _ = start(source, tmp_path, weights="fresh", mask="none")
    assert none == {} and all(weight.ne(0).all() for weight in prunable(dense).values())


def test_search_can_go_on_from_a_ticket(source, tmp_path):
    units = sum(sum(u.values()) for u in Ticket.load(source).arch.units.values())
    config = toy_config(
        tmp_path / "run",
        train={"epochs": 4},
        init={"ticket": source},
        search={"enabled": True, "target_macs": 0.7},
        prune={"enabled": True, "target": 0.9},
    )
    after = draw_ticket(ToyTask(config, FEW), config)
    assert sum(sum(u.values()) for u in after.arch.units.values()) < units
    assert after.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_search_without_prunes_to_come_keeps_the_mask(source, tmp_path):
    """`reactivate: after_shrink` counts on a next prune; without one, what a ticket has pruned stays pruned."""
    before = Ticket.load(source)
    search = {"enabled": True, "target_macs": 0.7}
    config = toy_config(tmp_path / "run", train={"epochs": 4}, init={"ticket": source}, search=search)
    assert config.prune.reactivate == "after_shrink" and not config.resolved().prune.enabled
    after = draw_ticket(ToyTask(config, FEW), config)
    assert after.metrics["macs"] < 0.75 * before.metrics["macs"] and set(after.mask) <= set(before.mask)
    assert torch.equal(after.mask["stem.0.weight"], before.mask["stem.0.weight"]) and after.sparsity > 0.7


def test_a_search_from_a_ticket_resumes_to_the_same_end(source, tmp_path):
    """Its budget is a share of what it started with, the ticket, also after a shrink and a stop."""
    search = {"enabled": True, "target_macs": 0.6, "end": 0.8}
    sections = {"train": {"epochs": 5}, "init": {"ticket": source}, "search": search}
    folder = tmp_path / "run"
    config = toy_config(folder, **sections, run={"keep_checkpoints": 9})
    whole = draw_ticket(ToyTask(config, FEW), config)
    for epoch in (3, 4, 5):
        (folder / "checkpoints" / f"epoch_{epoch:04d}.safetensors").unlink()
    config = toy_config(folder, **sections, run={"resume": True})
    again = draw_ticket(ToyTask(config, FEW), config)
    assert again.arch == whole.arch
    assert again.metrics["macs"] == whole.metrics["macs"] == pytest.approx(0.6 * Ticket.load(source).metrics["macs"], rel=0.03)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("freeze", ["none", "body"])
def test_transferred_body_equals_the_tickets_bit_for_bit(source, tmp_path, freeze):
    ticket = Ticket.load(source)
    net, mask, _, config = start(source, tmp_path / "run", WideToy, part="body", freeze=freeze)
    body = {name: tensor for name, tensor in ticket.tensors.items() if not name.startswith("head.")}
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in body.items())
    assert all(mask[name].all() for name in mask if name.startswith("head."))
    assert not any(name.startswith("head.") and units for name, units in net._arch.units.items())  # a full head
    after = draw_ticket(WideToy(config), config)
    assert all(torch.equal(after.mask[name], kept) for name, kept in ticket.mask.items() if not name.startswith("head."))
    same = [torch.equal(after.tensors[name], tensor) for name, tensor in body.items()]
    assert all(same) if freeze == "body" else not any(same)
    assert after.tensors["head.classifier.weight"].shape[0] == 5


def test_a_transfer_searches_and_prunes_its_head_alone(source, tmp_path):
    ticket = Ticket.load(source)
    config = toy_config(
        tmp_path / "run",
        train={"epochs": 4},
        init={"ticket": source, "part": "body"},
        search={"enabled": True, "target_macs": 0.8},
        prune={"enabled": True, "target": 0.7},
    )
    after = draw_ticket(WideToy(config), config)
    body = {name: units for name, units in ticket.arch.units.items() if not name.startswith("head.")}
    assert {name: after.arch.units[name] for name in body} == body
    assert sum(after.arch.units["head.block"].values()) < 3 * 4 * 18  # three kernels, expanded 4 times from 18 channels
    head = torch.cat([kept.flatten() for name, kept in after.mask.items() if name.startswith("head.")])
    assert 1 - head.float().mean() == pytest.approx(0.7, abs=0.01)
    assert all(torch.equal(after.mask[name], kept) for name, kept in ticket.mask.items() if not name.startswith("head."))


def test_a_transfer_never_lets_the_bodys_pruned_weights_go(source, tmp_path):
    """While the new head's may come back until its next prune, the body's mask holds."""
    config = toy_config(tmp_path / "run", init={"ticket": source, "part": "body"}, search={"enabled": True, "target_macs": 0.9})
    run = open_run("wide", config)
    state = run.state(WideToy(config))
    state.mask_held = False
    assert set(state.held_mask()) == {name for name in state.mask if not name.startswith("head.")}
    Trainer(WideToy(config), config, state, run.accelerator, search_end=1).train_epoch()
    body = {name: weight for name, weight in prunable(state.net).items() if not name.startswith("head.")}
    assert not any(torch.count_nonzero(weight[~state.mask[name]]) for name, weight in body.items())


def test_bn_momentum_is_the_targets_and_eps_the_tickets(source, tmp_path):
    config = toy_config(tmp_path, init={"ticket": source, "part": "body"})
    arch = config.arch.model_copy(update={"bn_momentum": 0.3, "bn_eps": 0.5})
    net, _, _ = begin(WideToy(config), config.model_copy(update={"arch": arch}))
    assert net.arch.bn_momentum == 0.3 and net.arch.bn_eps == Ticket.load(source).arch.bn_eps


def test_wrong_starts_are_refused_before_anything_is_written(source, tmp_path):
    def attempt(match: str, task=ToyTask, **init) -> None:
        config = toy_config(tmp_path / "run", train=SHORT, init=init)
        with pytest.raises(UserError, match=match):
            draw_ticket(task(config, FEW), config)
        assert not (tmp_path / "run").exists()

    attempt("a toy ticket, not a wide one; use python -m supertickets_transfer", WideToy, ticket=source)
    attempt("ticket.json: no such file", ticket=tmp_path / "nothing")
    attempt("holds no early weights; draw it with --run.rewind_epoch", ticket=source / "rewind", weights="rewind")
    with pytest.raises(ValueError, match=r"part body needs init\.ticket"):
        toy_config(tmp_path, init={"part": "body"})
    with pytest.raises(ValueError, match=r"they need init\.ticket"):
        toy_config(tmp_path, init={"mask": "shuffle"})


def test_keys_of_arch_that_a_ticket_makes_useless_are_refused():
    retrained, moved = InitConfig(ticket="T"), InitConfig(ticket="T", part="body")
    check_arch_keys(InitConfig(), ["--arch.preset", "nano"])
    check_arch_keys(retrained, ["--train.lr", "0.1", "--run.dir", "arch.runs"])
    check_arch_keys(moved, ["--arch.stem_stride=1", "--arch.init", "original"])
    for init, word in ((retrained, "--arch.preset"), (retrained, "--arch.stem_stride"), (moved, "--arch.preset")):
        with pytest.raises(UserError, match=f"^{word.removeprefix('--')}: has no effect"):
            check_arch_keys(init, [f"{word}=1"])


def test_a_ticket_of_other_labels_is_refused(source, tmp_path):
    class Renamed(ToyTask):
        def __init__(self, config, images: int = FEW) -> None:
            super().__init__(config, images)
            self.labels = ["red", "blue", "green"]

    config = toy_config(tmp_path / "run", train=SHORT, init={"ticket": source})
    with pytest.raises(UserError, match=r"knows other labels: 'green' where the data have 'blue' and 1 more"):
        draw_ticket(Renamed(config), config)
    assert Ticket.load(source).other_labels(["red", "green", "blue"]) == ""


def test_weights_exchanged_by_gradient_leave_sparsity_exact(tmp_path):
    for regrow in ("gradient", "random"):
        prune = {"schedule": "constant", "start": 0.1, "end": 0.8, "target": 0.6, "regrow": regrow}
        config = toy_config(tmp_path / regrow, search={"enabled": False}, prune=prune)
        ticket = draw_ticket(ToyTask(config, FEW), config)
        assert ticket.sparsity == pytest.approx(0.6, abs=1e-3)
        lines = (tmp_path / regrow / "metrics.jsonl").read_text().splitlines()
        assert sum(json.loads(line).get("revived", 0) > 0 for line in lines) >= 2  # weights that had gone came back


def test_lottery_tickets_by_rounds(tmp_path):
    config = toy_config(tmp_path / "run", train=SHORT, prune={"target": 0.75}, imp={"rounds": 2, "rewind_epoch": 1})
    ticket = draw_by_rounds(ToyTask(config, FEW), config)
    rounds = [Ticket.load(tmp_path / "run" / f"round_{i}" / "ticket") for i in range(3)]
    assert [round(t.sparsity, 2) for t in rounds] == [0.5, 0.75, 0.75] and ticket.sparsity == rounds[-1].sparsity
    assert rounds[0].arch == rounds[2].arch
    early = [Ticket.load(tmp_path / "run" / f"round_{i}" / "ticket" / "rewind").tensors["stem.0.weight"] for i in range(3)]
    kept = rounds[1].mask["stem.0.weight"]
    assert torch.equal(early[0] * kept, early[1] * kept) and torch.equal(early[1], early[2])
    before = (tmp_path / "run" / "round_0" / "metrics.jsonl").stat().st_mtime_ns
    draw_by_rounds(ToyTask(config, FEW), config)  # finished rounds are not run again
    assert (tmp_path / "run" / "round_0" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(("schedule", "retrain"), [("one_shot", 0.5), ("cubic", 0.5), ("one_shot", 0.0)])
def test_search_then_prune_takes_the_epochs_of_one_drawing(tmp_path, schedule, retrain):
    prune = {"schedule": schedule, "target": 0.7, "criterion": "snip"}
    config = toy_config(tmp_path / "run", prune=prune, pipeline={"enabled": True, "retrain": retrain})
    ticket = search_then_prune(ToyTask(config, FEW), config)
    logs = [path.read_text().splitlines() for path in sorted((tmp_path / "run").glob("*/metrics.jsonl"))]
    assert sum(map(len, logs)) == 6
    assert ticket.sparsity == pytest.approx(0.7, abs=1e-3)
    assert ticket.metrics["macs"] == pytest.approx(
        0.6 * Ticket.load(tmp_path / "run/search/ticket").provenance["supernet"]["macs"], rel=0.02
    )
    assert json.loads(logs[0][-1])["sparsity"] == pytest.approx(0.7, abs=1e-3)  # a prune at the very end is in the log, too
    if retrain:
        assert Ticket.load(tmp_path / "run" / "search" / "ticket").sparsity == 0


def test_pipelines_can_share_one_search(tmp_path):
    searched, arches = tmp_path / "searched", []
    for criterion in ("magnitude", "random"):
        prune = {"schedule": "one_shot", "target": 0.7, "criterion": criterion}
        config = toy_config(tmp_path / criterion, prune=prune, pipeline={"enabled": True, "retrain": 0.5})
        arches.append(search_then_prune(ToyTask(config, FEW), config, searched=searched).arch)
        assert not (tmp_path / criterion / "search").exists()
    assert arches == [Ticket.load(searched / "ticket").arch] * 2
    other = toy_config(tmp_path / "magnitude", prune=prune | {"target": 0.6}, pipeline={"enabled": True, "retrain": 0.5})
    with pytest.raises(UserError, match=r"had other settings: prune\.target \(0\.7 -> 0\.6\)"):
        search_then_prune(ToyTask(other), other, searched=searched)


@pytest.mark.parametrize(
    ("prune", "retrain", "said"),
    [
        ({"criterion": "lampp"}, 0.5, r"^prune\.criterion: "),
        (
            {"schedule": "progressive", "every": 30},
            0.5,
            r"^pipeline\.retrain: .* by 3 of the 6 epochs, and there prune\.target: ",
        ),
        ({}, 0.9, r"^pipeline\.retrain: 0\.9 of train\.epochs 6 leaves 1 for the search, which needs at least 2$"),
    ],
)
def test_a_pipeline_that_cannot_work_stops_before_its_search(tmp_path, prune, retrain, said):
    config = toy_config(tmp_path / "run", prune=prune, pipeline={"enabled": True, "retrain": retrain})
    with pytest.raises(UserError, match=said):
        search_then_prune(ToyTask(config, FEW), config)
    assert not (tmp_path / "run").exists()


def test_rounds_have_a_key_of_their_own_for_the_epoch_to_rewind_to(tmp_path):
    config = toy_config(tmp_path / "run", train=SHORT, imp={"rounds": 1}, run={"rewind_epoch": 1})
    with pytest.raises(UserError, match=r"run\.rewind_epoch: with imp\.rounds, set imp\.rewind_epoch instead"):
        draw_by_rounds(ToyTask(config, FEW), config)


def test_the_drawings_of_a_pipeline_and_of_rounds_start_from_all_of_the_ticket_before_them(source, tmp_path):
    """`init.weights` and `init.mask` concern the start of the first drawing, not that of the later ones."""
    prune = {"enabled": True, "schedule": "one_shot", "target": 0.7}
    config = toy_config(
        tmp_path / "run",
        train={"epochs": 4},
        init={"ticket": source, "weights": "fresh", "mask": "none"},
        prune=prune,
        pipeline={"enabled": True, "retrain": 0.5},
    )
    search_then_prune(ToyTask(config, FEW), config)
    later = load_config(type(config), tmp_path / "run" / "retrain" / "config.yaml")
    assert (later.init.weights, later.init.mask) == ("keep", "keep")
    for baseline in ({"pipeline": {"enabled": True}}, {"imp": {"rounds": 2}}):
        with pytest.raises(ValueError, match="they need init.part all"):
            toy_config(tmp_path, init={"ticket": source, "part": "body"}, **baseline)


def test_a_round_whose_early_weights_could_not_be_written_is_not_finished(tmp_path, monkeypatch):
    config = toy_config(tmp_path / "run", train=SHORT, prune={"target": 0.75}, imp={"rounds": 1, "rewind_epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(ticket_module, "put_in_place", failing_for("rewind", ticket_module.put_in_place))
        with pytest.raises(UserError, match=r"round_0/ticket/rewind: No space left on device"):
            draw_by_rounds(ToyTask(config, FEW), config)
    assert not (tmp_path / "run" / "round_0" / "ticket" / "ticket.json").exists()
    assert draw_by_rounds(ToyTask(config, FEW), config).sparsity == pytest.approx(0.75, abs=1e-2)


def failing_for(name: str, put_in_place):
    def fail(partial: Path, path: Path) -> None:
        if path.parent.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put_in_place(partial, path)

    return fail


def test_the_epoch_to_rewind_to_is_within_the_rounds(tmp_path):
    config = toy_config(tmp_path / "run", train=SHORT, imp={"rounds": 1, "rewind_epoch": 99})
    with pytest.raises(UserError, match=r"imp\.rewind_epoch: 99 comes after the last epoch, \d"):
        draw_by_rounds(ToyTask(config, FEW), config)
