"""Taylor importance: how much the loss would change without a unit, to first order, averaged over the updates.

    T_i <- decay T_i + (1 - decay) (gamma_i dL/dgamma_i + beta_i dL/dbeta_i)^2

Molchanov et al., arXiv 1906.10771. It is comparable across layers and also meaningful for trained networks, unlike |gamma|. It
is stored by gate's name, with one number per BN channel, so that a shrink slices it like any other tensor of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

import torch
from torch import Tensor, nn

DECAY = 0.99  # per update, so the average covers about a hundred updates


@torch.no_grad()
def note_taylor(
    taylor: MutableMapping[str, Tensor], net: nn.Module, gates: Iterable[str], *, decay: float = DECAY, overflows: bool = False
) -> None:
    """Update the averages of `gates` in place from the gradients of the training loss, which are clipped but without penalty.

    With `overflows`, gradients may be infinite, as with the loss scale of fp16; the averages then stay as they are.
    """
    params = dict(net.named_parameters())
    pairs = [(gate, params[gate], params[f"{gate.removesuffix('weight')}bias"]) for gate in gates]
    pairs = [(gate, scale, shift) for gate, scale, shift in pairs if scale.grad is not None and shift.grad is not None]
    if not pairs:
        return
    grads = [(scale.grad, shift.grad) for _, scale, shift in pairs if scale.grad is not None and shift.grad is not None]
    changes = torch._foreach_mul([scale.detach() for _, scale, _ in pairs], [grad for grad, _ in grads])
    torch._foreach_addcmul_(changes, [shift.detach() for _, _, shift in pairs], [grad for _, grad in grads])
    torch._foreach_mul_(changes, list(changes))
    if overflows:
        finite = torch.stack(torch._foreach_norm(changes)).isfinite().all()
        old = [taylor.get(gate, torch.zeros_like(change)) for (gate, _, _), change in zip(pairs, changes, strict=True)]
        changes = tuple(torch.where(finite, change, kept) for change, kept in zip(changes, old, strict=True))
    for (gate, _, _), change in zip(pairs, changes, strict=True):
        if gate not in taylor:
            taylor[gate] = change.clone()
    torch._foreach_lerp_([taylor[gate] for gate, _, _ in pairs], list(changes), 1 - decay)
