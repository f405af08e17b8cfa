"""The run folder: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`, `pictures/`, `ticket/`, more tickets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    ProjectConfiguration,
    broadcast_object_list,
    parse_flag_from_env,
    set_seed,
)

from supertickets.config.reader import config_to_yaml, load_config
from supertickets.config.sections import Config
from supertickets.errors import SharedError, Stopped, UserError
from supertickets.files import append_line, check_output_folder, read_json, write_text
from supertickets.names import differences
from supertickets.pruning.mask import density_by_kind
from supertickets.task import Task
from supertickets.terminal import console
from supertickets.training import lock
from supertickets.training.checkpoints import Checkpoints
from supertickets.training.cpu import prepare_cpu
from supertickets.training.faults import faults_named
from supertickets.training.keeper import Keeper
from supertickets.training.records import parse_record, read_records
from supertickets.training.signals import Signals
from supertickets.training.state import TrainState, Underway, new_state
from supertickets.training.trackers import check_trackers, chosen_trackers, start_trackers

T = TypeVar("T")
Record: TypeAlias = dict[str, object]  # the log entry of an epoch: JSON-serialisable values by name


class Run:
    """A training run on disk, as a context: at its end, the folder is free for other processes. Only the main process writes.

    `main` is True in that process, and `resumes` is True if the run continues from a checkpoint.
    """

    def __init__(self, task: str, folder: Path, config: Config, accelerator: Accelerator, *, resumes: bool = False) -> None:
        self.task, self.folder, self.config, self.accelerator, self.resumes = task, folder, config, accelerator, resumes
        self.main = accelerator.is_main_process
        self.labels: list[str] = []  # of the task, set by `state`
        self.signals = Signals()
        self.checkpoints = Checkpoints(folder, keep=config.run.keep_checkpoints)
        self.keeper = Keeper(config.run.save_every, self.signals, write=self.save, newest=self.checkpoints.newest)

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def state(self, task: Task) -> TrainState:
        """The state to start from: that of the last checkpoint in a resumed run, otherwise a new one.

        Raises `UserError` if the task's labels differ from those with which the run began.
        """
        self.labels = list(task.labels)
        if self.resumes:
            check_same_labels(self.folder, self.labels)
            state = self.checkpoints.load(task, self.config, self.accelerator.device)
            if state.underway.processes:  # within an epoch
                check_same_experiment(self.folder, self.config)
            return state
        set_seed(self.config.run.seed)  # the same network on all processes
        return new_state(task, self.config, self.accelerator.device)

    def begin(self, state: TrainState) -> None:
        """Claim the folder and start the trackers; from here on, the run is on disk.

        If another run has just taken a folder that is named after the current time, a number is appended to the name. Raises
        `UserError`, on all processes, if another process writes to the requested folder.
        """
        self.folder = self.checkpoints.run_folder = self._claimed()
        self.accelerator.project_configuration.set_directories(str(self.folder))
        self.accelerator.project_configuration.logging_dir = str(self.folder)
        by_main(lambda: self._write_start(state))
        names = chosen_trackers(self.config)
        start_trackers(self.accelerator, names, task=self.task, run=self.folder.name, config=self.config)

    def _write_start(self, state: TrainState) -> None:
        """Write the settings and labels; a run that starts or continues here drops what is newer than its state."""
        write_text(self.folder / CONFIG, config_to_yaml(self.config))
        write_text(self.folder / LABELS, json.dumps(self.labels, indent=1) + "\n")
        self.checkpoints.set_aside()
        self._forget_after(state.logged)

    def _claimed(self) -> Path:
        """The folder, locked by the main process; the same on all processes."""
        return by_main(lambda: _claim(self.folder, self.config))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if self.main:
            lock.release(self.folder)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within this `with` block, signals stop the run at its next step, and external failures raise one-line errors."""
        try:
            with self.signals, faults_named(self.checkpoints.newest):
                yield
        except Stopped as stop:
            stop.folder = str(self.folder)
            raise

    def _forget_after(self, epoch: int) -> None:
        """Drop damaged lines and epochs that will be trained again, as a run can end between its metrics and its checkpoint."""
        if not self.metrics_file.exists():
            return
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (record := parse_record(line)) and record["epoch"] <= epoch]
        write_text(self.metrics_file, "".join(f"{line}\n" for line in kept))

    def finish_epoch(self, state: TrainState, record: Record) -> None:
        """Log the record of an epoch, with the mask's density by kind of layer, and write its checkpoint."""
        if state.mask:
            record = record | {"density": density_by_kind(state.mask)}
        if self.accelerator.trackers:
            numbers = {k: v for k, v in _flat(record).items() if isinstance(v, int | float)}
            self.accelerator.log(numbers, step=state.epoch)
        state.underway = Underway()
        by_main(lambda: append_line(self.metrics_file, json.dumps(record)))
        self.keeper.save(state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint on the main process. If that fails, raises `UserError` with the reason on all processes."""
        by_main(lambda: self.checkpoints.save(state))

    def records(self) -> list[dict[str, Any]]:
        """The records of all epochs so far."""
        return read_records(self.metrics_file)

    def say(self, message: str) -> None:
        """Print on the main process."""
        if self.main:
            console.print(message, highlight=False)


def by_main(work: Callable[[], T]) -> T:
    """Run `work` on the main process and return its result on all. Its errors are raised on all, as `SharedError`."""
    shared: list[Any] = [None, None]  # the result, and the error message
    if start_processes().is_main_process:
        try:
            shared[0] = work()
        except UserError as error:
            shared[1] = str(error)
        except OSError as error:
            shared[1] = f"{error.filename}: {error.strerror}"
    broadcast_object_list(shared)
    if shared[1] is not None:
        raise SharedError(shared[1])
    result: T = shared[0]
    return result


def start_processes() -> PartialState:
    """Accelerate's state of the processes, with the device that `Accelerator` will use; from here on, they can communicate."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


CONFIG = "config.yaml"  # the settings of a run, with every default
LABELS = "labels.json"  # the labels with which the run began, in the order of their numbers


def _claim(folder: Path, config: Config) -> Path:
    """Lock `folder`, or the first free one of its name if no folder was requested. Raises `UserError` if it is taken."""
    number = 1
    while config.run.dir is None:
        new = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            new.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return lock.claim(new)
    lock.claim(folder)
    if not config.run.resume:  # another run may have used the folder since the settings were read
        check_unused(folder)
    return folder


def check_unused(folder: Path, *, but_metrics: bool = False) -> None:
    """Raise `UserError` if `folder` contains a run; with `but_metrics`, a finished one (it can end before a checkpoint).

    A run writes its settings and labels first. If only one of these files exists, it is not a run's, and is kept, too.
    """
    if (folder / "metrics.jsonl").exists() and not but_metrics or (folder / "ticket").exists():
        raise UserError(f"run.dir: {folder} already holds a run; choose another folder, or continue it with --run.resume")
    ours = [path for path in (folder / CONFIG, folder / LABELS) if path.exists()]
    if len(ours) == 1:
        raise UserError(f"run.dir: {ours[0]} would be overwritten; choose another folder")


def check_same_labels(folder: Path, labels: list[str]) -> None:
    """Raise `UserError` if the run in `folder` began with other labels, which runs of earlier versions do not record."""
    path = folder / LABELS
    if not path.exists():
        return
    known = read_json(path)
    if not isinstance(known, list) or not all(isinstance(label, str) for label in known):
        raise UserError(f"{path}: must hold a list of labels")
    if difference := differences(known, labels):
        raise UserError(f"run.resume: the run in {folder} {difference}; resume it with the data that it started with")


def _flat(record: Record, above: str = "") -> Record:
    flat: Record = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{key}/")
        else:
            flat[f"{above}{key}"] = value
    return flat


def start_accelerator(config: Config, folder: Path) -> Accelerator:
    """The `Accelerator` for this config: one CPU, one GPU or many processes, as the command was launched."""
    prepare_cpu(config.run.threads)
    loader = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.run.seed)
    AcceleratorState._reset_state()  # a second run in the same process may use another precision
    try:
        return Accelerator(
            mixed_precision=config.train.precision,
            gradient_accumulation_steps=config.train.accumulate,
            dataloader_config=loader,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
        )
    except ValueError as error:
        if "precision" in str(error):
            raise UserError(f"train.precision: {config.train.precision} does not work here: {error}") from error
        raise


