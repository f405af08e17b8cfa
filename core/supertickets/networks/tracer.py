"""Follows channels through the operations of one forward pass: one rule for each kind of operation.

Channels that meet an operation without a rule stay, because its effect on them is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from supertickets.networks.channels import NO_GATES, Channels, Signal, Signals
from supertickets.networks.operations import Step, along, compressed, gives_zero

_CONVS = {"conv2d", "convolution", "_convolution"}
_NORMS = {"batch_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"}
_POOLS = {
    *("max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d"),
    *("_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
_VIEWS = {"view", "_unsafe_view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "movedim"}
_PARTS = {"split", "split_with_sizes", "chunk", "slice", "select", "narrow", "unbind"}
_POINTWISE = {"hardswish", "hardswish_", "native_dropout", "clone", "contiguous", "detach", "alias", "_to_copy", "lift_fresh"}
_MEANS = {"mean", "sum", "amax"}


class Tracer(TorchDispatchMode):
    """Follows the channels through one forward pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.channels = Channels()
        self.names = {id(tensor): name for name, tensor in (*net.named_parameters(), *net.named_buffers())}
        self.signals: dict[int, Signals] = {}  # by the tensor's id; `alive` prevents ids from being reused
        self.alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        rule = _rule_of(name, func)
        if rule is None:
            with self:  # a composite operation is followed step by step
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.alive += [*tree_leaves((args, kwargs)), *tree_leaves(out)]
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        step = Step(name, func, args, kwargs, given, [t for t in tree_leaves(out) if isinstance(t, Tensor)])
        (rule or Tracer.unknown)(self, step)
        return out

    def of(self, tensor: object) -> Signals | None:
        """The signals of a tensor; None for one without channels."""
        return self.signals.get(id(tensor))

    def put(self, tensor: Tensor, signals: Signals) -> None:
        """Attach these signals to the tensor."""
        self.alive.append(tensor)
        self.signals[id(tensor)] = signals

    def keep(self, tensor: object, why: str) -> None:
        """Record that the tensor's channels stay in the network."""
        signals = self.of(tensor)
        if signals is not None:
            self.channels.keep(signals.ravel().tolist(), why)

    def row(self, tensor: Tensor, dim: int) -> list[int] | None:
        """The signal at each index along `dim`; None if there are none, or if they also change along another dimension."""
        signals = self.of(tensor)
        if signals is None:
            return None
        if signals.size != signals.shape[dim]:
            self.keep(tensor, "channels in another dimension")
            return None
        if signals.size == 1 < tensor.shape[dim]:
            self.keep(tensor, "one channel spread over many")
            return None
        return signals.ravel().tolist()

    def cut(self, tensors: Iterable[object], dim: int, signals: list[int]) -> None:
        """Record that these channels lie along `dim` of parameters and buffers; if one is computed in forward, they stay."""
        present = [tensor for tensor in tensors if tensor is not None]
        names = tuple(self.names.get(id(tensor), "") for tensor in present)
        if not all(names):
            self.channels.keep(signals, "a weight that is computed")
        elif names:
            self.channels.cut(names, dim, signals)

    def unknown(self, step: Step) -> None:
        """An operation without a rule: all channels of its inputs stay."""
        for tensor in step.tensors:
            self.keep(tensor, step.name)

    def conv(self, step: Step) -> None:
        """Reads channels and makes new ones; a depthwise or grouped conv connects those of each group."""
        x, weight, groups = step.given["input"], step.given["weight"], step.given.get("groups", 1)
        bias, transposed = step.given.get("bias"), step.given.get("transposed", False)
        row, out = self.row(x, 1), step.outs[0]
        if groups == 1 or row is None:
            made = self.channels.new(out.shape[1])
            if row is not None:
                self.channels.read(row)
                self.cut([weight], 0 if transposed else 1, row)
            if groups > 1:
                self.channels.keep(made, "a grouped conv of unknown channels")
        else:
            made = self._grouped(row, groups, out.shape[1], gated=bias is None)
            if transposed:
                self.channels.keep(made, "a grouped transposed conv")
        if transposed and groups == 1:
            self.cut([weight], 1, made)
            self.cut([bias], 0, made)
        else:
            self.cut([weight, bias], 0, made)
        self.put(out, along(made, 1, out.ndim))

    def _grouped(self, row: list[int], groups: int, count: int, *, gated: bool) -> list[int]:
        """The `count` outputs of a grouped conv: the input and output channels of each group are merged into one."""
        size, made = len(row) // groups, []
        for start in range(0, len(row), size):
            signal = self.channels[row[start]]
            for other in row[start + 1 : start + size]:
                self.channels.unite(signal.channel, self.channels[other].channel)
            gates = signal.gates if gated and size == 1 else NO_GATES
            made += [self.channels.number(Signal(signal.channel, gates))] * (count // groups)
        return made

    def linear(self, step: Step) -> None:
        """Reads channels of the last dimension and makes new ones."""
        x, weight, out = step.given["input"], step.given["weight"], step.outs[0]
        row, made = self.row(x, x.ndim - 1), self.channels.new(out.shape[-1])
        if row is not None:
            self.channels.read(row)
            self.cut([weight], 1, row)
        self.cut([weight, step.given.get("bias")], 0, made)
        self.put(out, along(made, out.ndim - 1, out.ndim))

    def norm(self, step: Step) -> None:
        """BN: its scale is the gate of each channel after it."""
        x, weight = step.given["input"], step.given.get("weight")
        row, name = self.row(x, 1), self.names.get(id(weight))
        if row is None:
            return
        self.cut([step.given.get(key) for key in ("weight", "bias", "running_mean", "running_var")], 0, row)
        gates = [NO_GATES if name is None else frozenset({(name, i)}) for i in range(len(row))]
        made = [self.channels.number(Signal(self.channels[n].channel, gate)) for n, gate in zip(row, gates, strict=True)]
        self.put(step.outs[0], along(made, 1, x.ndim))

    def pool(self, step: Step) -> None:
        """Works on each channel separately, and maps zeros to zeros."""
        x = step.tensors[0]
        if (row := self.row(x, 1)) is None:
            return
        if step.given.get("value") or step.outs[0].shape[1] != x.shape[1]:
            self.keep(x, step.name)
            return
        for out in step.outs:
            self.put(out, along(row, 1, out.ndim))

    def concatenate(self, step: Step) -> None:
        """Concatenates channels."""
        parts, out = list(step.given["tensors"]), step.outs[0]
        dim = step.given.get("dim", 0) % out.ndim
        rows = [self.row(part, dim) for part in parts]
        if any(row is None for row in rows):
            for part in parts:
                self.keep(part, "a concatenation with unknown channels")
            return
        self.put(out, along([number for row in rows for number in row or ()], dim, out.ndim))

    def rearrange(self, step: Step) -> None:
        """Views: the operation is applied to the numbers. If channels then change along two dimensions, they stay."""
        x = step.tensors[0]
        signals = self.of(x)
        if signals is None:
            return
        whole = torch.from_numpy(np.broadcast_to(signals, tuple(x.shape)).copy())
        moved = compressed(step.func(whole, *step.args[1:], **step.kwargs).numpy())
        if sum(length > 1 for length in moved.shape) > 1 or (moved.size == 1) != (signals.size == 1):
            self.keep(x, "a view that takes channels apart")
            return
        self.put(step.outs[0], moved)

    def take_part(self, step: Step) -> None:
        """A part of a tensor: its size is fixed in the code, so channels stay unless all of them are taken."""
        x = step.tensors[0]
        signals = self.of(x)
        if signals is None:
            return
        for out in step.outs:
            if out.ndim != x.ndim or any(n > 1 and n != out.shape[dim] for dim, n in enumerate(signals.shape)):
                self.keep(x, "a part of the channels")
                return
        for out in step.outs:
            self.put(out, signals)

    def average(self, step: Step) -> None:
        """Reductions over all positions of each channel; if they also reduce over channels, the channels stay."""
        x = step.tensors[0]
        signals, dims = self.of(x), step.given.get("dim")
        if signals is None:
            return
        over = {d % x.ndim for d in ([dims] if isinstance(dims, int) else dims or range(x.ndim))}
        if x.ndim < 3 or any(signals.shape[dim] > 1 for dim in over) or 1 in over:
            self.keep(x, f"{step.name} over channels")
            return
        rest = [size for dim, size in enumerate(signals.shape) if dim not in over]
        self.put(step.outs[0], signals if step.given.get("keepdim") else signals.reshape(rest))

    def combine(self, step: Step) -> None:
        """A pointwise operation: channels that meet are merged; the result is zero if the operation makes it zero."""
        ndim = max(out.ndim for out in step.outs)
        carried = {i: signals for i, tensor in enumerate(step.tensors) if (signals := self.of(tensor)) is not None}
        padded = {i: signals.reshape([1] * (ndim - signals.ndim) + list(signals.shape)) for i, signals in carried.items()}
        if not padded:
            return
        shape = max((s.shape for s in padded.values()), key=max)
        full = [i for i, s in padded.items() if s.shape == shape]
        for i, s in padded.items():
            if i not in full and s.size > 1:
                return self.unknown(step)
            if i not in full:
                self.keep(step.tensors[i], "one channel spread over many")
        dims = [dim for dim in range(ndim) if shape[dim] > 1]
        for i, tensor in enumerate(step.tensors):
            if i not in padded and any(tensor.ndim >= ndim - dim and tensor.shape[dim - ndim] > 1 for dim in dims):
                return self.unknown(step)  # a value of its own for each channel
        alone, together = [gives_zero(step, {i}) for i in full], gives_zero(step, set(full))
        columns = zip(*(padded[i].ravel().tolist() for i in full), strict=True)
        made = [self._together([self.channels[n] for n in column], alone, together) for column in columns]
        for out in step.outs:
            self.put(out, np.array(made).reshape(shape[ndim - out.ndim :]))

    def _together(self, signals: list[Signal], alone: list[bool], together: bool) -> int:
        """The signal of channels that meet: zero if one with `alone` is zero or, with `together`, if all are zero."""
        for other in signals[1:]:
            self.channels.unite(signals[0].channel, other.channel)
        gates = [signal.gates for signal, enough in zip(signals, alone, strict=True) if enough and signal.gates]
        if not gates and together and all(signal.gates for signal in signals):
            gates = [signal.gates for signal in signals]
        return self.channels.number(Signal(signals[0].channel, NO_GATES.union(*gates)))


Rule: TypeAlias = Callable[[Tracer, Step], None]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_CONVS, Tracer.conv),
    "linear": Tracer.linear,
    **dict.fromkeys(_NORMS, Tracer.norm),
    **dict.fromkeys(_POOLS, Tracer.pool),
    **dict.fromkeys(("cat", "concat"), Tracer.concatenate),
    **dict.fromkeys(_VIEWS, Tracer.rearrange),
    **dict.fromkeys(_PARTS, Tracer.take_part),
    **dict.fromkeys(_MEANS, Tracer.average),
    **dict.fromkeys(_POINTWISE, Tracer.combine),
}


def _rule_of(name: str, func: Any) -> Rule | None:
    """The rule for the effect of an operation on channels; None if it is not known."""
    return _RULES.get(name) or (Tracer.combine if torch.Tag.pointwise in func.tags else None)
