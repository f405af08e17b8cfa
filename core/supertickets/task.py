"""The interface between the training loop and a task, and how installed tasks are found.

Tasks are entry points of the group `supertickets.tasks`, so any package can add one.
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
    """A task for a network: its data, head, loss and metrics.

    Any class with these attributes and methods is a task. `base_task.BaseTask` implements those that most tasks share.
    """

    name: str
    metric: str  # the metric to maximise, a key of what `evaluate` returns
    input_shape: tuple[int, int, int]  # (C, H, W) of the network's input in training
    labels: list[str]  # class or joint names
    Config: type[sections.Config]  # the task's own subclass of the config
    config: sections.Config
    predicts_in_words: bool = False  # whether `predict` prints its results, so that it needs no folder to write to
    predict_options: Mapping[str, str] = {}  # keys of the section `predict` that are also short options of predict.py -> help

    def __init__(self, config: sections.Config) -> None:
        """Create the task with `config`, an instance of `Config`. No data is opened yet."""
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
        """The distance of the model's output for a batch from a teacher's: a scalar on the scale of `loss`, 0 if they agree.

        By default both are logits (B, C, ...), compared as in `losses.softened_divergence`.
        """
        return softened_divergence(student, teacher, temperature)

    @abstractmethod
    def evaluate(self, model: nn.Module, loader: Iterable[Batch], accelerator: Accelerator) -> Metrics:
        """Compute the metrics over a prepared validation loader; the result is the same on all processes.

        They include `metric` and `protocol`, a sentence that describes how it was measured.
        """
        ...

    @abstractmethod
    def check_data(self) -> None:
        """Check the data before anything is written. Raises `UserError` for data that cannot be used for training."""
        ...

    @classmethod
    @abstractmethod
    def settings_for(cls, *, outputs: int, head_channels: int) -> JsonObject:
        """Settings for a network that is only known by its tensors (checkpoints of the original project)."""
        ...

    @abstractmethod
    def settings(self) -> JsonObject:
        """Everything that `load_task` needs to restore the task without its data, as JSON-serialisable data."""
        ...

    @abstractmethod
    def draw_examples(self, model: nn.Module, out_dir: Path, limit: int) -> list[Path]:
        """Write up to `limit` pictures of predictions on validation data; returns their files."""
        ...

    @abstractmethod
    def predict(self, model: nn.Module, paths: Sequence[Path], out_dir: Path | None) -> list[Path]:
        """Predict for image files and write the results as pictures and data; returns the files written.

        `out_dir` is None only for a task with `predicts_in_words`, which then writes nothing. A task that does not stretch
        whole images to the network's input describes its preprocessing in a method `input_from_picture(size)`, with the keys of
        `ticket.facts.preprocessing`; exported files contain this description. A task that can return its predictions as arrays
        has a method `predict_arrays(model, pictures)`, which `Ticket.predict` calls; it maps a list of pictures (H, W, 3) uint8
        RGB to one named tuple per picture.
        """
        ...


def task_class(name: str) -> type[Task]:
    """The class of the task `name`. Raises `UserError` with the installed tasks if there is no task of that name."""
    found = {point.name: point for point in entry_points(group="supertickets.tasks")}
    if name not in found:
        raise UserError(f"no task named '{name}' is installed (installed: {', '.join(sorted(found)) or 'none'})")
    return cast("type[Task]", found[name].load())


def package_of(cls: type[Task]) -> str:
    """The package of a task's class, which contains the commands and recipes, for example `supertickets_segmentation`."""
    return cls.__module__.partition(".")[0]


def load_task(name: str, config: Mapping[str, object] | sections.Config | None = None) -> Task:
    """The task `name` with `config`: its own config object, or a mapping such as `Task.settings` returns."""
    cls = task_class(name)
    return cls(config if isinstance(config, sections.Config) else load_config(cls.Config, base=config or {}))
