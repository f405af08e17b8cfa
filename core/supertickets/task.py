"""What the loop needs of a task, and how tasks are found: entry points of the group `supertickets.tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.networks.arch import Arch


@runtime_checkable
class Task(Protocol):
    """One kind of work: its data, head, loss and score. Anyone's package can bring one."""

    name: str
    metric: str  # key of the figure to maximise in what `evaluate` gives
    input_shape: tuple[int, int, int]  # (C, H, W) of what the network sees in training
    labels: list[str]  # class or joint names
    Config: type  # its subclass of `training.config.Config`
    config: Any

    def __init__(self, config: Any) -> None: ...

    def build_loaders(self, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Plain loaders for training (shuffled, last partial batch dropped) and validation; Accelerate shards them."""
        ...

    def build_head(self, arch: Arch) -> nn.Module:
        """The head for a body of this arch: list of branch features, finest first -> output."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Scalar training loss of one batch of the training loader, on the model's device."""
        ...

    def evaluate(self, model: nn.Module, loader: Any, accelerator: Accelerator) -> dict[str, Any]:
        """Scores over the loader, the same on all processes: `metric` and a `protocol` that says how it was measured."""
        ...

    def build_val_loader(self, batch_size: int) -> DataLoader[Any]:
        """The validation loader alone, for scoring where there is no training data."""
        ...

    def check_data(self) -> None:
        """Look at the data before anything is written; `UserError` for what cannot be trained on."""
        ...

    @classmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> dict[str, Any]:
        """Settings for a network that is known by its tensors alone (checkpoints of the original project)."""
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able: all that `load_task` needs to rebuild the task without its data."""
        ...

    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Pictures of predictions on validation data."""
        ...

    def predict(self, model: nn.Module, paths: list[Path], out_dir: Path) -> list[Path]:
        """Predictions for image files as pictures and data; returns what was written.

        A task with `predicts_in_words = True` prints them; its `out_dir` is None where nothing is to be written. Its
        `predict_options` are keys of its config's section `predict`, each with a line of help, that the script knows by name.
        """
        ...


def task_class(name: str) -> Any:
    """The task's class; `UserError` with the installed ones where there is none of that name."""
    found = {point.name: point for point in entry_points(group="supertickets.tasks")}
    if name not in found:
        raise UserError(f"no task named '{name}' is installed (installed: {', '.join(sorted(found)) or 'none'})")
    return found[name].load()


def load_task(name: str, config: Mapping[str, Any] | Config | None = None) -> Any:
    """The task `name` with `config`: its own config object, or a mapping such as `Task.settings` gives."""
    cls = task_class(name)
    return cls(config if isinstance(config, Config) else load_config(cls.Config, base=config or {}))
