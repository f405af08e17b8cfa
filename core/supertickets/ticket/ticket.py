"""The ticket: a small architecture, a sparse mask and working weights. Stages exchange tickets and nothing else.

A ticket is a folder with two files: `ticket.json` (its description) and `ticket.safetensors` (its tensors). For pruned layers,
only the kept values and a bit-packed mask are stored, concatenated in the order of the network that the arch describes, so the
file gets smaller with sparsity. Nothing is pickled, and every byte is covered by a checksum.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from supertickets.config.sections import Config
from supertickets.errors import UserError, first_line
from supertickets.files import named, put_in_place, read_json
from supertickets.names import are_made_up, differences
from supertickets.networks.arch import Arch
from supertickets.networks.body import BodyArch
from supertickets.networks.build import build_net, read_arch
from supertickets.networks.library import library_version
from supertickets.networks.network import Network
from supertickets.pictures import Pictures, open_pictures
from supertickets.pruning.mask import Mask, apply_mask, sparsity
from supertickets.task import Task, load_task
from supertickets.ticket.fingerprint import agrees, fingerprint
from supertickets.ticket.hub import FILES, push, ticket_folder
from supertickets.ticket.limits import JSON_BYTES, TENSOR_BYTES, check_arch, check_net, check_plain, check_size
from supertickets.ticket.packing import pack, stored, unpack
from supertickets.types import JsonObject

FORMAT = 1
_FIELDS = {
    "task": str,
    "settings": dict,
    "arch": dict,
    "metrics": dict,
    "provenance": dict,
    "masked": list,
    "tensors_sha256": str,
    "sha256": str,
}


@dataclass
class Ticket:
    """A drawn network as data: `tensors` is its whole state, with masked entries zero; `mask` is empty for a dense network."""

    task: str
    settings: JsonObject
    arch: Arch
    tensors: dict[str, Tensor]
    mask: Mask = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    provenance: JsonObject = field(default_factory=dict)

    @classmethod
    def from_net(
        cls,
        net: Network,
        task: Task,
        *,
        metrics: Mapping[str, object],
        mask: Mapping[str, Tensor] | None = None,
        config: Config | None = None,
        supernet_costs: Mapping[str, float] | None = None,
    ) -> Ticket:
        """Create the ticket of a network in its final state. Raises `ValueError` if a masked weight is not zero."""
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in stored(net).items()}
        on_cpu = {name: kept.cpu() for name, kept in (mask or {}).items()}
        for name, kept in on_cpu.items():
            if torch.count_nonzero(tensors[name][~kept]):
                raise ValueError(f"{name} has nonzero weights that its mask removes")
        provenance = {
            "version": version("supertickets"),
            "torch": torch.__version__,
            "config": config.model_dump(mode="json") if config else None,
            "seed": config.run.seed if config else None,
            "supernet": dict(supernet_costs or {}),
        }
        return cls(task.name, task.settings(), net.arch, tensors, on_cpu, dict(metrics), provenance)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Ticket:
        """The same ticket with other values, which are masked, and without metrics, as these belong to the original network."""
        own = {name: tensors[name].detach().cpu().contiguous().clone() for name in self.tensors}
        apply_mask(self.mask, own)
        return replace(self, tensors=own, metrics={})

    def load_task(self) -> Task:
        """The ticket's task, with the settings for which it was drawn."""
        return load_task(self.task, self.settings)

    def other_labels(self, labels: Sequence[str]) -> str:
        """A description of how `labels` differ from the ticket's; '' if they do not, or if the ticket knows no names."""
        own = self.load_task().labels
        return "" if are_made_up(own) and len(own) == len(labels) else differences(own, list(labels))

    def build(self) -> Network:
        """Build the network, with dense weights and in eval mode: a plain module that is ready to run."""
        net = build_net(self.arch, self.load_task())
        net.load_state_dict(self.tensors, strict=False)
        return net.eval()

    def predict(self, pictures: Pictures, *, device: str | torch.device | None = None, **options: object) -> list[Any]:
        """Predict for pictures: returns one named tuple of arrays per picture, with the `names` of the classes or joints.

        `pictures` is a file, a folder or a pattern, a picture (`PIL.Image`, or an array (H, W, 3) uint8 RGB), or a list of
        them. Classification returns `label` and `shares` (C,), segmentation `labels` (H, W), and keypoints `joints` (N, J, 3)
        and `scores` (N,); for keypoints, `boxes=` are the persons' boxes (x, y, width, height) of each picture. `device`
        defaults to a GPU if there is one. Raises `UserError` for a picture that cannot be read, and for a task that does not
        return arrays.
        """
        task = self.load_task()
        if not hasattr(task, "predict_arrays"):
            raise UserError(f"the task {self.task} has no method predict_arrays, which Ticket.predict needs")
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        net = self.build().to(where).to(memory_format=torch.channels_last)
        return list(task.predict_arrays(net, open_pictures(pictures), **options))

    def compile(self, *, size: tuple[int, int] | None = None, threads: int = 1) -> Callable[[Any], Any]:
        """Compile the ticket for this machine with the sparse engine: a function of NumPy or torch images (B, 3, H, W) float32.

        `size` is the height and width in pixels (default: the task's size). The compiled file is kept in the user's cache
        folder and reused the next time. See `supertickets.engine.compile_ticket`, which raises `UserError` without a compiler
        and for a network that the engine cannot run.
        """
        # The engine depends on tickets, so it is imported when it is first used, like the names of the package itself.
        compiled: Callable[[Any], Any] = import_module("supertickets.engine").compile_ticket(self, size=size, threads=threads)
        return compiled

    @property
    def sparsity(self) -> float:
        """Zeroed prunable weights / prunable weights."""
        return sparsity(self.mask)

    def save(self, folder: str | Path) -> Path:
        """Write the whole folder; an existing ticket there is replaced.

        If the process is killed between the two files of a replaced ticket, `load` refuses the ticket, because the checksums do
        not agree.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        blob = save_tensors(pack(self.tensors, self.mask))
        about = {
            "format": FORMAT,
            "task": self.task,
            "settings": self.settings,
            "arch": self.arch.to_dict(),
            "metrics": self.metrics,
            "provenance": self.provenance,
            "masked": sorted(self.mask),
            "tensors_sha256": hashlib.sha256(blob).hexdigest(),
        }
        if isinstance(self.arch, BodyArch):
            about["fingerprint"] = fingerprint(self.build())
        about["sha256"] = _digest(about)
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as partial:
                (Path(partial) / "ticket.safetensors").write_bytes(blob)
                (Path(partial) / "ticket.json").write_text(json.dumps(about, indent=1) + "\n")
                folder.mkdir(exist_ok=True)
                for name in ("ticket.safetensors", "ticket.json"):
                    put_in_place(Path(partial) / name, folder / name)
        except OSError as error:
            raise named(error, folder) from error
        return folder

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, picture: str | Path | None = None
    ) -> str:
        """Upload the ticket with a model card to `owner/name`; returns the commit's URL. See `hub.push`.

        `picture` is shown on the card, for example a run's `pictures/curves.png` or an example of its predictions.
        """
        return push(self, repo_id, private=private, token=token, picture=picture)

    @classmethod
    def load(cls, folder: str | Path, *, revision: str | None = None) -> Ticket:
        """Read and check a ticket folder, or the hub's `owner/name` if there is no such folder.

        `revision` is a branch, tag or commit on the hub. Raises `UserError`, naming the file and the error in it, for a ticket
        that is not valid.
        """
        folder = ticket_folder(folder, revision=revision)
        json_file, tensor_file = (folder / name for name in FILES)
        about = _read_json(json_file)
        check_size(tensor_file, TENSOR_BYTES)
        try:
            blob = tensor_file.read_bytes()
        except OSError as error:
            raise UserError(f"{tensor_file}: {error.strerror}") from error
        if hashlib.sha256(blob).hexdigest() != about["tensors_sha256"]:
            raise UserError(f"{tensor_file}: damaged or not the file that belongs to {json_file.name} (its checksum differs)")
        try:
            packed = load_tensors(blob)
        except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:  # unknown types, odd shapes
            raise UserError(f"{tensor_file}: not readable as safetensors ({first_line(error)})") from error
        try:
            arch = read_arch(about["arch"])
        except (UserError, TypeError) as error:
            raise UserError(f"{json_file}: {error}") from error
        try:
            check_arch(arch, json_file)
        except UserError as error:
            raise UserError(str(error) if str(json_file) in str(error) else f"{json_file}: {error}") from error
        facts = {"metrics": about["metrics"], "provenance": about["provenance"]}
        ticket = cls(about["task"], about["settings"], arch, {}, **facts)
        ticket.tensors, ticket.mask = unpack(packed, _outline(ticket, json_file), about["masked"], tensor_file)
        if isinstance(arch, BodyArch):
            _check_outputs(ticket, arch, about.get("fingerprint"), json_file)
        return ticket


def _outline(ticket: Ticket, path: Path) -> nn.Module:
    """The ticket's network without its weights. Raises `UserError` if it cannot be built or does not fit in memory."""
    try:
        task = ticket.load_task()
        with torch.device("meta"):
            net = build_net(ticket.arch, task)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # sizes that PyTorch cannot handle
        raise UserError(f"{path}: no network can be built from its arch and settings ({first_line(error)})") from error
    check_net(net, task.input_shape, path)
    return net


