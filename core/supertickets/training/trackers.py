"""TensorBoard and other experiment trackers to which a run logs its figures, through Accelerate."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from supertickets.config.sections import Config
from supertickets.errors import UserError

PACKAGES = {"comet_ml": "comet-ml"}  # packages whose name differs from that of the tracker
_RUN_NAME = {"wandb": "name", "mlflow": "run_name"}  # the argument that names a run


def chosen_trackers(config: Config) -> list[str]:
    """The trackers that the config requests, without duplicates."""
    return list(dict.fromkeys([*(["tensorboard"] if config.run.tensorboard else []), *config.run.trackers]))


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UserError`, naming the package, for a tracker whose package is not installed."""
    available = [str(tracker.value) for tracker in get_available_trackers()]
    for name in names:
        if name not in available:
            raise UserError(
                f"run.trackers: {name} is not installed: pip install {PACKAGES.get(name, name)} "
                f"(installed: {', '.join(available) or 'none'})"
            )


def start_trackers(accelerator: Accelerator, names: Sequence[str], *, task: str, run: str, config: Config) -> None:
    """Start the trackers of a run; TensorBoard's files go to the run's folder `tensorboard/`.

    The others get the project `supertickets-TASK`, the name of the run and all of its settings.
    """
    started = []
    for name in names:
        accelerator.log_with, accelerator.trackers = [name], []  # Accelerate would otherwise start the existing ones again
        if name == "tensorboard":
            accelerator.init_trackers("tensorboard")
        else:
            options = {name: {_RUN_NAME[name]: run}} if name in _RUN_NAME else {}
            accelerator.init_trackers(f"supertickets-{task}", config=_flat(config), init_kwargs=options)
        started += accelerator.trackers
    accelerator.trackers = started


def _flat(config: Config) -> dict[str, str | int | float | bool]:
    """All settings by dotted key; values that are not numbers become text, as trackers require."""
    flat = {
        f"{name}.{key}": value for name, section in config.model_dump(mode="json").items() for key, value in section.items()
    }
    return {key: value if isinstance(value, int | float) else str(value) for key, value in flat.items()}
