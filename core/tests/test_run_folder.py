"""A run folder belongs to one process, and to data of the same labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supertickets.draw import draw_ticket
from supertickets.errors import UserError
from supertickets.testing import ToyTask, micro_net, toy_config
from supertickets.training import lock, run
from supertickets.training.start import check_batch

HOLD = (
    "import sys; from pathlib import Path; from supertickets.training import lock\n"
    "lock.claim(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_one_process_s_until_that_ends_however_it_ends(tmp_path: Path):
    other = holder(tmp_path)
    with pytest.raises(UserError, match=rf"run\.dir: {tmp_path} is being written to by process {other.pid} on "):
        lock.claim(tmp_path)
    other.kill()  # its file stays
    other.wait()
    assert (tmp_path / lock.NAME).exists() and lock.claim(tmp_path) == lock.claim(tmp_path) == tmp_path
    lock.release(tmp_path)
    assert not (tmp_path / lock.NAME).exists()
    other = holder(tmp_path)
    other.communicate()


def test_a_run_is_not_mixed_with_one_that_is_going_on(tmp_path: Path):
    other = holder(tmp_path / "run")
    with pytest.raises(UserError, match="is being written to by process"):
        draw_ticket(ToyTask(None, images=16), toy_config(tmp_path / "run"))
    other.communicate()
    assert [file.name for file in (tmp_path / "run").iterdir()] == [lock.NAME]


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = toy_config(tmp_path).model_copy(update={"run": toy_config(tmp_path).run.model_copy(update={"dir": None})})
    claimed = [run._claim(Path("runs/toy/12-00-00"), config) for _ in range(3)]
    assert [path.name for path in claimed] == ["12-00-00", "12-00-00_2", "12-00-00_3"]
    for path in claimed:
        lock.release(path)


def test_a_run_resumes_on_data_of_its_own_labels_alone(tmp_path: Path):
    config = toy_config(tmp_path / "run", train={"epochs": 1}, prune={"enabled": False}, search={"enabled": False})
    draw_ticket(ToyTask(config, images=16), config)
    assert json.loads((tmp_path / "run" / run.LABELS).read_text()) == ["red", "green", "blue"]
    other, again = ToyTask(config, images=16), config.model_copy(update={"run": config.run.model_copy(update={"resume": True})})
    other.labels = ["blue", "green", "red"]
    with pytest.raises(UserError, match="run.resume: .* knows other labels: 'red' where the data have 'blue' and 1 more"):
        draw_ticket(other, again)
    assert not (tmp_path / "run" / lock.NAME).exists()  # free again for this process and for others


@pytest.mark.parametrize("line", [b"null", b"[1]", b'{"epoch": null}', b'{"epoch": Infinity}', b"\xff\xfe", b"[" * 100_000])
def test_damaged_lines_of_the_log_are_dropped_when_a_run_is_resumed(tmp_path: Path, line: bytes):
    config = toy_config(tmp_path)
    resumed = run.Run("toy", tmp_path, config, run.start_accelerator(config, tmp_path), resumes=True)
    resumed.metrics_file.write_bytes(line + b'\n{"epoch": 1}\n{"epoch": 2}\n')
    resumed._forget_after(1)
    assert resumed.records() == [{"epoch": 1}]


def test_a_batch_that_bn_cannot_train_on_is_refused():
    net = micro_net()  # stem stride 2, three branches: an eighth
    for size, batch in (((8, 9), 1), ((9, 9), 1), ((8, 8), 2)):
        check_batch(net, (3, *size), batch)
    with pytest.raises(UserError, match=r"train\.batch_size: 1 image gives the coarsest map \(1x1\) one value per channel"):
        check_batch(net, (3, 8, 8), 1)


@pytest.mark.parametrize("name", [run.CONFIG, run.LABELS])
def test_a_file_that_is_not_a_run_s_is_not_overwritten(tmp_path: Path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"run\.dir: {tmp_path / name} would be overwritten"):
        draw_ticket(ToyTask(None, images=16), toy_config(tmp_path))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_a_resumed_run_may_spread_an_update_over_fewer_steps(tmp_path: Path):
    """As it must on another number of processes; the images of an update stay as many."""
    train = {"batch_size": 4, "accumulate": 2}
    draw_ticket(ToyTask(None, images=16), toy_config(tmp_path, train=train))
    shutil.rmtree(tmp_path / "ticket")
    resumed = toy_config(tmp_path, train={"batch_size": 8, "accumulate": 1}, run={"resume": True})
    assert draw_ticket(ToyTask(None, images=16), resumed).metrics
    for other in ({"batch_size": 4, "accumulate": 1}, train | {"lr": 0.5}):
        with pytest.raises(UserError, match=r"images per update|other settings: train\.lr"):
            draw_ticket(ToyTask(None, images=16), toy_config(tmp_path, train=other, run={"resume": True}))
