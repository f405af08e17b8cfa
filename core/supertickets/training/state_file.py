"""The file of a training state: tensors in safetensors, everything else as JSON in its metadata, and a checksum over both.

The names in the file (`dormant`, `early`, `full`) are those of the first version, so that its checkpoints can still be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from supertickets.config.sections import Config, TrainConfig
from supertickets.errors import UserError
from supertickets.files import named, put_in_place
from supertickets.networks.build import read_arch
from supertickets.networks.network import Network
from supertickets.search.penalty import Penalty
from supertickets.task import Task
from supertickets.ticket.limits import JSON_BYTES, build_checked, check_plain, check_size
from supertickets.training.ema import averaged
from supertickets.training.optim import build_optimizer, load_named_state, named_state
from supertickets.training.randomness import random_state, set_random_state
from supertickets.training.start import searched_prefix
from supertickets.training.state import TrainState, Underway, place

FILE_BYTES = 64 * 2**30
PROCESS = "process_"  # followed by the number of a process: its own state of the current epoch
_FIELDS = {
    "arch": dict,
    "epoch": int,
    "step": int,
    "mask_held": bool,
    "penalty_z": float,
    "full": dict,
    "global_batch": int,
    "budget": dict,
    "scaler": dict,
}
_UNDERWAY = {
    "batches": int,
    "skipped_updates": int,
    "skipped_batches": int,
    "events": dict,
    "losses": dict,
    "seconds": float,
}


class Damaged(UserError):
    """Raised for a checkpoint that differs from what was written: truncated, changed or not a checkpoint at all."""


def save_state(state: TrainState, path: Path) -> None:
    """Write the state completely or not at all. Raises `OSError` with the name of the file."""
    groups: dict[str, Mapping[str, Tensor]] = {
        "net": state.net.state_dict(),
        "ema": state.ema,
        "mask": state.mask,
        "dormant": state.dormant_weights,
        "early": state.early_tensors,
        "penalty": state.penalty.weights,
        "taylor": state.taylor,
        "teacher": state.teacher.state_dict() if state.teacher else {},
        "optimizer": named_state(state.net, state.optimizer),
    }
    groups |= {f"{PROCESS}{number}": own for number, own in enumerate(state.underway.processes)}
    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, held in groups.items()
        for name, tensor in held.items()
    }
    about = {
        "arch": state.net.arch.to_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "mask_held": state.mask_held,
        "penalty_z": state.penalty.z,
        "full": state.supernet_costs,
        "global_batch": state.global_batch,
        "budget": state.budget,
        "full_counts": state.full_counts,
        "scaler": state.scaler,
        "teacher_arch": state.teacher.arch.to_dict() if state.teacher else None,
        "underway": {key: getattr(state.underway, key) for key in _UNDERWAY} | {"seconds": state.underway.elapsed()},
    }
    text = json.dumps(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata={"state": text, "sha256": digest_of(text, tensors)})
        put_in_place(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise named(error, path) if isinstance(error, OSError) else _as_os_error(error, path) from error


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """The system's message, without the text that safetensors adds: `I/O error: No space left on device (os error 28)`."""
    said = str(error).partition("I/O error: ")[2] or str(error)
    number = said.rpartition("(os error ")[2].rstrip(") ")
    return OSError(int(number) if number.isdigit() else 5, said.partition(" (os error")[0].strip(), str(path))


