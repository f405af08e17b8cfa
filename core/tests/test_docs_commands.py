"""The commands in the documentation run: each shell block of each page in order, at tiny settings.

`docs/commands.py` says which blocks are left out.
"""

from __future__ import annotations

import importlib
import runpy
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

from supertickets import cli
from supertickets.deploy.engine import compiler
from supertickets.testing.own_data import write_own_data

ROOT = Path(__file__).parents[2]
SHOWN = runpy.run_path(str(ROOT / "docs" / "commands.py"))
COMMANDS: dict[Path, list[str]] = {page: SHOWN["shell_lines"](page) for page in SHOWN["PAGES"]}
SMALL_NET = "--arch.preset nano --arch.stem 4,4 --arch.stages [{blocks:[1],widths:[4]}] --arch.kernels 3 --arch.expand 2"
SHORT_RUN = (
    "--data.size_px 32,32 --train.epochs 2 --train.batch_size 2 --train.recalibrate_batches 1 --search.warmup 0 "
    "--search.target_macs 0.98 --prune.start 0 --prune.every 1 --run.examples 1 --run.tensorboard false "
    "--run.native_ms false"
)
FEW_SCENES = "--data.train_images 6 --data.val_images 2"


def run(line: str) -> None:
    """Run one command in this process, trainings with fewer epochs, fewer images and a smaller network."""
    words = shlex.split(line)
    if words[:2] == ["pip", "install"]:  # `make wheels` installs the packages into a fresh environment
        return
    if words[0] == "supertickets":
        return cli.main(words[1:])
    if words[0] == "python" and words[1].endswith(".py"):
        script, sys.argv = ROOT / words[1], words[1:]
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(script.parent)  # as Python does for a script
            runpy.run_path(str(script), run_name="__main__")
        return None
    assert words[:2] == ["python", "-m"] or words[:3] == ["accelerate", "launch", "-m"], f"nothing here runs {line}"
    at = words.index("-m") + 1
    with pytest.raises(SystemExit, match="0") if "--help" in words else nullcontext():
        importlib.import_module(words[at]).main(words[at + 1 :] + tiny(words[at], words[at + 1 :]))
    return None


def tiny(module: str, arguments: list[str]) -> list[str]:
    """The settings that make a training tiny; those of the network only where it is not given."""
    if not module.endswith((".train", ".transfer")) or "--help" in arguments:
        return []
    given = {"--arch.body", "--init.ticket"} & set(arguments) or module.endswith(".transfer")
    own_data = any(argument.endswith(".yaml") for argument in arguments)
    size = "--data.resize 32,32 " if own_data and "segmentation" in module else ""
    return shlex.split(f"{'' if given else SMALL_NET} {size}{SHORT_RUN} {'' if own_data else FEW_SCENES}")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: two runs, a ticket and a picture."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("python -m supertickets_segmentation.train --run.dir runs/first")
        shutil.copytree("runs/first", "runs/second")
        shutil.copytree("runs/first/ticket", "TICKET")
        Image.linear_gradient("L").convert("RGB").resize((40, 30)).save("picture.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in COMMANDS if COMMANDS[page]], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, drawn, tmp_path, monkeypatch):
    place = tmp_path / "place"
    if page.name == "index.md" or page.parent.name == "start":
        place.mkdir()  # these begin with nothing
    else:
        shutil.copytree(drawn, place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O0"))  # -O3 takes five times as long
    for line in COMMANDS[page]:
        if line.startswith("cd "):
            monkeypatch.chdir(line[3:])
            write_own_data(Path("data"), page.stem, train=32, val=8, size_px=32)
        else:
            run(line)
    assert not list(Path().rglob("*.tmp"))


def test_most_commands_are_run():
    assert sum(len(lines) for lines in COMMANDS.values()) > 30
    assert all("--8 <" not in page.read_text(encoding="utf-8") for page in COMMANDS)
