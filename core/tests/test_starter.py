"""The starter for own data: its recipe is valid, and so is every line that it offers to uncomment."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from supertickets import cli
from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.starter import write_starter
from supertickets.task import task_class

TASKS = sorted(point.name for point in entry_points(group="supertickets.tasks"))


@pytest.mark.parametrize("task", TASKS)
def test_every_key_is_in_the_recipe_and_means_what_it_says(task: str, tmp_path: Path):
    recipe, readme = write_starter(tmp_path / "mine", task)
    schema, text = task_class(task).Config, recipe.read_text()
    config = load_config(schema, recipe)
    assert config.data.root == Path("data") and "data/" in readme.read_text()
    spelled_out = tmp_path / "all.yaml"
    spelled_out.write_text(re.sub(r"^# (?=[a-z_]+\.[a-z_0-9]+: )", "", text, flags=re.MULTILINE))
    assert load_config(schema, spelled_out) == config
    missing = [
        f"{name}.{key}"
        for name, section in config
        for key in type(section).model_fields
        if not re.search(rf"^( +{key}|(# )?{name}\.{key}):", text, re.MULTILINE)
    ]
    assert not missing


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["new", str(tmp_path), "--task", TASKS[0]])
    assert "README.md" in capsys.readouterr().out
    with pytest.raises(UserError, match="recipe.yaml: already exists"):
        write_starter(tmp_path, TASKS[0])
    with pytest.raises(UserError, match="no task named 'detection'"):
        write_starter(tmp_path / "other", "detection")
    assert not (tmp_path / "other").exists()
