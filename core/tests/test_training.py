"""Laws of training: what a drawing logs and leaves behind, resume, EMA, BN, optimizers, schedules, several processes."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from supertickets.config.sections import Config, TrainConfig
from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.networks.supernet import prunable
from supertickets.pruning.criteria import Evidence
from supertickets.pruning.mask import zero_sparsity
from supertickets.testing import ToyTask, mask_digest, micro_net, randomise_norms, toy_config
from supertickets.testing.processes import quick_context, run_on_two_processes
from supertickets.ticket.ticket import Ticket
from supertickets.training.batchnorm import recalibrate
from supertickets.training.cpu import set_threads
from supertickets.training.ema import decay_at, start_ema, update_ema
from supertickets.training.optim import RMSpropInside, beta1_at, build_optimizer, load_named_state, lr_at, named_state, peak_lr
from supertickets.training.pruning import prune_copy, prune_weights
from supertickets.training.run import open_run, start_accelerator
from supertickets.training.state import new_state
from supertickets.training.state_file import load_state, save_state
from supertickets.training.trainer import Trainer
from supertickets.training.wrapping import wrap

pytestmark = pytest.mark.usefixtures("toy_installed")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """The folder of a finished run with the settings of `toy_config`."""
    torch.set_num_threads(1)
    config = toy_config(tmp_path_factory.mktemp("drawn") / "run")
    draw_ticket(ToyTask(config), config)
    return config.run.dir


def draw(folder: Path, images: int = 16, **sections) -> tuple[Ticket, list[dict]]:
    """Draw a ticket in epochs of two steps: when something happens and what comes of it does not depend on how many."""
    config = toy_config(folder, **sections)
    ticket = draw_ticket(ToyTask(config, images), config)
    return ticket, records_of(folder)


def records_of(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_seconds(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_a_drawing_meets_its_targets_and_leaves_a_working_ticket(tmp_path, drawn):
    ticket, last = Ticket.load(drawn / "ticket"), records_of(drawn)[-1]
    full = ticket.provenance["supernet"]["macs"]
    assert last["macs"] == pytest.approx(0.6 * full, rel=0.02)
    assert last["sparsity"] == pytest.approx(0.8, abs=1e-3) == ticket.sparsity
    assert last["accuracy"] > 0.45  # three classes: better than chance
    net = ticket.build()
    assert zero_sparsity(net) == pytest.approx(ticket.sparsity)
    scores = ToyTask(toy_config(tmp_path)).evaluate(net, ToyTask(toy_config(tmp_path)).build_loaders(8)[1], Accelerator())
    assert scores["accuracy"] == pytest.approx(last["accuracy"], abs=1e-6)
    assert {"loss", "penalty", "params", "sparse_macs", "units", "density"} <= set(last)
    assert (drawn / "pictures" / "curves.png").stat().st_size > 1000


def test_last_prune_and_architecture_are_final(drawn):
    ticket, records = Ticket.load(drawn / "ticket"), records_of(drawn)
    after = [r for r in records if r["epoch"] > 4]
    assert len({(r["macs"], r["units"], r["sparsity"]) for r in after}) == 1
    assert not any(r.get("units_removed") or "target_sparsity" in r for r in after[1:])
    assert not torch.count_nonzero(torch.cat([ticket.tensors[n][~kept] for n, kept in ticket.mask.items()]))


@pytest.mark.parametrize("revive_from", ["zero", "dormant"])
def test_pruned_weights_come_back_after_a_shrink(tmp_path, revive_from):
    prune = {"every": 2, "start": 0.0, "target": 0.3, "reactivate": "after_shrink", "revive_from": revive_from}
    _, records = draw(tmp_path / "run", prune=prune, train={"lr": 5e-2})
    assert sum(r.get("revived", 0) for r in records) > 0
    assert records[-1]["sparsity"] == pytest.approx(0.3, abs=1e-3)


def test_without_reactivation_masks_only_grow(tmp_path):
    _, records = draw(tmp_path / "run", prune={"every": 2, "start": 0.0, "reactivate": "never"})
    pruned = [r for r in records if "target_sparsity" in r]
    assert len(pruned) == 2 and sum(r["revived"] for r in pruned) == 0
    assert pruned[0]["sparsity"] == pytest.approx(pruned[0]["target_sparsity"], abs=1e-3)


def test_after_prune_trains_dense_but_scores_sparse(tmp_path):
    config = toy_config(tmp_path / "run", prune={"every": 2, "start": 0.0, "reactivate": "after_prune"})
    prunes = {2: 0.5, 4: 0.8}
    run, task = open_run("toy", config), ToyTask(config)
    state = run.state(task)
    trainer = Trainer(task, config, state, run.accelerator, search_end=0)
    state.epoch = 2
    prune_weights(state, config.prune, plan=prunes, evidence=Evidence())
    trainer.train_epoch()
    assert zero_sparsity(state.net) < 0.01
    net = trainer.averaged_net()
    prune_copy(net, state, config.prune, plan=prunes, evidence=Evidence())
    trainer.evaluate(net)
    assert zero_sparsity(net) == pytest.approx(0.5, abs=1e-3)


def test_search_and_prune_off_is_plain_training(tmp_path):
    ticket, records = draw(tmp_path / "run", search={"enabled": False}, prune={"enabled": False}, train={"epochs": 2})
    assert ticket.sparsity == 0 and not ticket.mask
    assert {r["macs"] for r in records} == {ticket.provenance["supernet"]["macs"]} and records[-1]["penalty"] == 0


def test_threshold_search_removes_dead_units_once_enough_would_go(tmp_path):
    search = {"target_macs": None, "rho": 0.5, "warmup": 0, "min_macs": 1.0, "threshold": 0.9}
    _, records = draw(tmp_path / "run", 48, search=search, train={"epochs": 6, "lr": 2e-2})
    assert sum(r.get("units_removed", 0) for r in records) > 0
    patient = search | {"min_macs": 1e12}
    _, records = draw(tmp_path / "patient", 48, search=patient, train={"epochs": 6, "lr": 2e-2})
    assert [r["epoch"] for r in records if r.get("units_removed")] == [4]  # the last event asks for no least number


def test_a_killed_run_resumes_to_the_same_end(tmp_path):
    """Killed without warning in the middle, then continued: metrics and ticket equal those of the run left alone."""
    whole, records = draw(tmp_path / "whole", prune={"every": 2, "start": 0.0})
    folder = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; import supertickets.task as t\n"
        "from supertickets.testing import ToyTask, toy_config; from supertickets.draw import draw_ticket; import torch, os\n"
        "torch.set_num_threads(1); t.task_class = lambda name: ToyTask\n"
        "class Dying(ToyTask):\n"
        "    seen = 0\n"
        "    def loss(self, model, batch):\n"
        "        Dying.seen += 1\n"
        "        if Dying.seen == 10: os.kill(os.getpid(), 9)\n"
        "        return super().loss(model, batch)\n"
        f"c = toy_config(Path({str(folder)!r}), prune={{'every': 2, 'start': 0.0}}); draw_ticket(Dying(c, 16), c)\n"
    )
    process = quick_context().Process(target=exec, args=(code, {}))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = len((folder / "metrics.jsonl").read_text().splitlines())
    assert 2 <= finished < 6 and not (folder / "ticket").exists()
    with (folder / "metrics.jsonl").open("a") as file:  # a record whose checkpoint was never written
        file.write(json.dumps({"epoch": finished + 1}) + "\n" + '{"epo')
    again, resumed = draw(folder, prune={"every": 2, "start": 0.0}, run={"resume": True})
    assert without_seconds(resumed) == without_seconds(records)
    assert mask_digest(again.mask) == mask_digest(whole.mask)
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_resuming_with_other_settings_or_from_nothing_is_refused(drawn, tmp_path):
    config = toy_config(drawn, run={"resume": True}, train={"lr": 1e-2})
    with pytest.raises(UserError, match=r"train\.lr \(0\.02 -> 0\.01\)"):
        draw_ticket(ToyTask(config), config)
    config = toy_config(drawn, run={"resume": True, "seed": 3})
    with pytest.raises(UserError, match=r"run\.seed \(0 -> 3\)"):
        draw_ticket(ToyTask(config), config)
    with pytest.raises(UserError, match="comes after the last epoch, 6"):
        draw(tmp_path / "late", run={"rewind_epoch": 7})
    with pytest.raises(UserError, match="already holds a run"):
        draw(drawn)
    with pytest.raises(UserError, match="no checkpoint"):
        draw(tmp_path / "nothing", run={"resume": True})
    assert not (tmp_path / "nothing").exists() and not (tmp_path / "late").exists()


def test_state_file_round_trip_is_exact(tmp_path):
    config, device = toy_config(tmp_path), torch.device("cpu")
    task = ToyTask(config)
    state = new_state(task, config, device)
    task.loss(state.net, next(iter(task.build_loaders(8)[0]))).backward()
    state.optimizer.step()
    state.mask, state.epoch, state.step = {"stem.0.weight": torch.rand(4, 3, 3, 3) < 0.5}, 3, 7
    state.supernet_costs = {"macs": 5}
    save_state(state, tmp_path / "epoch_0003.safetensors")
    again = load_state(tmp_path / "epoch_0003.safetensors", task, config, device)
    assert (again.epoch, again.step, again.supernet_costs, again.penalty.z) == (3, 7, {"macs": 5}, state.penalty.z)
    pairs = [(state.ema, again.ema), (state.mask, again.mask), (state.penalty.weights, again.penalty.weights)]
    pairs.append((state.net.state_dict(), again.net.state_dict()))
    assert all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)
    for (name, old), (_, new) in zip(state.net.named_parameters(), again.net.named_parameters(), strict=True):
        assert state.optimizer.state[old].keys() == again.optimizer.state[new].keys(), name
        assert all(torch.equal(v, again.optimizer.state[new][k]) for k, v in state.optimizer.state[old].items())
    (tmp_path / "broken.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="broken.safetensors: not a checkpoint"):
        load_state(tmp_path / "broken.safetensors", task, config, device)


def test_recalibration_finds_the_true_statistics_of_a_copy(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(2, momentum=0.01))
    batches = [torch.randn(8, 2, 4, 4) * 3 + 5 for _ in range(4)]
    recalibrate(net, batches, net)
    torch.testing.assert_close(net[0].running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(net[0].running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert net[0].momentum == 0.01 and not net.training


def test_evaluation_does_not_touch_the_live_network(tmp_path):
    config = toy_config(tmp_path / "run")
    run, task = open_run("toy", config), ToyTask(config)
    state = run.state(task)
    trainer = Trainer(task, config, state, run.accelerator, search_end=0)
    before = {n: t.clone() for n, t in state.net.state_dict().items()}
    trainer.evaluate(trainer.averaged_net())
    assert all(torch.equal(before[n], t) for n, t in state.net.state_dict().items())


def test_ema_follows_its_formula():
    net = micro_net()
    ema, start = start_ema(net), net.stem[0].weight.detach().clone()
    with torch.no_grad():
        net.stem[0].weight.add_(1)
    update_ema(ema, net, 0.75)
    torch.testing.assert_close(ema["stem.0.weight"], start + 0.25)
    assert decay_at(0, decay=0.9999, batch_size=4096) == 0.1
    assert decay_at(10**6, decay=0.9999, batch_size=4096) == pytest.approx(0.9999)
    assert decay_at(10**9, decay=0.9999, batch_size=512) == pytest.approx(0.9999 ** (1 / 8))


def test_rmsprop_has_eps_inside_the_root():
    weight, other = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([2.0]))
    opt = RMSpropInside([weight], lr=0.1, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=0.5)
    square = buffer = torch.zeros(1)
    for gradient in (1.0, -0.5, 0.2):
        weight.grad = torch.tensor([gradient])
        opt.step()
        with torch.no_grad():
            g = gradient + 0.5 * other
            square = 0.9 * square + 0.1 * g * g
            buffer = 0.9 * buffer + 0.1 * g / (square + 1e-3).sqrt()
            other -= buffer
    torch.testing.assert_close(weight, other)


def test_weight_decay_spares_norms_and_biases():
    net = micro_net(tokens=2)
    opt = build_optimizer(net, TrainConfig(weight_decay=0.1))
    names = {id(p): n for n, p in net.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in opt.param_groups)
    assert "head.classifier.weight" in decayed and "head.classifier.bias" in free
    assert set(prunable(net)) <= decayed and not any("bn" in name or "norm" in name for name in decayed)
    assert decayed | free == set(names.values())


def test_adamw_reloaded_in_another_layout_goes_on_as_the_plain_kernel():
    """The fused CPU kernel ignores strides, so state of another layout than its parameter's would go to the wrong weights."""
    torch.manual_seed(0)
    nets = [nn.Conv2d(3, 5, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets = [net.to(memory_format=torch.channels_last) for net in nets]
    opts = [build_optimizer(net, TrainConfig(lr=1e-2, weight_decay=0.1)) for net in nets]
    for group in opts[1].param_groups:
        group["fused"] = False
    for _ in range(4):
        gradients = [torch.randn(5, 3, 3, 3), torch.randn(5)]
        for net, opt in zip(nets, opts, strict=True):
            for param, gradient in zip(net.parameters(), gradients, strict=True):
                param.grad = torch.empty_like(param).copy_(gradient)
            opt.step()
        load_named_state(nets[0], opts[0], {k: v.contiguous().clone() for k, v in named_state(nets[0], opts[0]).items()})
    assert opts[0].param_groups[0]["fused"]
    for ours, plain in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_adamw_forgets_squares_at_beta2(beta2):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    opt = build_optimizer(layer, TrainConfig(lr=0.1, beta2=beta2, weight_decay=0))
    for gradient in (1.0, 0.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        opt.step()
    second = (0.09 / 0.19) / math.sqrt(beta2 / (1 + beta2))  # mean of gradients over the root of that of squares, unbiased
    assert layer.weight.item() == pytest.approx(-0.1 * (1 + second), rel=1e-5)


def test_onecycle_equals_pytorchs():
    train = TrainConfig(epochs=4, lr=0.04, schedule="onecycle", pct_start=0.3, div=25, final_div=1e4)
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        opt, max_lr=0.04, total_steps=40, pct_start=0.3, div_factor=25, final_div_factor=1e4, cycle_momentum=False
    )
    for step in range(40):
        assert lr_at(step, train=train, steps_per_epoch=10, peak=0.04) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-6)
        opt.step()
        if step < 39:
            reference.step()


def test_beta1_cycles_as_pytorch_does():
    train = TrainConfig(epochs=4, lr=0.04, cycle_beta1=True)
    opt = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.04)
    reference = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.04, total_steps=40, pct_start=0.3)
    for step in range(40):
        assert beta1_at(step, train=train, steps_per_epoch=10) == pytest.approx(opt.param_groups[0]["betas"][0], abs=1e-6)
        opt.step()
        if step < 39:
            reference.step()
    assert beta1_at(3, train=TrainConfig(), steps_per_epoch=10) == 0.9


