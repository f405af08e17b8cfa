"""Laws of checkpoints: a run that stops anywhere continues as if it had not; a damaged file costs one checkpoint at most."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, IterableDataset

from supertickets.config.interval import read_interval
from supertickets.draw import draw_ticket
from supertickets.errors import Stopped, UserError
from supertickets.forecast import forecast_run
from supertickets.testing import ToyTask, toy_config
from supertickets.ticket.ticket import Ticket
from supertickets.training.feed import Feed
from supertickets.training.randomness import random_state, set_random_state
from supertickets.training.run import start_accelerator
from supertickets.training.state_file import Damaged, read_state

pytestmark = pytest.mark.usefixtures("toy_installed")


class Jittered(Dataset):
    """Items that draw from all three generators, each time they are read."""

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        image, label = self.items[index]
        return image + 0.1 * torch.randn(1) + 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.standard_normal()), label


class Restless(ToyTask):
    """A toy task with random changes of the images, and dropout; `at` names the call of a method that asks it to stop."""

    def __init__(self, config, workers: int = 0, **at: int) -> None:
        super().__init__(config, images=32)  # four batches
        self.workers, self.at, self.calls = workers, at, {"loss": 0, "evaluate": 0}

    def build_loaders(self, batch_size: int):
        train, val = super().build_loaders(batch_size)
        data, context = Jittered(train.dataset), "fork" if self.workers else None
        return DataLoader(
            data, batch_size, shuffle=True, drop_last=True, num_workers=self.workers, multiprocessing_context=context
        ), val

    def asked(self, name: str, sent: signal.Signals) -> None:
        self.calls[name] += 1
        if self.calls[name] == self.at.get(name):
            os.kill(os.getpid(), sent)

    def loss(self, model, batch):
        if torch.is_grad_enabled():
            self.asked("loss", signal.SIGTERM)
        return super().loss(model, [torch.nn.functional.dropout(batch[0], 0.1), batch[1]])

    def evaluate(self, model, loader, accelerator):
        self.asked("evaluate", signal.SIGUSR1)
        return super().evaluate(model, loader, accelerator)


SHORT = {"epochs": 2, "recalibrate_batches": 1}


def draw(folder: Path, task=Restless, workers: int = 0, at: dict[str, int] | None = None, **sections) -> Ticket:
    sections["train"] = SHORT | sections.get("train", {})
    config = toy_config(folder, **sections)
    return draw_ticket(task(config, workers, **(at or {})), config)


def records(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]


def same(one: Ticket, other: Ticket) -> bool:
    return one.arch == other.arch and all(torch.equal(other.tensors[name], tensor) for name, tensor in one.tensors.items())


@pytest.mark.parametrize(
    ("workers", "at", "sections"),
    [
        (0, {"loss": 6}, {"search": {"importance": "taylor"}, "prune": {"enabled": False}}),
        (2, {"loss": 6}, {"train": {"accumulate": 2}, "distill": {"teacher": "ema"}, "prune": {"target": 0.5}}),
        (
            0,
            {"evaluate": 2},
            {"search": {"enabled": False}, "prune": {"schedule": "one_shot", "end": 1.0, "criterion": "random"}},
        ),
    ],
)
def test_a_run_asked_to_stop_continues_bit_for_bit(tmp_path: Path, workers: int, at, sections):
    whole = draw(tmp_path / "whole", workers=workers, **sections)
    folder, before = tmp_path / "cut", signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=rf"after step \d+, saved in .*epoch_\d+_step_.*--run.dir {folder} --run.resume") as stop:
        draw(folder, workers=workers, at=at, **sections)
    assert stop.value.status == 128 + (signal.SIGTERM if "loss" in at else signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) is before and not (folder / "run.lock").exists()
    again = draw(folder, workers=workers, run={"resume": "auto"}, **sections)
    assert records(folder) == records(tmp_path / "whole") and same(again, whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, capsys):
    sections = {"run": {"save_every": "2 steps"}, "search": {"enabled": False}, "prune": {"enabled": False}}
    whole = draw(tmp_path / "whole", **sections)
    with pytest.raises(Stopped):
        draw(tmp_path / "cut", at={"loss": 7}, **sections)
    files = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [path.name for path in files] == [f"epoch_0001_step_{step:09d}.safetensors" for step in (6, 7)]
    data = bytearray(files[1].read_bytes())
    data[-100] ^= 1
    files[1].write_bytes(data)
    again = draw(tmp_path / "cut", **sections | {"run": {"save_every": "2 steps", "resume": True}})
    assert f"note {files[1]}: not a checkpoint, or damaged (its checksum differs): continuing" in capsys.readouterr().out
    assert same(again, whole) and records(tmp_path / "cut") == records(tmp_path / "whole")
    for path in (tmp_path / "cut" / "checkpoints").glob("epoch_*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"run\.resume: there is no undamaged checkpoint: .*epoch_0002.*damaged"):
        draw(tmp_path / "cut", **sections | {"run": {"resume": "auto"}})


def test_auto_starts_what_has_not_begun_and_leaves_a_finished_run_alone(tmp_path: Path):
    sections = {"search": {"enabled": False}, "prune": {"enabled": False}, "train": {"epochs": 1}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1}\n')  # ended before its first checkpoint
    first = draw(tmp_path / "run", run={"resume": "auto"}, **sections)
    assert len(records(tmp_path / "run")) == 1 and same(draw(tmp_path / "run", run={"resume": "auto"}, **sections), first)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="already holds a run"):
        draw(tmp_path / "run", run={"resume": "auto"}, **sections)


class Stream(IterableDataset):
    def __len__(self) -> int:
        return 24

    def __iter__(self):
        return (torch.full((2,), float(i)) + torch.rand(2) for i in range(24))


def items() -> Dataset:
    class Numbers(Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> torch.Tensor:
            return index + torch.rand(2) + random.random() + float(np.random.rand())

    return Numbers()


@pytest.mark.parametrize(("data", "workers"), [(items(), 0), (items(), 3), (Stream(), 0)])
def test_batches_continue_after_any_of_them(tmp_path: Path, data, workers: int):
    accelerator: Accelerator = start_accelerator(toy_config(tmp_path), tmp_path)

    def feed() -> Feed:
        shuffle = {} if isinstance(data, Stream) else {"shuffle": True}
        context = "fork" if workers else None
        return Feed(DataLoader(data, 4, num_workers=workers, multiprocessing_context=context, **shuffle), accelerator)

    def train(feed: Feed, places: list, seen: list, **start) -> None:
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        for batch in feed.epoch(2, **start):
            seen.append((batch, torch.rand(1)))  # the model draws, too
            places.append(feed.place())

    places, seen = [], []
    train(feed(), places, seen)
    assert len(seen) == 6
    for done in (1, 2, 5) if workers else range(1, 6):
        rest = []
        train(feed(), [], rest, done=done, own=places[done - 1])
        assert len(rest) == 6 - done
        assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(rest, seen[done:], strict=True))


def test_random_state_returns_all_generators(tmp_path: Path):
    random.gauss(0, 1), np.random.standard_normal()  # each keeps a second number for later
    state = random_state()
    first = (torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), random.random())
    set_random_state(state)
    assert first == (torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), random.random())


def test_a_file_that_is_no_checkpoint_is_damaged(tmp_path: Path):
    for content in (b"", b"junk", b"\x00" * 100):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(Damaged, match=f"{tmp_path / 'x'}: not a checkpoint, or damaged"):
            read_state(tmp_path / "x")


def test_intervals_are_steps_or_minutes():
    assert (read_interval("200 steps"), read_interval("1 minute")) == ((200, "steps"), (1, "minutes"))
    for text in ("200", "0 steps", "1.5 minutes", "5 hours", " 5 steps"):
        with pytest.raises(ValueError, match="write a whole number and steps or minutes"):
            read_interval(text)


def test_the_plan_of_a_run_that_was_saved_within_an_epoch(tmp_path: Path):
    with pytest.raises(Stopped):
        draw(tmp_path, at={"loss": 7}, run={"save_every": "2 steps"})
    config = toy_config(tmp_path, train=SHORT, run={"save_every": "2 steps", "resume": True})
    assert forecast_run(Restless(config), config).steps_per_epoch == 4