def digest_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the JSON, and of the names, types, shapes and bytes of all tensors in the order of their names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_state(path: Path, task: Task, config: Config, device: torch.device) -> TrainState:
    """Load the state that `save_state` wrote: the same network, companions and counters, bit for bit.

    Raises `Damaged` if the file is not as it was written, and `UserError` if it does not fit the task and the config.
    """
    about, tensors = read_state(path)
    try:
        return _restore(about, tensors, task, config, device, path)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise UserError(f"{path}: not a checkpoint of a {task.name} run with this config ({_reason(error)})") from error


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a checkpoint, compared with its checksum if it has one."""
    try:
        check_size(path, FILE_BYTES)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text = metadata["state"]
            # Cloned, because the file's memory map must not outlive it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if len(text) > JSON_BYTES:
            raise ValueError(f"its description has {len(text)} characters; at most {JSON_BYTES} are allowed")
        about = json.loads(text)
        check_plain(about, path)
        if not isinstance(about, dict):
            raise ValueError("it does not describe a run")
        if ("sha256" in metadata or "underway" in about) and metadata.get("sha256") != digest_of(text, tensors):
            raise ValueError("its checksum differs")
    except UserError as error:
        raise Damaged(str(error)) from error
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise Damaged(f"{path}: not a checkpoint, or damaged ({_reason(error)})") from error
    return about, tensors


def _restore(
    about: dict[str, Any], tensors: dict[str, Tensor], task: Task, config: Config, device: torch.device, path: Path
) -> TrainState:
    def group(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t.to(device) for key, t in tensors.items() if key.startswith(f"{name}/")}

    def network(arch: str, tensors: str) -> Network:
        net = build_checked(read_arch(about[arch]), task, path)
        net.load_state_dict(group(tensors))
        return place(net, config, device)

    _check_fields(about, _FIELDS)
    net = network("arch", "net")
    optimizer = build_optimizer(net, config.train)
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    held = [group(name) for name in ("ema", "mask", "dormant", "early")]
    for one in held:
        if unknown := one.keys() - shapes.keys():
            raise ValueError(f"the network has no tensor {sorted(unknown)[0]}")
    # In the network's order, which the file does not keep: the log lists densities in the order of the mask.
    ema, mask, dormant, early = ({name: one[name] for name in shapes if name in one} for one in held)
    for one in (ema, mask, dormant, early):
        if wrong := [name for name, tensor in one.items() if tensor.shape != shapes[name]]:
            raise ValueError(f"a tensor of {wrong[0]} has a different shape in the network")
    if any(kept.dtype != torch.bool for kept in mask.values()):
        raise ValueError("its mask has values other than true and false")
    load_named_state(net, optimizer, _checked_optimizer(group("optimizer"), shapes))
    if ema.keys() != averaged(net).keys() or (_needs_state(about, config.train) and not optimizer.state):
        raise ValueError("it lacks averaged weights or optimizer state")
    return TrainState(
        net,
        optimizer,
        ema,
        Penalty(group("penalty"), about["penalty_z"]),
        about["full"],
        prefix=searched_prefix(config.init),
        pattern=config.prune.pattern,
        mask=mask,
        mask_held=about["mask_held"],
        dormant_weights=dormant,
        early_tensors=early,
        taylor=group("taylor"),
        teacher=network("teacher_arch", "teacher").eval().requires_grad_(False) if about.get("teacher_arch") else None,
        epoch=about["epoch"],
        step=about["step"],
        global_batch=about["global_batch"],
        full_counts=_checked_counts(about.get("full_counts", {})),
        budget=about["budget"],
        scaler=about["scaler"],
        underway=_underway(about.get("underway", {}), tensors),
    )


def _check_fields(given: dict[str, Any], kinds: Mapping[str, type]) -> None:
    for key, kind in kinds.items():
        value = given[key]
        fits = type(value) in ((int, float) if kind is float else (kind,))
        if not fits or (kind in (int, float) and not 0 <= value < 2**53):
            raise ValueError(f"'{key}' is {value!s:.40}")
        if key in ("full", "budget") and not all(type(number) in (int, float) for number in value.values()):
            raise ValueError(f"'{key}' must hold numbers")


def _checked_counts(given: object) -> dict[str, int]:
    if not isinstance(given, dict) or not all(type(count) is int and 0 < count < 2**31 for count in given.values()):
        raise ValueError("'full_counts' must hold numbers of units")
    return given


def _checked_optimizer(state: dict[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    for path, tensor in state.items():
        name = path.rpartition("/")[0]
        if name not in shapes or tensor.shape not in (shapes[name], torch.Size([])):
            raise ValueError(f"the optimizer's state of {name} does not fit the network")
    return state


def _underway(about: dict[str, Any], tensors: dict[str, Tensor]) -> Underway:
    if not about:
        return Underway()  # from a version that saved only between epochs
    _check_fields(about, _UNDERWAY)
    processes: list[dict[str, Tensor]] = []
    while own := {
        name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{PROCESS}{len(processes)}/")
    }:
        processes.append(_checked_process(own))
    return Underway(**{key: about[key] for key in _UNDERWAY}, processes=processes)


def _checked_process(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `own` if its random states are valid and its sums are numbers."""
    here = random_state()
    try:
        for name, tensor in own.items():
            if name == "now" or name.startswith("loader_"):
                set_random_state(tensor.numpy().tobytes())
            elif tensor.numel() != 1 or not tensor.is_floating_point():
                raise ValueError(f"'{name}' of a process is not a number")
    finally:
        set_random_state(here)
    if missing := {"now", "loss"} - own.keys():
        raise ValueError(f"a process lacks '{missing.pop()}'")
    return own


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip()


def _needs_state(about: Mapping[str, Any], train: TrainConfig) -> bool:
    """Whether the optimizer must have state: not for plain SGD, and not as long as all updates have been skipped."""
    keeps = train.optimizer != "sgd" or train.momentum > 0
    return keeps and not about["scaler"] and about["step"] > about.get("underway", {}).get("skipped_updates", 0)
