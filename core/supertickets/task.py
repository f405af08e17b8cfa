"""The interface between the training loop and a task, and how installed tasks are found.

Tasks are entry points of the group `supertickets.tasks`, so anyone's package can bring one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from supertickets.config import sections
from supertickets.config.reader import load_config
from supertickets.errors import UserError
from supertickets.losses import softened_divergence
from supertickets.networks.arch import Arch
from supertickets.types import Batch, JsonObject, Metrics


@runtime_checkable
class Task(Protocol):
    """A kind of work for a network: its data, head, loss and metrics.

    Any class with these attributes and methods is a task. `base_task.BaseTask` already has those that most tasks share.
    """

    name: str
    metric: str  # the metric to maximise, a key of what `evaluate` returns
    input_shape: tuple[int, int, int]  # (C, H, W) of the network's input in training
    labels: list[str]  # class or joint names
    Config: type[sections.Config]  # the task's own subclass of the config
    config: sections.Config
    predicts_in_words: bool = False  # whether `predict` prints its results, so that it needs no folder to write to
    predict_options: Mapping[str, str] = {}  # keys of the config's section `predict` that predict.py offers by name -> help

    def __init__(self, config: sections.Config) -> None:
        """The task with `config`, an instance of `Config`. No data is opened yet."""
        ...

    @abstractmethod
    def build_loaders(self, batch_size: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        """Loaders for training (shuffled, without the last partial batch) and validation; Accelerate shards them."""
        ...

    @abstractmethod
    def build_val_loader(self, batch_size: int) -> DataLoader[Batch]:
        """The validation loader alone, for an evaluation without training data."""
        ...

    @abstractmethod
    def build_head(self, arch: Arch) -> nn.Module:
        """The head for a body of this arch: it maps the list of branch features, finest first, to the output."""
        ...

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar training loss of one batch of the training loader, on the model's device."""
        ...

    def distillation_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """How far the model's output for a batch is from a teacher's, as a scalar on the scale of `loss`; 0 where they agree.

        By default both are logits (B, C, ...), compared as in `losses.softened_divergence`.
        """
        return softened_divergence(student, teacher, temperature)

    @abstractmethod
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator) -> Metrics:
        """Metrics over a prepared validation loader, the same on all processes.

        They include `metric` and `protocol`, a sentence that says how it was measured.
        """
        ...

    @abstractmethod
    def check_data(self) -> None:
        """Look at the data before anything is written. Raises `UserError` for data that cannot be trained on."""
        ...

    @classmethod
    @abstractmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        """Settings for a network of which only the tensors are known (checkpoints of the original project)."""
        ...

    @abstractmethod
    def settings(self) -> JsonObject:
        """Everything that `load_task` needs to rebuild the task without its data, JSON-able."""
        ...

    @abstractmethod
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write up to `limit` pictures of predictions on validation data; returns their files."""
        ...

    @abstractmethod
    def predict(self, model: nn.Module, paths: Sequence[Path], out_dir: Path | None) -> list[Path]:
        """Predict for image files and write the results as pictures and data; returns the files written.

        `out_dir` is None only for a task that `predicts_in_words`: it then writes nothing.
        A task that does not stretch whole images to the network's input says what it does instead in a method
        `input_from_picture(size)`, in the keys of `ticket.facts.preprocessing`; exported files contain it.
        A task that gives its predictions as arrays has a method `predict_arrays(model, pictures)`, which `Ticket.predict`
        calls: from a list of pictures (H, W, 3) uint8 RGB to a named tuple for each.
        """
        ...


def task_class(name: str) -> type[Task]:
    """The class of the task `name`. Raises `UserError` with the installed tasks if there is none of that name."""
    found = {point.name: point for point in entry_points(group="supertickets.tasks")}
    if name not in found:
        raise UserError(f"no task named '{name}' is installed (installed: {', '.join(sorted(found)) or 'none'})")
    return cast("type[Task]", found[name].load())


def package_of(cls: type[Task]) -> str:
    """The package of a task's class, which has the commands and recipes: `supertickets_segmentation`."""
    return cls.__module__.partition(".")[0]


def load_task(name: str, config: Mapping[str, object] | sections.Config | None = None) -> Task:
    """The task `name` with `config`: its own config object, or a mapping such as `Task.settings` returns."""
    cls = task_class(name)
    return cls(config if isinstance(config, sections.Config) else load_config(cls.Config, base=config or {}))
