"""What goes wrong during a run stops it with one line, or is left out and counted."""

from __future__ import annotations

import errno
import json
import os
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from supertickets.draw import draw_ticket
from supertickets.errors import SharedError, UserError
from supertickets.testing import ToyTask, toy_config
from supertickets.training import state_file
from supertickets.training.faults import faults_named
from supertickets.training.feed import Feed
from supertickets.training.run import open_run, start_accelerator
from supertickets.training.trainer import Trainer

PLAIN = {"search": {"enabled": False}, "prune": {"enabled": False}}


class Bad(ToyTask):
    """A toy task whose images, loss or gradient go bad at one step."""

    step, how = 3, "loss"

    def loss(self, model, batch):
        if self.how == "images" and getattr(self, "seen", 0) == self.step - 1 and torch.is_grad_enabled():
            batch = (batch[0] * torch.nan, *batch[1:])
        loss = super().loss(model, batch)
        self.seen = getattr(self, "seen", 0) + torch.is_grad_enabled()
        if self.seen != self.step or not torch.is_grad_enabled():
            return loss
        if self.how in ("loss", "images"):
            return loss * torch.tensor(float("inf"))
        return loss + torch.sqrt(next(model.parameters()).flatten()[:1].sum() * 0)  # a finite loss, an infinite gradient


def trainer_for(folder: Path, **train) -> Trainer:
    config = toy_config(folder, train={"epochs": 2, **train}, **PLAIN)
    run, task = open_run("toy", config), Bad(config)
    return Trainer(task, config, run.state(task), run.accelerator, search_end=0)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_within_the_step(tmp_path: Path, how: str):
    trainer = trainer_for(tmp_path / "run")
    trainer.task.how = how
    said = r"not finite at step 3 \(epoch 1, learning rate 0\.\d+\): training has diverged; last good checkpoint: none; lower "
    with pytest.raises(SharedError, match=said):
        trainer.train_epoch()
    state = trainer.state
    assert state.step == 2 and all(bool(tensor.isfinite().all()) for tensor in (*state.net.parameters(), *state.ema.values()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_updates_that_are_not_finite_are_skipped_and_counted(tmp_path: Path, monkeypatch, accumulate: int):
    trainer = trainer_for(tmp_path / "run", on_nan="skip", accumulate=accumulate)
    before = [tensor.clone() for tensor in trainer.state.optimizer.param_groups[0]["params"]]
    record = trainer.train_epoch()
    assert record["skipped"] == 1 and 0 < record["loss"] < 5 and trainer.state.step == 6 // accumulate
    assert not torch.equal(before[0], trainer.state.optimizer.param_groups[0]["params"][0])
    assert "skipped" not in trainer.train_epoch()
    trainer.task.__class__ = type(
        "AllBad", (Bad,), {"loss": lambda self, model, batch: super(Bad, self).loss(model, batch) / 0}
    )
    with pytest.raises(UserError, match="no update of epoch 3 had a finite loss and gradient"):
        trainer.train_epoch()


def test_a_skipped_update_leaves_the_statistics_of_norms_as_they_were(tmp_path: Path):
    trainer = trainer_for(tmp_path / "run", on_nan="skip")
    trainer.task.how = "images"
    assert trainer.train_epoch()["skipped"] == 1
    tensors = [*trainer.state.net.state_dict().values(), *trainer.state.ema.values()]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def test_an_update_that_the_scaler_of_fp16_skips_does_not_move_the_average(tmp_path: Path, monkeypatch):
    trainer = trainer_for(tmp_path / "run")
    trainer.task.step = -1
    monkeypatch.setattr(type(trainer.optimizer), "step_was_skipped", property(lambda self: True))
    before = {name: tensor.clone() for name, tensor in trainer.state.ema.items()}
    trainer.train_epoch()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.state.ema.items())


def test_a_run_can_be_resumed_before_its_first_successful_update(tmp_path: Path):
    trainer = trainer_for(tmp_path / "run", on_nan="skip")
    trainer.task.step = 1
    state, feed = trainer.state, trainer.feed.epoch
    trainer.feed.epoch = lambda *given, **named: islice(feed(*given, **named), 1)
    with pytest.raises(UserError, match="no update of epoch 1 had a finite loss"):
        trainer.train_epoch()
    assert (state.step, state.underway.skipped_updates, dict(state.optimizer.state)) == (1, 1, {})
    state_file.save_state(state, tmp_path / "epoch.safetensors")
    again = state_file.load_state(tmp_path / "epoch.safetensors", trainer.task, trainer.config, torch.device("cpu"))
    assert again.step == 1 and not again.optimizer.state


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path: Path, monkeypatch):
    folder = tmp_path / "run"
    config = toy_config(folder, train={"epochs": 2}, **PLAIN)
    write = state_file.save_file

    def full(tensors, path, **named) -> None:
        if "epoch_0002" in str(path):
            Path(path).write_bytes(b"some")
            raise state_file.SafetensorError("I/O error: No space left on device (os error 28)")
        write(tensors, path, **named)

    with monkeypatch.context() as patched:
        patched.setattr(state_file, "save_file", full)
        with pytest.raises(UserError, match=r"checkpoints/epoch_0002\.safetensors: No space left on device"):
            draw_ticket(ToyTask(config), config)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch_0001.safetensors"]
    again = config.model_copy(update={"run": config.run.model_copy(update={"resume": True})})
    draw_ticket(ToyTask(again), again)
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]


class Deadly(Dataset):
    """Items whose loader process meets its end at the fourth one."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 3 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 3 and self.how == "terminated":  # as batch systems do to all processes of a job
            os.kill(os.getpid(), signal.SIGTERM)
        if index == 3 and self.how == "vanished":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/3.png")
        return torch.zeros(2)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", "a process that loads data was ended from outside, often for lack of memory: lower data.workers .* newest"),
        ("vanished", r"No such file or directory: '/data/3\.png'; newest checkpoint: here"),
        ("terminated", None),
    ],
)
def test_a_loader_process_that_ends_is_named(tmp_path: Path, how: str, said: str | None):
    loader = DataLoader(Deadly(how), 2, num_workers=1, multiprocessing_context="fork")
    feed = Feed(loader, start_accelerator(toy_config(tmp_path), tmp_path))
    if said is None:
        assert len(list(feed.epoch(0))) == 4
        return
    with pytest.raises(UserError, match=said), faults_named(lambda: "here"):
        list(feed.epoch(0))


def test_faults_from_outside_are_named_and_others_are_not():
    for error, said in (
        (RuntimeError("[..] Connection closed by peer [127.0.0.1]:5"), "another process of this run has ended"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "not enough memory for a step: lower train.batch_size"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: Read-only file system; newest checkpoint: here"),
    ):
        with pytest.raises(UserError, match=said), faults_named(lambda: "here"):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), faults_named(lambda: "here"):
        raise RuntimeError("shapes do not fit")
