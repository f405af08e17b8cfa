"""The command line: one clear line and exit code 2 for what is wrong, nothing half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from supertickets import cli, scores
from supertickets.arguments import friendly
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.testing import ToyTask, micro_net
from supertickets.ticket.ticket import Ticket

pytestmark = pytest.mark.usefixtures("toy_installed")


@pytest.fixture
def toy_folder(tmp_path):
    return Ticket.from_net(micro_net(), ToyTask(Config()), metrics={"accuracy": 0.5}).save(tmp_path / "ticket")


def fails(capsys, command, *args) -> str:
    with pytest.raises(SystemExit) as stopped:
        command(*args)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and error.startswith("error: ") and "\n" not in error
    return error


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--train.epohcs", "3"], ["train.epohcs", "train.epochs"]),
        (["--train.epochs", "three"], ["train.epochs", "three"]),
        (["--search.enabled", "maybe"], ["search.enabled", "maybe"]),
        (["no.yaml"], ["no.yaml"]),
        (["--epochs", "3"], ["--epochs", "dotted"]),
        (["--prune.criterion", "lampp"], ["lampp", "lamp", "magnitude"]),
        (["--run.resume"], ["run.dir"]),
        (["--search.target_macs", "0.5", "--search.target_params", "0.5"], ["not both"]),
        (["--train.epochs", "2", "--prune.schedule", "progressive"], ["prune.target", "train longer"]),
        (["--train.batch_size", "999"], ["train.batch_size", "999"]),
        (["--search.target_macs", "0.0001"], ["search.target_macs", "every unit removed"]),
    ],
)
def test_wrong_arguments_of_train(capsys, monkeypatch, tmp_path, argv, words):
    monkeypatch.chdir(tmp_path)
    small = ["--arch.preset", "tiny"] if argv[0] != "no.yaml" else []
    error = fails(capsys, cli.train, "toy", argv + small)
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def test_ticket_of_another_task(capsys, toy_folder):
    error = fails(capsys, cli.evaluate, "segmentation", [str(toy_folder)])
    assert "a toy ticket, not a segmentation one" in error


def test_info_as_json_at_a_size(capsys, toy_folder):
    cli.main(["info", str(toy_folder), "--json", "--size", "32", "48"])
    facts = json.loads(capsys.readouterr().out)
    keys = {"task", "params", "macs", "sparse_macs", "prunable", "sparsity", "units", "size", "metrics"}
    assert keys <= set(facts) and facts["size"] == [32, 48] and facts["task"] == "toy"
    cli.main(["info", str(toy_folder)])
    assert len(capsys.readouterr().out.splitlines()) < 30
    cli.main(["info", str(toy_folder), "--layers"])
    assert "head.block.expand" in capsys.readouterr().out
    assert "--size" in fails(capsys, cli.main, ["info", str(toy_folder), "--size", "0", "4"])
    assert "nowhere" in fails(capsys, cli.main, ["info", "nowhere"])


def test_evaluate_writes_its_figures(capsys, toy_folder, tmp_path):
    cli.evaluate("toy", [str(toy_folder), "--train.batch_size", "4", "--out", str(tmp_path / "deep" / "m.json")])
    assert 0 <= json.loads((tmp_path / "deep" / "m.json").read_text())["accuracy"] <= 1
    assert "protocol" in capsys.readouterr().out


def test_evaluate_overwrites_nothing_but_its_own_figures(capsys, toy_folder, tmp_path):
    before = (toy_folder / "ticket.json").read_bytes()
    said = fails(capsys, cli.evaluate, "toy", [str(toy_folder), "--out", str(toy_folder / "ticket.json")])
    assert "would be overwritten" in said and (toy_folder / "ticket.json").read_bytes() == before
    (tmp_path / "mine.yaml").write_text("train: {batch_size: 4}\n")
    said = fails(
        capsys, cli.evaluate, "toy", [str(toy_folder), *[str(tmp_path / "mine.yaml")], "--out", str(tmp_path / "mine.yaml")]
    )
    assert "would be overwritten" in said and "batch_size" in (tmp_path / "mine.yaml").read_text()
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in fails(capsys, cli.evaluate, "toy", [str(toy_folder), "--out", str(tmp_path / "pipe")])
    assert "path is empty" in fails(capsys, cli.evaluate, "toy", [str(toy_folder), "--out", ""])
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    cli.evaluate("toy", [str(toy_folder), "--out", str(tmp_path / "link.json")])
    assert (tmp_path / "link.json").is_symlink() and "accuracy" in (tmp_path / "real.json").read_text()


def test_figures_are_written_before_they_are_shown(toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "score_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.evaluate("toy", [str(toy_folder), "--train.batch_size", "4", "--out", str(tmp_path / "m.json")])
    assert 0 <= json.loads((tmp_path / "m.json").read_text())["accuracy"] <= 1


def test_an_error_in_a_loaders_worker_is_one_line(capsys):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            raise UserError("street.png: truncated")

    @friendly
    def command():
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))

    assert fails(capsys, command) == "error: street.png: truncated"


def test_bugs_keep_their_traceback():
    @friendly
    def command():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        command()


def test_output_that_nobody_reads_ends_quietly():
    code = "from supertickets.arguments import friendly; friendly(lambda: print('a long table'))()"
    command = [sys.executable, "-c", code]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141 and not done.stderr
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2 and done.stderr == "error: output: No space left on device\n"


def test_ctrl_c_ends_quietly(capsys):
    @friendly
    def command():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command()
    said = capsys.readouterr().err
    assert stopped.value.code == 130 and "--run.resume" in said and said.count("\n") == 1


def test_a_command_leaves_its_process_group():
    dist = torch.distributed

    @friendly
    def command():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    command()
    assert not dist.is_initialized()


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split()[:2] == ["supertickets", version("supertickets") + ","]


def test_sizes_are_bounded_before_anything_is_built(capsys, toy_folder):
    for size in (["0", "8"], ["8", "100000"]):
        assert "in pixels, from 1 to 16384" in fails(capsys, cli.main, ["info", str(toy_folder), "--size", *size])


def test_a_report_is_a_page(capsys, toy_folder):
    said = fails(capsys, cli.main, ["report", str(toy_folder), "--out", str(toy_folder / "ticket.json")])
    assert "must end in .html" in said and Ticket.load(toy_folder)