def _check_outputs(ticket: Ticket, arch: BodyArch, known: object, path: Path) -> None:
    """Raise `UserError` if the library's body computes something else than when the ticket was written."""
    try:
        found = fingerprint(ticket.build())
    except (UserError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the network of its arch does not run ({first_line(error)})") from error
    if not isinstance(known, list) or not agrees(known, found):
        raise UserError(
            f"{path}: its outputs are not those that it was saved with: {arch.body} of {arch.library:.40} "
            f"differs from that of {library_version(arch.body)} here"
        )


def _digest(about: JsonObject) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> JsonObject:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a ticket is a folder with ticket.json and ticket.safetensors")
    check_size(path, JSON_BYTES)
    about = read_json(path)
    check_plain(about, path)
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: not a ticket (it has no 'format')")
    if about["format"] != FORMAT:
        raise UserError(
            f"{path}: format {about['format']!s:.40} is not known here (known: {FORMAT}); a newer version may read it"
        )
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(about.get(key), kind)]
    if wrong:
        raise UserError(f"{path}: not a ticket ('{wrong[0]}' is missing or not a {_FIELDS[wrong[0]].__name__})")
    if not all(isinstance(name, str) for name in about["masked"]):
        raise UserError(f"{path}: not a ticket ('masked' must list names of weights)")
    full = about["provenance"].get("supernet") or {}
    if not isinstance(full, dict) or not all(type(value) in (int, float) for value in full.values()):
        raise UserError(f"{path}: not a ticket ('provenance.supernet' must be numbers by name)")
    if not isinstance(about["provenance"].get("config") or {}, dict):
        raise UserError(f"{path}: not a ticket ('provenance.config' must be settings by name)")
    given = about.pop("sha256", None)
    if given != _digest(about):
        raise UserError(f"{path}: damaged or edited by hand (its checksum differs)")
    return about


def body_named_by(folder: Path | None) -> str | None:
    """The library's network from which the ticket in this folder was drawn; None for other tickets and without a folder."""
    arch = None if folder is None else Ticket.load(folder).arch
    return arch.body if isinstance(arch, BodyArch) else None
