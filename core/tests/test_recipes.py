"""Recipes are found by name, in a clone and in an installed package, and a wrong name lists the valid ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supertickets import cli
from supertickets.errors import UserError
from supertickets.recipes import find_recipe, recipes_of

PACKAGE = "supertickets_segmentation"


def test_a_recipe_by_name_by_path_and_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    camvid = find_recipe("camvid", PACKAGE)
    assert camvid.name == "camvid.yaml" and camvid.is_file() and camvid == recipes_of(PACKAGE)["camvid"]
    monkeypatch.chdir(tmp_path)
    assert find_recipe("own.yaml", PACKAGE) == Path("own.yaml") and find_recipe("a/b", PACKAGE) == Path("a/b")
    Path("camvid").write_text("")  # a file of that name is meant first
    assert find_recipe("camvid", PACKAGE) == Path("camvid")
    with pytest.raises(UserError, match="'cityscape' is not known: did you mean cityscapes.* valid: ade20k, camvid"):
        find_recipe("cityscape", PACKAGE)
    with pytest.raises(UserError, match="supertickets has no recipes"):
        find_recipe("scenes", "supertickets")


def test_an_installed_package_has_its_own_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "own_task_package"
    (package / "configs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "configs").mkdir()  # of something else that is installed there
    (tmp_path / "configs" / "other.yaml").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert recipes_of("own_task_package") == {}
    (package / "configs" / "small.yaml").touch()
    assert recipes_of("own_task_package") == {"small": package / "configs" / "small.yaml"}


def test_commands_take_a_recipe_by_place_or_by_option(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    for words in (["scenes"], ["--config", "scenes"], ["--config=scenes"]):
        with pytest.raises(SystemExit):
            cli.train("segmentation", [*words, "--train.epochs", "none"])
        assert "train.epochs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.train("segmentation", ["scenes", "--config", "camvid"])
    assert "give one of them" in capsys.readouterr().err


def test_the_commands_of_a_package_do_not_import_pytorch_before_they_run():
    tasks = ("classification", "segmentation", "keypoint")
    lines = [f"import supertickets_{task}; print('torch' in sys.modules)" for task in tasks]
    lines += [f"supertickets_{task}.{task.capitalize()}Config" for task in tasks]
    done = subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3