def open_run(task: str, config: Config) -> Run:
    """Create the run that `config` describes; nothing is written before `Run.begin`.

    Raises `UserError` if the folder contains another run.
    """
    folder = run_folder(task, config)
    check_output_folder(folder, named="run.dir")
    check_trackers(chosen_trackers(config))
    begun = by_main(lambda: bool(Checkpoints(folder, keep=1).files()))
    if config.run.resume is True and not begun:
        raise UserError(f"run.resume: {folder} holds no checkpoint to continue from")
    resumes = bool(config.run.resume) and begun
    if resumes:
        check_same_experiment(folder, config, but_spread=True)
    elif config.run.dir is not None:
        check_unused(folder, but_metrics=config.run.resume == "auto")
    accelerator = start_accelerator(config, folder)
    if resumes:
        by_main(lambda: lock.claim(folder))  # before its last checkpoint is read
    return Run(task, folder, config, accelerator, resumes=resumes)


def run_folder(task: str, config: Config) -> Path:
    """`run.dir`, or a folder named after the current time of the first process, because clocks may differ."""
    return by_main(lambda: config.run.dir or Path("runs") / task / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")


_RUN_KEYS = ("seed", "rewind_epoch", "tickets_at", "keep_best")  # the only keys of the `run` section that change what is drawn
_SPREAD_KEYS = ("batch_size", "accumulate")  # of the `train` section: how the images of an update are spread


def check_same_experiment(folder: Path, config: Config, *, but_spread: bool = False) -> None:
    """Raise `UserError` if the run in `folder` had other settings, apart from where it writes and what it prints.

    With `but_spread`, the images of an update may be spread differently over processes and steps; see `images_per_update`.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    before = load_config(type(config), path).model_dump(mode="json")
    changed = [
        f"{section}.{key} ({before[section].get(key)} -> {value})"
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
        if value != before[section].get(key)
        and (section != "run" or key in _RUN_KEYS)
        and not (but_spread and section == "train" and key in _SPREAD_KEYS)
    ]
    if changed:
        raise UserError(
            f"run.dir: the run in {folder} had other settings: {', '.join(changed)}; "
            f"continue it with the same settings, or choose another folder"
        )
