"""Follows the exported graph of a network: the result of each node, how it is read, and when its memory becomes free."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from supertickets.deploy.engine.program import Act, Ints, Op, Program
from supertickets.deploy.engine.sums import SumPlanner, as_sum
from supertickets.deploy.engine.values import Doubles, Room, Sum, Value
from supertickets.errors import UserError

Found: TypeAlias = "Tensor | Value | Sum | list[Value | Sum] | None"
Rule: TypeAlias = Callable[..., Found]  # called with the planner and the operation's arguments
OTHER = "export it as onnx, openvino or torch"
CHANNELS = {"cat", "item", "chunk", "split", "split_with_sizes", "slice", "view", "reshape", "transpose", "clone", "alias"}


class GraphPlanner:
    """Plans `exported` for one image (3, *size) with `rules`, one for each kind of operation."""

    def __init__(self, exported: torch.export.ExportedProgram, size: tuple[int, int], rules: Mapping[str, Rule]) -> None:
        self.nodes, self.rules = list(exported.graph.nodes), rules
        self.program = Program()
        self.room = Room(self.program, max([1, *map(reach, self.nodes)]))
        self.found: dict[fx.Node, Found] = {}
        self.node = self.nodes[0]  # the node that is being planned
        self.image = Value(np.zeros(3, np.int64), *size, size[1], ())
        self.sums = SumPlanner(self.room, self.image)
        self.constants = {**exported.state_dict, **exported.constants}
        self.inputs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        self.last = {argument: node for node in self.nodes for argument in node.all_input_nodes}

    def run(self) -> None:
        """Plan all operations into `program`."""
        for node in self.nodes:
            self.node = node
            if node.op == "placeholder":
                spec = self.inputs[node.name]
                self.found[node] = self.image if spec.kind == InputKind.USER_INPUT else self.constants[str(spec.target)]
            elif node.op == "output":
                (result,) = node.args[0]
                self.output(self.read(result))
            else:
                self.found[node] = self.apply()
                for one in {*node.all_input_nodes, node}:
                    if self.last.get(one, node) is node:
                        self.forget(one)

    def apply(self) -> Found:
        """The result of the current node's operation."""
        name = name_of(self.node)
        rule = self.rules.get(name)
        if rule is None:
            raise self.refusal(name)
        return rule(self, *self.node.args, **self.node.kwargs)

    def refusal(self, what: str) -> UserError:
        """The error that names the current module and the operation that the engine does not support."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        where = f"{stack[-1][0]}: " if stack and stack[-1][0] else ""
        return UserError(f"{where}the engine has no {what}; {OTHER}")

    def forget(self, node: fx.Node) -> None:
        """Release the node's result, because no later operation reads it."""
        found = self.found.pop(node, None)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, Value | Sum) and one is not self.image:
                one.drop()

    def read(self, node: object) -> Value:
        """The node's map, computed."""
        assert isinstance(node, fx.Node)
        found = self.found[node]
        if isinstance(found, Sum):
            found = self.found[node] = self.sums.compute(found, Act.NONE, self.wanted(node))
        if found is self.image:
            found = self.found[node] = self.sums.padded(self.image)
        if not isinstance(found, Value):
            raise self.refusal(f"{name_of(self.node)} of constants")
        return found

    def take(self, node: object) -> Sum:
        """The node's result as a sum to continue with; if nothing else reads it, the sum itself is passed on."""
        assert isinstance(node, fx.Node)
        found = self.found[node]
        if isinstance(found, Sum) and len(node.users) == 1:
            self.found[node] = None
            return found
        return as_sum(self.read(node))

    def wanted(self, node: fx.Node) -> set[str]:
        """How the node is read: "zeros" (taps with zeros around the map), "split" (stride 2), "plain" (everything else)."""
        found = set()
        for user in node.users:
            name = name_of(user)
            if name == "conv2d":
                _, taps, stride = conv_of(user)
                found.add("split" if stride == 2 else "zeros" if taps > 1 else "plain")
            elif name == "pad":
                found |= self.wanted(user)
            elif name in CHANNELS:
                found |= self.wanted(user) | {"plain"}
            else:
                found.add("plain")
        return found

    def unpadded(self, x: fx.Node) -> Value:
        """The map that a conv reads; a padding operation before it becomes part of the conv."""
        return self.image if self.found[x] is self.image else self.read(x)

    def part(self, value: Value, planes: Ints) -> Value:
        """Some of a map's channels, or all of them in another order."""
        return replace(value, planes=planes, split=None, users=0).hold()

    def output(self, value: Value) -> None:
        """The output of the program."""
        runs = list(value.runs())
        if len(runs) > 1 or value.planes.size == 1:
            value = self.sums.compute(as_sum(value), Act.NONE, {"plain"})
            runs = list(value.runs())
        ((_, run),) = runs
        self.program.op(Op.OUTPUT, run.start, run.plane, run.channels, run.h, run.w, run.pitch)
        self.program.output_shape = (run.channels,) if value.flat else (run.channels, run.h, run.w)

    def numbers(self, node: fx.Node) -> Doubles:
        """A parameter's values."""
        found = self.found[node]
        if not isinstance(found, Tensor):
            raise self.refusal(f"{name_of(self.node)} whose weights are computed")
        return found.detach().double().numpy()

    def is_constant(self, node: object) -> bool:
        """Whether a node is a parameter."""
        return isinstance(node, fx.Node) and isinstance(self.found[node], Tensor)

    def shape(self) -> Sequence[int]:
        """The shape of the current tensor."""
        return tuple(self.node.meta["val"].shape)


def name_of(node: fx.Node) -> str:
    """The operation's name, such as conv2d."""
    return "item" if node.target is operator.getitem else str(getattr(node.target, "_opname", node.target))


def given_to(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operation by name, including those with default values."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return defaults | dict(zip((argument.name for argument in arguments), node.args, strict=False)) | dict(node.kwargs)


def conv_of(node: fx.Node) -> tuple[tuple[int, int], int, int]:
    """For a conv: the padding above and on the left, including a padding operation before it; its taps' places; its stride."""
    given = given_to(node)
    top, left = (0, 0) if isinstance(given["padding"], str) else given["padding"]
    if name_of(given["input"]) == "pad":
        amounts = given["input"].args[1]
        top, left = top + amounts[2], left + amounts[0]
    return (top, left), int(np.prod(given["weight"].meta["val"].shape[2:])), given["stride"][0]


def reach(node: fx.Node) -> int:
    """The distances of a conv's taps from an output position, in columns or rows of the map that it reads (possibly split)."""
    if name_of(node) != "conv2d":
        return 0
    (top, left), _, stride = conv_of(node)
    given = given_to(node)
    (height, width), (down, across) = given["weight"].meta["val"].shape[2:], given["dilation"]
    ends = (-top, -left, (height - 1) * down - top, (width - 1) * across - left)
    return max(abs(end // min(stride, 2)) for end in ends)
