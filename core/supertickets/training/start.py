"""Runs that start from the architecture, weights and mask of a ticket: retraining, controls and transfer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from supertickets.config.sections import ArchConfig, InitConfig
from supertickets.errors import UserError
from supertickets.networks.arch import Arch, resolve_arch
from supertickets.networks.body import BodyArch
from supertickets.networks.build import build_net
from supertickets.networks.network import Network
from supertickets.networks.supernet import prunable
from supertickets.pruning.mask import Mask, apply_mask
from supertickets.task import Task
from supertickets.ticket.ticket import Ticket

HEAD = "head."
REWIND = "rewind"  # folder of the early weights, itself a ticket, inside the ticket's folder
TRANSFER = "use python -m supertickets_transfer.transfer, which gives it a new head"
FROM_TARGET = ("stem_stride", "bn_momentum", "init")  # keys of `arch` that a transfer takes from the target's config
Value = TypeVar("Value")


def check_batch(net: nn.Module, input_shape: tuple[int, int, int], batch_size: int) -> None:
    """Raise `UserError` if a batch has only one value per channel in the coarsest feature map, on which BN cannot train."""
    if batch_size > 1:
        return
    values: list[int] = []  # number of values per channel, at each BN
    meta = copy.deepcopy(net).to("meta").eval()
    for module in meta.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, __: values.append(inputs[0][:, 0].numel()))
    meta(torch.empty(1, *input_shape, device="meta"))
    if min(values, default=2) < 2:
        raise UserError(
            "train.batch_size: 1 image gives the coarsest map (1x1) one value per channel, which BN cannot train on; "
            "use at least 2 images, or a larger data.size_px"
        )


def start_from_ticket(init: InitConfig, task: Task, *, arch: ArchConfig, seed: int) -> tuple[Network, Mask, dict[str, float]]:
    """The network to train, the mask that holds from the start (empty: none) and the full supernet's costs, if known.

    A transfer uses only those keys of `arch` that do not change the ticket's weights. Raises `UserError` for a ticket that does
    not fit the task.
    """
    assert init.ticket is not None
    ticket = Ticket.load(init.ticket)
    whole = init.part == "all"
    if whole:
        other_data = f"to retrain it, give the recipe of its own data; for other data, {TRANSFER}"
        hint = other_data if ticket.task == task.name else TRANSFER
        check_task(ticket, task, named=f"init.ticket: {init.ticket}", hint=hint)
    net = build_net(ticket.arch if whole else _body_of(ticket.arch, resolve_arch(arch)), task)
    if init.weights != "fresh":
        source = ticket if init.weights == "keep" else _rewound(ticket, init)
        tensors = {name: tensor for name, tensor in source.tensors.items() if whole or not name.startswith(HEAD)}
        net.load_state_dict(tensors, strict=False)
    mask = _start_mask(ticket, net, init, seed)
    apply_mask(mask, dict(net.named_parameters()))
    return net, mask, dict(ticket.provenance.get("supernet", {})) if whole else {}


def check_arch_keys(init: InitConfig, overrides: Sequence[str]) -> None:
    """Raise `UserError` for a key of `arch` on the command line that a run from a ticket would not use.

    Recipes may have a section `arch`, because a transfer uses the target's recipe.
    """
    if init.ticket is None:
        return
    used = FROM_TARGET if init.part == "body" else ()
    for word in overrides:
        key = word.split("=")[0].removeprefix("--arch.")
        if word.startswith("--arch.") and key not in used:  # other words may be values, such as the folder arch.runs
            others = f" (of arch, it takes {', '.join(used)})" if used else ""
            source = f"the ticket {init.ticket}{others}"
            raise UserError(f"arch.{key}: has no effect, because the network comes from {source}; remove it")


def check_task(ticket: Ticket, task: Task, *, named: str, hint: str) -> None:
    """Raise `UserError` for a ticket of another task or with other labels; `named` and `hint` begin and end the message."""
    if ticket.task != task.name:
        raise UserError(f"{named} is a {ticket.task} ticket, not a {task.name} one; {hint}")
    if difference := ticket.other_labels(task.labels):
        raise UserError(f"{named} {difference}; {hint}")


def _body_of(source: Arch, target: Arch) -> Arch:
    """The ticket's arch with a full head, and with the target's stem stride, BN momentum and initialisation.

    The weights do not depend on these three. BN's eps stays that of the ticket, because the weights do depend on it.
    """

    if isinstance(source, BodyArch):
        if source.own_head:
            raise UserError(f"init.part: a ticket with {source.body}'s own head (arch.own_head) gives no body to other runs")
        return source.body_alone()

    def body(numbers: dict[str, Value]) -> dict[str, Value]:
        return {name: value for name, value in numbers.items() if not name.startswith(HEAD)}

    changes = {name: getattr(target, name) for name in FROM_TARGET if name in type(source).model_fields}
    return source.model_copy(update=changes | {"units": body(source.units), "tokens_left": body(source.tokens_left)})


def _rewound(ticket: Ticket, init: InitConfig) -> Ticket:
    assert init.ticket is not None
    folder = init.ticket / REWIND
    if not folder.is_dir():
        raise UserError(f"init.weights: {init.ticket} holds no early weights; draw it with --run.rewind_epoch N")
    early = Ticket.load(folder)
    if early.arch != ticket.arch:
        raise UserError(f"init.weights: the early weights in {folder} belong to another architecture")
    return early


def _start_mask(ticket: Ticket, net: Network, init: InitConfig, seed: int) -> Mask:
    """A mask for all prunable weights, kept or shuffled; a new head is dense. Empty if there is nothing to mask."""
    if init.mask == "none" or not ticket.mask:
        return {}
    generator = torch.Generator().manual_seed(seed)
    mask: Mask = {}
    for name, weight in prunable(net).items():
        theirs = None if init.part == "body" and name.startswith(HEAD) else ticket.mask.get(name)
        kept = torch.ones(weight.shape, dtype=torch.bool) if theirs is None else theirs.clone()
        if init.mask == "shuffle":
            kept = kept.flatten()[torch.randperm(kept.numel(), generator=generator)].view(kept.shape)
        mask[name] = kept
    return mask


def searched_prefix(init: InitConfig) -> str:
    """The prefix of the names of units and weights to search and prune: in a transfer only the new head's, otherwise all."""
    return HEAD if init.part == "body" else ""


def is_frozen(name: str, init: InitConfig) -> bool:
    """Whether the parameter or module with this name is not trained."""
    return init.freeze == "body" and not name.startswith(HEAD)
