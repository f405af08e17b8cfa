"""Tickets, checkpoints and configs that were damaged or made up end in one clear line, in bounded time."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from safetensors.torch import save

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.pruning.prune import prune
from supertickets.report.tables import info_tables
from supertickets.task import load_task
from supertickets.testing import ToyTask, micro_arch, toy_config
from supertickets.testing.hostile import mutated
from supertickets.ticket.facts import describe
from supertickets.ticket.limits import DEPTH, check_arch
from supertickets.ticket.ticket import Ticket, _digest
from supertickets.training.randomness import random_state
from supertickets.training.state import new_state
from supertickets.training.state_file import digest_of, load_state, read_state, save_state

SETTINGS = {
    "segmentation": {"data": {"name": "pairs", "classes": ["a", "b"]}},
    "classification": {"data": {"name": "folder", "folders": ["a", "b"], "classes": ["a", "b"]}},
    "keypoint": {"data": {"name": "coco", "joints": ["left_a", "right_a"], "skeleton": [], "flip_pairs": []}},
}


def micro_ticket(name: str, folder: Path) -> Path:
    task = load_task(name, SETTINGS[name])
    net = build_net(micro_arch(), task)
    mask = prune(net, 0.5)
    with torch.no_grad():
        for key, kept in mask.items():
            net.get_parameter(key).mul_(kept)
    return Ticket.from_net(net, task, metrics={"miou": 0.5}, mask=mask).save(folder)


def write(folder: Path, about: object) -> None:
    """With the checksum that it ought to have: whoever makes a ticket up can reckon it."""
    if isinstance(about, dict):
        about.pop("sha256", None)
        about["sha256"] = _digest(about)
    (folder / "ticket.json").write_text(json.dumps(about))


def look(folder: Path) -> str:
    """What a ticket gives a user: the complaint, or "" where it is read, built and described."""
    began = time.monotonic()
    try:
        ticket = Ticket.load(folder)
        info_tables(describe(ticket), str(folder), layers=True)
        said = ""
    except UserError as error:
        said = str(error)
        assert "\n" not in said and said
    assert time.monotonic() - began < 5
    return said


@pytest.mark.parametrize("name", SETTINGS)
def test_any_change_of_a_ticket_is_read_or_named(tmp_path: Path, name: str):
    rng, folder = random.Random(0), micro_ticket(name, tmp_path / "ticket")
    about = json.loads((folder / "ticket.json").read_text())
    assert look(folder) == ""
    said = []
    for _ in range(25):
        write(folder, mutated(about, rng))
        said.append(look(folder))
    assert sum(map(bool, said)) > 5


@pytest.mark.parametrize("seed", range(3))
def test_any_change_of_a_byte_is_named(tmp_path: Path, seed: int):
    rng, folder = random.Random(seed), micro_ticket("segmentation", tmp_path / "ticket")
    for name in ("ticket.json", "ticket.safetensors"):
        whole = (folder / name).read_bytes()
        for _ in range(10):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(data if rng.random() < 0.7 else whole[: rng.randrange(len(whole))])
            assert look(folder)
        (folder / name).write_bytes(whole)


def replaced(folder: Path, **changes: torch.Tensor) -> None:
    from safetensors.torch import load

    tensors = load((folder / "ticket.safetensors").read_bytes()) | changes
    blob = save({name: tensor for name, tensor in tensors.items() if tensor.numel()} or {"dense": torch.zeros(1)})
    (folder / "ticket.safetensors").write_bytes(blob)
    about = json.loads((folder / "ticket.json").read_text())
    write(folder, about | {"tensors_sha256": hashlib.sha256(blob).hexdigest()})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dense": torch.zeros(3)}, "'dense' should hold"),
        ({"dense": torch.zeros(0)}, "'dense' is missing"),
        ({"mask": torch.zeros(10**6, dtype=torch.uint8)}, "'mask' should hold"),
        ({"kept": torch.zeros(7)}, "'kept' should hold"),
        ({"kept": torch.zeros(2, 2)}, "'kept' is missing or not a row"),
        ({"kept": torch.zeros(5, dtype=torch.float16)}, "'kept' is missing or not a row"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, changes, complaint: str):
    folder = micro_ticket("segmentation", tmp_path / "ticket")
    replaced(folder, **changes)
    assert complaint in look(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a["arch"].update(stem=[4, 10**9]), "its arch asks for channels 1000000000; at most 16384 is allowed"),
        (lambda a: a["arch"].update(kernels=[3, 10**9 + 1]), "its arch asks for kernel size 1000000001"),
        (lambda a: a["arch"]["stages"][0].update(blocks=[10**6]), "its arch asks for blocks 10000"),
        (lambda a: a["arch"].update(units={"head.block": {"3": 10**12}}), "its arch asks for units 1000000000000"),
        (lambda a: a["arch"].update(expand=100, units={}), "values for its arch, but holds"),
        (lambda a: a["arch"].update(units={f"block {i}": {} for i in range(60_000)}), "its arch asks for named blocks"),
        (lambda a: a["settings"]["head"].update(channels=10**7), "its arch asks for [0-9]+ weights"),
        (lambda a: a["settings"]["head"].update(channels=2**62), "head.channels: 4611686018427387904 given, expected at most"),
        (lambda a: a["settings"]["data"].update(size_px=[10**6, 10**6]), "at most 16384 pixels per side are allowed"),
        (lambda a: a["metrics"].update(x="\ud800"), "not Unicode"),
        (lambda a: a["metrics"].update(x=10**30), "a number beyond 64 bits"),
        (lambda a: a["metrics"].update(x=["x"] * 10**6), "holds more than"),
        (lambda a: a["metrics"].update(x=json.loads("[" * (DEPTH + 1) + "]" * (DEPTH + 1))), "nested deeper than"),
        (lambda a: a.update(masked=[[]]), "'masked' must list names"),
        (lambda a: a.update(masked=a["masked"] * 2), "masks a weight twice"),
        (lambda a: a["provenance"].update(supernet={"macs": "many"}), "'provenance.supernet' must be numbers"),
    ],
)
def test_what_is_too_large_or_of_another_kind_is_named(tmp_path: Path, change, complaint: str):
    folder = micro_ticket("segmentation", tmp_path / "ticket")
    about = json.loads((folder / "ticket.json").read_text())
    change(about)
    write(folder, about)
    assert re.search(complaint, said := look(folder)), said


def test_what_is_no_plain_file_is_named(tmp_path: Path):
    folder = micro_ticket("segmentation", tmp_path / "ticket")
    (folder / "ticket.json").write_text("[" * 10**6)
    assert "not valid JSON" in look(folder)
    (folder / "ticket.safetensors").unlink()
    (folder / "ticket.json").unlink()
    (folder / "ticket.json").symlink_to("/dev/zero")
    assert "no such file" in look(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """A checkpoint of a toy network that has made one step, its JSON and tensors, and what loads it."""
    path = tmp_path_factory.mktemp("run") / "epoch_0001.safetensors"
    config = toy_config(path.parent)
    task = ToyTask(config)
    state = new_state(task, config, torch.device("cpu"))
    task.loss(state.net, next(iter(task.build_loaders(8)[0]))).backward()
    state.optimizer.step()
    state.step = state.underway.batches = 1
    now = torch.frombuffer(bytearray(random_state()), dtype=torch.uint8)
    state.underway.processes = [{"now": now, "loader_0": now, "loss": torch.tensor(1.0)}]
    save_state(state, path)
    return path, *read_state(path), lambda: load_state(path, task, config, torch.device("cpu"))


def resaved(path: Path, about: object, tensors: dict[str, torch.Tensor]) -> None:
    """With the checksum that it ought to have."""
    text = json.dumps(about)
    path.write_bytes(save(tensors, {"state": text, "sha256": digest_of(text, tensors)}))


@settings(max_examples=6, deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rng=strategies.randoms(use_true_random=False))
def test_any_change_of_a_checkpoint_is_read_or_named(checkpoint, rng: random.Random):
    path, about, tensors, load = checkpoint
    resaved(path, mutated(about, rng), tensors)
    try:
        load()
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_tensors_of_a_checkpoint_that_do_not_fit_are_named(checkpoint):
    path, about, tensors, load = checkpoint
    resaved(path, about, tensors)
    assert load().underway.batches == 1
    weight, ones = "stem.0.weight", torch.ones(4, 3, 3, 3)
    for name, tensor, complaint in (
        (f"ema/{weight}", ones[:1], "has a different shape in the network"),
        (f"mask/{weight}", ones, "its mask has values other than true and false"),
        (f"dormant/{weight}x", ones, "the network has no tensor"),
        (f"optimizer/{weight}/exp_avg", ones[:2], "does not fit the network"),
        ("process_0/now", torch.zeros(7, dtype=torch.uint8), "not a checkpoint of a toy run"),
        ("process_0/loss", ones, "'loss' of a process is not a number"),
    ):
        resaved(path, about, tensors | {name: tensor.clone()})
        with pytest.raises(UserError, match=re.escape(complaint)):
            load()


@settings(max_examples=30, deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rng=strategies.randoms(use_true_random=False))
def test_any_change_of_a_config_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, rng: random.Random):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(json.dumps(mutated(Config().model_dump(mode="json"), rng)))
    try:
        check_arch(resolve_arch(load_config(Config, path).arch), path)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_config_cannot_ask_for_a_network_that_fills_the_memory(tmp_path: Path):
    config = toy_config(tmp_path)
    for changes, complaint in (({"stem": (4, 10**9)}, "channels 1000000000"), ({"expand": 10**6}, "expand 1000000")):
        arch = config.arch.model_copy(update=changes)
        with pytest.raises(UserError, match=f"arch: its arch asks for {complaint}; at most 16384 is allowed"):
            new_state(ToyTask(config), config.model_copy(update={"arch": arch}), torch.device("cpu"))
