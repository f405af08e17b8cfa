"""All ordered pairs of tasks by one command each, at a tiny size; the recipes; wrong arguments."""

from __future__ import annotations

import itertools
import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from supertickets import cli
from supertickets.config.reader import load_config
from supertickets.networks.arch import resolve_arch
from supertickets.task import task_class
from supertickets.testing import STAGES
from supertickets.ticket.ticket import Ticket
from supertickets_transfer.transfer import main, transfer_schema

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = sorted(point.name for point in entry_points(group="supertickets.tasks"))
TINY = ["--data.train_images", "8", "--data.val_images", "4", "--train.batch_size", "4", "--train.recalibrate_batches", "1"]
TINY += ["--run.examples", "0", "--run.tensorboard", "false", "--run.report", "false", "--run.native_ms", "false"]
TINY += ["--head.channels", "8"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """A pruned ticket of each installed task, drawn on scenes."""
    folder = tmp_path_factory.mktemp("sources")
    arch = ["--arch.stages", json.dumps(STAGES), "--arch.stem", "[4, 4]"]
    for task in TASKS:
        plan = ["--train.epochs", "2", "--prune.start", "0", "--search.warmup", "0", "--run.dir", str(folder / task)]
        cli.train(task, [*TINY, *arch, *plan])
    return {task: folder / task / "ticket" for task in TASKS}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(TASKS, 2)))
def test_every_pair_by_one_command(sources, tmp_path, source, target):
    main([str(sources[source]), "--to", target, *TINY, "--train.epochs", "1", "--run.dir", str(tmp_path / "run")])
    before, after = Ticket.load(sources[source]), Ticket.load(tmp_path / "run" / "ticket")
    assert after.task == target and after.load_task().labels != before.load_task().labels
    for name, kept in before.mask.items():
        if not name.startswith("head."):
            assert torch.equal(after.mask[name], kept) and not after.tensors[name][~kept].any()
    assert all(kept.all() for name, kept in after.mask.items() if name.startswith("head."))
    body = {name: units for name, units in before.arch.units.items() if not name.startswith("head.")}
    assert {name: after.arch.units[name] for name in body} == body
    # The stem's stride is the target's, whatever the source was drawn at.
    assert after.arch.stem_stride == resolve_arch(load_config(task_class(target).Config).arch).stem_stride


@pytest.mark.parametrize(
    ("recipe", "target"),
    [("imagenet_to_cityscapes", "segmentation"), ("cityscapes_to_ade20k", "segmentation"), ("imagenet_to_coco", "keypoint")],
)
def test_recipes_are_the_targets_own(recipe, target, monkeypatch, tmp_path):
    if target not in TASKS:
        pytest.skip(f"the {target} task is not installed")
    for name in ("CITYSCAPES", "ADE20K", "COCO"):
        monkeypatch.setenv(name, str(tmp_path))
    config = load_config(transfer_schema(task_class(target)), CONFIGS / f"{recipe}.yaml")
    assert config.arch.preset == "paper"
    assert config.transfer.weights == config.transfer.mask == "keep"
    assert config.train.epochs == {"imagenet_to_cityscapes": 430, "cityscapes_to_ade20k": 50, "imagenet_to_coco": 210}[recipe]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing", "--to", TASKS[0]], "nothing/ticket.json: no such file"),
        (["nothing"], "--to"),
        (["nothing", "--to", "detection"], "no task named 'detection' is installed"),
        (["nothing", "--to", TASKS[0], "--transfer.weight", "keep"], "transfer.weights"),
        (["nothing", "--to", TASKS[0], "--transfer.mask", "none", "--transfer.freeze", "head"], "body"),
        (["nothing", "--to", TASKS[0], "--imp.rounds", "2"], "imp: cannot be set in a transfer"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *TINY])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and complaint in said
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_keys_of_the_transfer_beside_those_of_the_target(capsys):
    for to, key in (([], "train.epochs"), (["--to", "segmentation"], "evaluation.window")):
        with pytest.raises(SystemExit):
            main([*to, "--help"])
        said = capsys.readouterr().out
        assert "--transfer.freeze " in said and f"--{key} " in said
