"""What the documentation shows works: its commands, its example of an own task, its links and its notebook."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import supertickets.task as tasks
from supertickets import cli
from supertickets.config.reader import load_config
from supertickets.networks.arch import resolve_arch
from supertickets.networks.build import build_net
from supertickets.testing import STAGES, check_task
from supertickets.ticket.ticket import Ticket

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("tasks/*/supertickets_*/starter/README.md")])
SHELL_LINES = runpy.run_path(str(ROOT / "docs" / "commands.py"))["shell_lines"]
TASKS = ("classification", "segmentation", "keypoint")


class Reached(Exception):
    """A command has understood its arguments."""


def commands() -> list[tuple[Path, list[str]]]:
    """The project's commands in the shell blocks of all pages: the page and the words of the command."""
    found = []
    for page in PAGES:
        if page.parent.name == "start":
            continue  # test_docs_commands.py runs these
        for line in SHELL_LINES(page, marked=True):
            ours = line.startswith(("accelerate", "python -m super", "supertickets"))
            words = shlex.split(line) if ours and not re.search(r"\.\.\.|\[|\|", line) else []  # without choices
            if words:
                found.append((page, words))
    return found


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments."""
    if words[0] == "supertickets":
        return "supertickets.cli", words[1:]
    at = words.index("-m") if "-m" in words else next(i for i, word in enumerate(words) if word.endswith(".py")) - 1
    name = words[at + 1].removesuffix(".py")
    parts = name.split("/")
    if len(parts) > 1:  # tasks/segmentation/train.py
        name = f"supertickets_{parts[-2]}.{parts[-1]}"
    return name, words[at + 2 :]


def write_ticket(folder: Path) -> None:
    """A segmentation ticket of two classes."""
    small = {"arch": {"preset": "nano", "stages": STAGES[:1]}, "data": {"classes": ["sky", "car"]}}
    task = tasks.load_task("segmentation", small)
    Ticket.from_net(build_net(resolve_arch(task.config.arch), task).eval(), task, metrics={}).save(folder)


def test_commands_of_the_documentation_are_understood(monkeypatch, tmp_path):
    """Each runs up to the point where it has read its arguments and recipe; names in capitals stand for files or choices."""
    monkeypatch.chdir(tmp_path)
    for name in ("CITYSCAPES", "ADE20K", "COCO", "IMAGENET", "SUPERTICKETS_DATA"):
        monkeypatch.setenv(name, str(tmp_path))

    for folder in (Path("runs/first/ticket"), Path("TICKET")):
        write_ticket(folder)

    def reached(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr("supertickets_keypoint.evaluate.score_results", reached)
    monkeypatch.setattr(cli, "_load_ticket", reached)  # evaluate and predict, which have parsed everything by then
    for task in TASKS:
        monkeypatch.setattr(tasks.task_class(task), "__init__", reached)  # train and transfer, which have their config by then
    checked = set()
    for page, words in commands():
        task = page.parent.parent.name.rpartition("_")[2] if page.parent.name == "starter" else "segmentation"
        module, arguments = module_of([re.sub("TASK", task, word).replace("NAME", "pairs") for word in words])
        main = importlib.import_module(module).main
        starter = ROOT / f"tasks/{task}/supertickets_{task}/starter"
        Path("recipe.yaml").write_text((starter / "recipe.yaml").read_text())
        with monkeypatch.context() as patch, pytest.raises((Reached, SystemExit)) as stopped:
            if module == "supertickets.cli":
                patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
            if module.rpartition(".")[2] not in ("cli", "train", "evaluate", "predict", "transfer"):
                raise Reached  # a tool of its own, which is there
            main(arguments)
        assert stopped.type is Reached or stopped.value.code in (0, None), f"{page}: {' '.join(words)}"
        checked.add(module)
    assert (
        len(commands()) > 40
        and {"supertickets.cli", "supertickets_transfer.transfer", "supertickets_keypoint.train"} <= checked
    )


def parse_and_stop(self, args=None, namespace=None):
    _, rest = self.parse_known_args(args, namespace)
    assert not rest, f"not understood: {rest}"
    raise Reached


def test_links_lead_somewhere():
    for page in [ROOT / "CONTRIBUTING.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_of_an_own_task_works(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples" / "own_task"))
    module = importlib.import_module("denoising.task")
    found = tasks.task_class
    monkeypatch.setattr(tasks, "task_class", lambda name: module.DenoisingTask if name == "denoising" else found(name))
    small = [
        "--arch.stages",
        '[{"blocks": [1], "widths": [4]}]',
        "--arch.stem",
        "4,4",
        "--data.size_px",
        "16",
        "--data.images",
        "16",
    ]
    task = module.DenoisingTask(load_config(module.DenoisingConfig, None, small))
    check_task(task, tmp_path)
    plan = [
        "--train.epochs",
        "2",
        "--train.batch_size",
        "4",
        "--search.warmup",
        "0",
        "--search.target_macs",
        "0.8",
        "--prune.every",
        "1",
    ]
    quiet = ["--run.tensorboard", "false", "--run.report", "false", "--run.native_ms", "false", "--run.examples", "1"]
    quiet += ["--prune.end", "0.5"]
    cli.train("denoising", [*small, *plan, *quiet, "--run.dir", str(tmp_path / "run")])
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "noisy.png")
    cli.predict("denoising", [str(tmp_path / "run" / "ticket"), str(tmp_path / "noisy.png"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "noisy.png").exists()
    sys.modules.pop("denoising.task", None)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_example_of_the_front_page_works_as_shown(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (folder,) = re.findall(r'Ticket.load\("([^"]+)"\)', block)
    write_ticket(Path(folder))
    Image.new("RGB", (30, 20), "teal").save("street.jpg")
    names: dict[str, Any] = {}
    exec(compile(block, page, "exec"), names)
    assert names["found"].labels.shape == (20, 30) and names["found"].names == ["sky", "car"] and not names["net"].training


def test_the_settings_page_has_every_key(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = importlib.import_module("hooks").on_page_markdown((ROOT / "docs" / "settings.md").read_text())
    for task in TASKS:
        for name, section in tasks.task_class(task).Config():
            assert all(f"| `{name}.{key}` |" in page for key in type(section).model_fields)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch, tmp_path):
    """Its code cells, one after the other, at the size that they set themselves."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(code):
        exec(compile(source, f"tour.ipynb, cell {number}", "exec"), names)
    assert len(code) >= 5 and Path("report.html").exists()


def test_front_matter_stands_on_lines_of_its_own():
    for page in PAGES:
        text = page.read_text()
        assert not text.startswith("---") or re.match(r"---\n(\w+: .*\n)+---\n", text), page