def test_coupled_decay_takes_down_a_weight_that_nothing_uses():
    """In the loss, decay goes through Adam's normalisation and moves an unused weight by the full rate each step."""
    left = {}
    for coupled in (False, True):
        net = torch.nn.Conv2d(1, 1, 1, bias=False)
        torch.nn.init.ones_(net.weight)
        optimizer = build_optimizer(net, TrainConfig(lr=0.01, weight_decay=1e-5, coupled_decay=coupled))
        for _ in range(20):
            net.weight.grad = torch.zeros_like(net.weight)
            optimizer.step()
        left[coupled] = net.weight.item()
    assert left[False] == pytest.approx(1, abs=1e-5) and left[True] == pytest.approx(0.8, abs=1e-2)


def test_paper_schedules():
    imagenet = TrainConfig(
        epochs=350, lr=0.016, lr_per_batch=256, schedule="exponential", warmup=5, decay=0.97, decay_epochs=2.4
    )
    peak = peak_lr(imagenet, 512)
    assert peak == pytest.approx(0.032)
    at = {e: lr_at(e * 100, train=imagenet, steps_per_epoch=100, peak=peak) for e in (0, 5, 8, 29)}
    assert at[0] == pytest.approx(0.016, rel=0.01) and at[5] == pytest.approx(peak * 0.97**2)
    assert at[8] == pytest.approx(peak * 0.97**3) and at[29] == pytest.approx(peak * 0.97**12)
    coco = TrainConfig(epochs=210, lr=1e-3, schedule="step", milestones=[170, 200])
    assert [lr_at(e, train=coco, steps_per_epoch=1, peak=1e-3) for e in (169, 170, 200)] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_wrapping_again_after_a_shrink_patches_once(tmp_path):
    config = toy_config(tmp_path, train={"precision": "bf16"})
    accelerator = start_accelerator(config, tmp_path)
    net = micro_net()
    model = net
    for _ in range(3):
        model = wrap(accelerator, model)
    assert accelerator.unwrap_model(model) is net and len(accelerator._models) == 1
    assert not hasattr(accelerator.unwrap_model(model, keep_fp32_wrapper=False).forward, "__wrapped__")
    assert net(torch.randn(1, 3, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize("accumulate", [1, 2])
def test_bf16_and_accumulation_run(tmp_path, accumulate):
    _, records = draw(tmp_path / "run", train={"precision": "bf16", "accumulate": accumulate, "epochs": 4, "clip_grad": 5})
    assert records[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_an_update_of_fewer_batches_has_the_mean_of_their_gradients(tmp_path):
    train = {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0.0, "epochs": 2, "lr": 0.1, "clip_grad": 0}
    off = {"search": {"enabled": False}, "prune": {"enabled": False}}
    whole, fewer = (draw(tmp_path / str(n), train=train | {"accumulate": n}, **off)[0] for n in (6, 12))  # of six batches
    for name, weight in dict(whole.build().named_parameters()).items():
        assert torch.allclose(weight, fewer.tensors[name], rtol=1e-4, atol=1e-6), name


def test_diverging_training_says_so(tmp_path):
    with pytest.raises(UserError, match=r"diverged.*train\.lr"):
        draw(
            tmp_path / "run",
            train={"lr": 1e30, "schedule": "constant"},
            search={"enabled": False},
            prune={"enabled": False},
        )


_WORKER = """
import torch, sys, json
from pathlib import Path
import supertickets.task as tasks
from supertickets.testing import ToyTask, mask_digest, toy_config
from supertickets.draw import draw_ticket
torch.set_num_threads(1)
tasks.task_class = lambda name: ToyTask
train = {"batch_size": 4, "epochs": 5, "precision": sys.argv[2]}
config = toy_config(Path(sys.argv[1]), train=train, prune={"every": 2, "start": 0.0})
ticket = draw_ticket(ToyTask(config, 16), config)
from accelerate import PartialState
rank, count = PartialState().process_index, PartialState().num_processes
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps([count, mask_digest(ticket.mask)]))
"""


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_two_processes_draw_one_ticket(tmp_path, precision):
    """Shrinks, prunes and re-wraps under DDP: both processes end with the same mask."""
    run_on_two_processes(_WORKER, tmp_path, str(tmp_path / "run"), precision)
    ranks = [json.loads((tmp_path / "run" / f"rank{r}.json").read_text()) for r in range(2)]
    assert ranks[0] == ranks[1] and ranks[0][0] == 2
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(records) == 5 and json.loads(records[-1])["sparsity"] == pytest.approx(0.8, abs=1e-3)


_BASELINE = """
import json, sys
from pathlib import Path
import torch
import supertickets.task as tasks
from accelerate import PartialState
from supertickets.baselines import search_then_prune
from supertickets.testing import ToyTask, mask_digest, toy_config
torch.set_num_threads(1)
tasks.task_class = lambda name: ToyTask
folder, train = Path(sys.argv[1]), {"batch_size": 4, "epochs": 6}
config = toy_config(folder, train=train, run={"tensorboard": True}, pipeline={"enabled": True})
ticket = search_then_prune(ToyTask(config, 16), config)
found = [PartialState().num_processes, ticket.metrics["macs"], ticket.sparsity, mask_digest(ticket.mask)]
Path(folder, f"rank{PartialState().process_index}.json").write_text(json.dumps(found))
"""


def test_two_processes_draw_a_baseline_one_drawing_after_another(tmp_path):
    """A drawing's trackers end with it, the process group does not; both processes end with the mask that is written."""
    folder = tmp_path / "run"
    run_on_two_processes(_BASELINE, tmp_path, str(folder))
    ranks = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(2)]
    written = Ticket.load(folder / "retrain" / "ticket")
    assert ranks[0] == ranks[1] == [2, written.metrics["macs"], written.sparsity, mask_digest(written.mask)]
    assert written.arch == Ticket.load(folder / "search" / "ticket").arch
    assert written.sparsity == pytest.approx(0.8, abs=1e-3)
    for name in ("search", "retrain"):
        assert len((folder / name / "metrics.jsonl").read_text().splitlines()) == 3 and list(folder.glob(f"{name}/**/events.*"))


def test_live_network_is_not_the_averaged_one(tmp_path):
    net = micro_net()
    randomise_norms(net)
    ema = start_ema(net)
    update_ema(ema, micro_net(seed=3), 0.5)
    assert not torch.equal(ema["head.block.expand.weight"], net.head.block.expand.weight)


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, "all"),
        (None, {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "2"}, None),
        (None, {"OMP_NUM_THREADS": "1"}, None),  # the user's own wish
        (3, {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 3),
    ],
)
def test_a_lone_process_of_accelerate_launch_uses_all_cores(monkeypatch, asked, environment, expected):
    for name in ("OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(5), raising=False)
    set_threads(asked)
    assert calls == ([] if expected is None else [5 if expected == "all" else expected])


@pytest.mark.parametrize(("busy", "expected"), [([2, 3, 100, 97, 100], 2), ([100, 97, 100, 100, 2], 1)])
def test_idle_cores_are_counted_among_those_of_the_process(monkeypatch, busy, expected):
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval, percpu: busy)
    set_threads("idle")
    assert calls == [expected]


