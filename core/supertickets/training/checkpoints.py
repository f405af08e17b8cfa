"""The checkpoints of a run: their names and order, the newest undamaged one, and how many are kept."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.processes import is_first_process
from supertickets.task import Task
from supertickets.terminal import note
from supertickets.training.state import TrainState
from supertickets.training.state_file import Damaged, load_state, save_state

_NAME = re.compile(r"epoch_(\d{4,9})(?:_step_(\d{1,18}))?\.safetensors", re.ASCII)


class Checkpoints:
    """The folder `checkpoints` of a run. `loaded` is the file that the run continues from."""

    def __init__(self, run_folder: Path, *, keep: int) -> None:
        self.run_folder, self.keep = run_folder, keep
        self.loaded: Path | None = None

    @property
    def folder(self) -> Path:
        return self.run_folder / "checkpoints"

    def files(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return sorted((path for path in self.folder.glob("epoch_*") if _NAME.fullmatch(path.name)), key=_position)

    def load(self, task: Task, config: Config, device: torch.device) -> TrainState:
        """The state of the newest undamaged checkpoint; damaged ones are reported. Raises `UserError` if all are damaged."""
        damaged: list[str] = []
        for path in reversed(self.files()):
            try:
                state = load_state(path, task, config, device)
            except Damaged as error:
                damaged.append(str(error))
                continue
            self.loaded = path
            if damaged and is_first_process():
                note(f"{'; '.join(damaged)}: continuing from the previous checkpoint, {path.name}")
            return state
        raise UserError(f"run.resume: there is no undamaged checkpoint: {'; '.join(damaged) or f'{self.folder} holds none'}")

    def set_aside(self) -> None:
        """Rename the damaged checkpoints that `load` skipped, so that none of them is taken for the newest one again."""
        newest_first = self.files()[::-1]
        for path in newest_first[: newest_first.index(self.loaded)] if self.loaded in newest_first else []:
            path.rename(path.with_suffix(".damaged"))

    def save(self, state: TrainState) -> Path:
        """Write the state, then remove the checkpoints that are older than those to keep."""
        path = self.folder / _name_of(state)
        save_state(state, path)
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> str:
        """The newest checkpoint, for messages."""
        files = self.files()
        return str(files[-1]) if files else "none yet"


def _name_of(state: TrainState) -> str:
    """`epoch_0004.safetensors` after four epochs; if the next epoch has begun, the name also contains the number of updates."""
    begun = state.underway.batches or state.underway.losses
    return f"epoch_{state.logged:04d}{f'_step_{state.step:09d}' if begun else ''}.safetensors"


def _position(path: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2] or -1)
