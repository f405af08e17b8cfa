"""What most tasks have in common: a config, a training and a validation split, and loaders for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from supertickets.config.section import Section
from supertickets.config.sections import Config
from supertickets.errors import UserError
from supertickets.files import check_output_file
from supertickets.networks.library import input_statistics
from supertickets.task import Task
from supertickets.types import Batch

C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=Dataset)


class BaseTask(Task, Generic[C, D]):
    """A task with the config `C` whose splits "train" and "val" are data sets of the type `D`.

    A subclass defines `_open_splits` and the rest of `Task`, and overrides `_collate` or `_val_loader` if its batches need it.
    """

    Config: type[C]
    config: C
    items = "images"  # what the data sets contain, for messages

    def __init__(self, config: C, *, workers: int = 0) -> None:
        """`workers`: number of processes that load the data."""
        self.config, self._workers = fit_to_body(config), workers
        self._sets: dict[str, D] = {}  # the splits opened so far

    @abstractmethod
    def _open_splits(self, splits: Sequence[str]) -> dict[str, D]:
        """Open and audit these splits. Raises `UserError` for wrong data."""

    def _open(self, *splits: str) -> list[D]:
        """The data sets of these splits; each is opened when it is first requested."""
        if missing := [split for split in splits if split not in self._sets]:
            self._check_written()
            self._sets |= self._open_splits(missing)
        return [self._sets[split] for split in splits]

    def _written(self) -> Mapping[str, Path | None]:
        """The files that evaluations write, by the key that names them."""
        return {}

    def _read(self) -> list[Path]:
        """The files that the data consist of and that no key of the config names."""
        return []

    def _check_written(self) -> None:
        """Raise `UserError` if an evaluation could not write its file, or would overwrite one of the inputs."""
        for key, path in self._written().items():
            if path is not None:
                inputs = self.config.paths()
                inputs.remove(path)  # once: it may also be an input
                check_output_file(path, named=key, kind="a file", inputs=[*inputs, *self._read()])

    def check_data(self) -> None:
        """Open and audit both splits. Raises `UserError` for wrong data."""
        self._open("train", "val")

    def build_loaders(self, batch_size: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        """Loaders for training (shuffled, without the last partial batch) and validation, after the audit.

        Raises `UserError` for wrong data, and if there are fewer training items than one batch.
        """
        train, val = self._open("train", "val")
        assert isinstance(train, Sized)
        if len(train) < batch_size:
            raise UserError(f"{len(train)} training {self.items} make no batch of {batch_size}: lower train.batch_size")
        return self._loader(train, batch_size, train=True), self._val_loader(val, batch_size)

    def build_val_loader(self, batch_size: int) -> DataLoader[Batch]:
        """The validation loader alone, after the audit, for an evaluation without training data."""
        return self._val_loader(self._open("val")[0], batch_size)

    def _val_loader(self, val: D, batch_size: int) -> DataLoader[Batch]:
        return self._loader(val, batch_size)

    def _loader(self, data: Dataset[Batch], batch_size: int, *, train: bool = False) -> DataLoader[Batch]:
        """Batches of `data`: shuffled and all of the same size for training, otherwise all items in order."""
        return DataLoader(
            data,
            batch_size,
            shuffle=train,
            drop_last=train,
            collate_fn=self._collate(train=train),
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _collate(self, *, train: bool) -> Callable[[list[Batch]], Batch] | None:
        """The function that combines items into a batch; None for PyTorch's default."""
        return None


def fit_to_body(config: C, body: str | None = None) -> C:
    """The config with the mean and std of `body`, or of the arch's body, unless `data` sets its own values."""
    data, body = getattr(config, "data", None), body or config.arch.body
    if body is None or not isinstance(data, Section):
        return config
    own = dict(zip(("mean", "std"), input_statistics(body), strict=True))
    unset = {key: own[key] for key in own if key in type(data).model_fields and key not in data.model_fields_set}
    return config.model_copy(update={"data": data.model_copy(update=unset)})


def read_settings(schema: type[C], given: C | Mapping[str, object] | None) -> C:
    """`given` itself if it is a config of this schema, otherwise the config made from it; for None, the defaults.

    `data.mean` and `data.std` become those of the body, if there is one and they are not set.
    """
    return fit_to_body(given if isinstance(given, schema) else schema.model_validate(given or {}))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode within the `with` block, and back in its former mode at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def evenly_spread(count: int, most: int) -> list[int]:
    """Up to `most` evenly spaced numbers below `count`, in ascending order."""
    numbers: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return numbers