class Stop(Exception):
    pass


class StopsAfter(ToyTask):
    """A toy task whose run ends in the epoch that follows the checkpoint of epoch `last`."""

    def __init__(self, last: int, config: Config, images: int) -> None:
        super().__init__(config, images)
        self.last = last

    def evaluate(self, model, loader, accelerator):
        if list(self.config.run.dir.glob(f"checkpoints/epoch_{self.last:04}*")):
            raise Stop
        return super().evaluate(model, loader, accelerator)


@pytest.mark.parametrize("search", [{"importance": "taylor_per_mac"}, {"penalty": "proximal", "rho": 0.1}])
def test_a_resumed_run_keeps_statistics_and_proximal_penalty_bit_for_bit(tmp_path, search):
    whole = draw_ticket(ToyTask(None, 16), toy_config(tmp_path / "whole", search=search))
    config = toy_config(tmp_path / "cut", search=search)

    with pytest.raises(Stop):
        draw_ticket(StopsAfter(3, config, 16), config)
    resumed = draw_ticket(ToyTask(None, 16), toy_config(tmp_path / "cut", search=search, run={"resume": True}))
    assert resumed.arch == whole.arch and all(torch.equal(resumed.tensors[n], t) for n, t in whole.tensors.items())


def test_a_run_without_state_of_its_optimizer_can_be_resumed(tmp_path):
    train = {"optimizer": "sgd", "momentum": 0.0, "epochs": 2}
    whole = draw_ticket(ToyTask(None, 16), toy_config(tmp_path / "run", train=train))
    again = draw_ticket(ToyTask(None, 16), toy_config(tmp_path / "run", train=train, run={"resume": True}))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_a_schedule_ends_as_planned_if_a_resumed_run_makes_updates_of_other_batches(tmp_path):
    """With 20 images, a batch of 8 makes two updates in an epoch; two batches of 4 for each update make three."""

    train = {"epochs": 4, "schedule": "cosine"}
    with pytest.raises(Stop):
        draw_ticket(StopsAfter(2, config := toy_config(tmp_path / "run", train=train), 20), config)
    other = toy_config(tmp_path / "run", train=train | {"batch_size": 4, "accumulate": 2}, run={"resume": True})
    draw_ticket(ToyTask(None, 20), other)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.03 * rates[0]


def test_before_the_first_epoch_the_body_is_recalibrated_unless_it_rests(tmp_path):
    for freeze, changes in ((0, True), (1, False)):
        config = toy_config(tmp_path / str(freeze), train={"freeze_body": freeze}, search={"enabled": False})
        run, task = open_run("toy", config), ToyTask(config, 16)
        trainer = Trainer(task, config, run.state(task), run.accelerator, search_end=0)
        net = trainer.averaged_net()
        norm = next(m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and not n.startswith("head."))
        before = norm.running_mean.clone()
        trainer._recalibrate(net)
        assert torch.equal(before, norm.running_mean) != changes
