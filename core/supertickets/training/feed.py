"""Training batches that can be continued in the middle of an epoch, in the same order and with the same random augmentation.

Each batch comes with the state that the random generators of its loader process had after making it. Process i of n makes the
batches i, i + n, ... of an epoch, so a continued epoch only needs the states after the last n batches. Without loader
processes, the main process makes the batches, one batch ahead of the training and with the same generators; the state before
that next batch is then kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard, skip_first_batches
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from supertickets.terminal import Batches
from supertickets.training.randomness import random_state, set_random_state
from supertickets.training.signals import survive_once
from supertickets.types import Batch


class Feed:
    """The training loader, prepared for this launch, which can be continued from a position within an epoch."""

    def __init__(self, loader: DataLoader[Batch], accelerator: Accelerator) -> None:
        self.noted = Noted(loader.collate_fn)
        loader.collate_fn = self.noted
        self.loader: DataLoaderShard = prepared(loader, accelerator)
        self.workers, self.device = loader.num_workers, accelerator.device
        self.after: deque[bytes] = deque(maxlen=self.workers or 1)  # states of the loader processes after their latest batches

    def __len__(self) -> int:
        return len(self.loader)

    def place(self) -> dict[str, Tensor]:
        """What `epoch` needs in order to continue after the latest batch: the states of random generators, as bytes."""
        states = list(self.after) if self.workers else [self.noted.before]
        if len(states) < self.workers:  # some processes have not made a batch yet, so their states are unknown
            states = []
        named = {"now": random_state(self.device), **{f"loader_{i}": state for i, state in enumerate(states)}}
        return {name: torch.frombuffer(bytearray(state), dtype=torch.uint8) for name, state in named.items()}

    def epoch(self, number: int, *, done: int = 0, own: Mapping[str, Tensor] | None = None) -> Batches[Batch]:
        """The batches of an epoch from number `done` on; `own` is what `place` returned after `done` batches."""
        states = {name: tensor.numpy().tobytes() for name, tensor in (own or {}).items()}
        place = [states[f"loader_{i}"] for i in range(self.workers or 1) if f"loader_{i}" in states]
        return Rest(len(self) - done, self._epoch(number, done, place, states.get("now", b"")))

    def _epoch(self, number: int, done: int, place: Sequence[bytes], now: bytes) -> Iterator[Batch]:
        self.loader.set_epoch(number)
        jumps = bool(done and place) and not isinstance(self.loader.dataset, IterableDataset)
        loader = self._continued(done, place) if jumps else self.loader
        passed_over = 0 if jumps else done  # otherwise the earlier batches are made again, as no state is known
        self.noted.begin({passed_over: place[0], passed_over + 1: now} if done and not self.workers else {})
        self.after = deque(place if jumps and self.workers else (), maxlen=self.workers or 1)
        for i, (batch, after) in enumerate(loader):
            self.after.append(after)
            if i < passed_over:
                continue
            if i == passed_over and done and self.workers:
                set_random_state(now, self.device)
            yield batch
            self.noted.before_next = random_state()

    def first(self, number: int, count: int) -> Iterator[Batch]:
        """The first `count` batches of an epoch, in its order."""
        self.loader.set_epoch(number)
        self.noted.begin({})
        batches = iter(self.loader)
        yield from (batch for batch, _ in islice(batches, count))
        batches.close()
        self.loader.end()  # stopped early: Accelerate must not consider this loader still in use

    def _continued(self, done: int, place: Sequence[bytes]) -> DataLoaderShard:
        """A loader of the batches after `done` whose processes start in these states."""
        loader = skip_first_batches(self.loader, done)
        base = loader.base_dataloader
        base.generator = torch.Generator()  # its seeds are not used; the restored generators must not draw them
        if self.workers:
            base.worker_init_fn = partial(_start_in_state, base.worker_init_fn, list(place))
        return loader


class Rest:
    """Batches, and their number."""

    def __init__(self, count: int, batches: Iterator[Batch]) -> None:
        self.count, self.batches = count, batches

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return self.batches


class Noted:
    """A collate function that also returns the state of the random generators after each batch."""

    def __init__(self, collate: Callable[[Any], Batch]) -> None:
        self.collate = collate
        self.begin({})

    def begin(self, states: dict[int, bytes]) -> None:
        """Count batches from 0; when the count equals a key of `states`, set the generators to that state."""
        self.states, self.count = states, 0
        if 0 in states:
            set_random_state(states[0])
        self.before = self.before_next = random_state()  # before the last batch that was made, and before the next one

    def __call__(self, items: Any) -> tuple[Batch, bytes]:
        batch = self.collate(items)
        if get_worker_info() is not None:
            return batch, random_state()
        self.count += 1
        if self.count in self.states:
            set_random_state(self.states[self.count])
        self.before, self.before_next = self.before_next, random_state()
        return batch, b""


def prepared(loader: DataLoader[Batch], accelerator: Accelerator) -> DataLoaderShard:
    """The loader, prepared for this launch; its processes survive a signal that is sent to all processes of a job."""
    loader.worker_init_fn = partial(_start, loader.worker_init_fn)
    return accelerator.prepare_data_loader(loader)


def _start(then: Callable[[int], None] | None, number: int) -> None:
    survive_once()
    if then is not None:
        then(number)


def _start_in_state(before: Callable[[int], None] | None, states: Sequence[bytes], number: int) -> None:
    if before is not None:
        before(number)
    set_random_state(states[number])
