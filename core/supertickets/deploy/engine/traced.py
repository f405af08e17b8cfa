"""From a network of a library to the engine's program: one rule for each operation of its exported graph.

Convs, BN, sums, concatenations and whatever else is linear and local become taps of one `Sum`, which is computed where an
activation or an operation that needs its values asks for it. So BN is folded, a residual sum costs one tap, and branches that
meet in a sum (RepVGG) are one conv.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from supertickets.deploy.engine.program import Act, Ints, Op, Program
from supertickets.deploy.engine.resizing import nearest, resize, resize_bilinear
from supertickets.deploy.engine.sums import SumPlanner, as_sum
from supertickets.deploy.engine.values import Doubles, Room, Sum, Term, Value
from supertickets.errors import UserError

Found: TypeAlias = "Tensor | Value | Sum | list[Value | Sum] | None"
OTHER = "export it as onnx, openvino or torch"


def plan_traced(net: nn.Module, size: tuple[int, int]) -> Program:
    """The program of `net` in eval mode for one image (3, *size) float32.

    Raises `UserError` naming the module and the operation that the engine does not have.
    """
    try:
        with torch.no_grad():
            exported = torch.export.export(net, (torch.zeros(1, 3, *size),)).run_decompositions({})
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{type(net).__name__}: cannot be exported as a graph for {size[0]}x{size[1]} pixels: {reason}"
        ) from error
    planner = _Planner(exported, size)
    planner.run()
    return planner.program


class _Planner:
    def __init__(self, exported: torch.export.ExportedProgram, size: tuple[int, int]) -> None:
        self.nodes = list(exported.graph.nodes)
        self.program = Program()
        self.room = Room(self.program, max([1, *map(_reach, self.nodes)]))
        self.found: dict[fx.Node, Found] = {}
        self.node = self.nodes[0]  # the one that is planned
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
        """What the operation of the node at hand gives."""
        name = _name(self.node)
        rule = RULES.get(name)
        if rule is None:
            raise self.refusal(name)
        return rule(self, *self.node.args, **self.node.kwargs)

    def refusal(self, what: str) -> UserError:
        """The error that names the module at hand and what the engine does not have."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        where = f"{stack[-1][0]}: " if stack and stack[-1][0] else ""
        return UserError(f"{where}the engine has no {what}; {OTHER}")

    def forget(self, node: fx.Node) -> None:
        """No later operation reads what the node gives."""
        found = self.found.pop(node, None)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, Value | Sum) and one is not self.image:
                one.drop()

    # Reading and computing -----------------------------------------------------------------------------------------------

    def read(self, node: object) -> Value:
        """The node's map, computed."""
        assert isinstance(node, fx.Node)
        found = self.found[node]
        if isinstance(found, Sum):
            found = self.found[node] = self.sums.compute(found, Act.NONE, self.wanted(node))
        if found is self.image:
            found = self.found[node] = self.sums.padded(self.image)
        if not isinstance(found, Value):
            raise self.refusal(f"{_name(self.node)} of constants")
        return found

    def take(self, node: object) -> Sum:
        """What the node gives as a sum to go on with; one that nothing else reads is handed over."""
        assert isinstance(node, fx.Node)
        found = self.found[node]
        if isinstance(found, Sum) and len(node.users) == 1:
            self.found[node] = None
            return found
        return as_sum(self.read(node))

    def wanted(self, node: fx.Node) -> set[str]:
        """What reads the node: "zeros" (taps with zeros around the map), "split" (stride 2), "plain" (all else)."""
        found = set()
        for user in node.users:
            name = _name(user)
            if name == "conv2d":
                _, taps, stride = _conv_of(user)
                found.add("split" if stride == 2 else "zeros" if taps > 1 else "plain")
            elif name == "pad":
                found |= self.wanted(user)
            elif name in _CHANNELS:
                found |= self.wanted(user) | {"plain"}
            else:
                found.add("plain")
        return found

    # Rules: what each operation gives ------------------------------------------------------------------------------------

    def conv2d(
        self,
        x: fx.Node,
        weight: fx.Node,
        bias: fx.Node | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] | str = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Sum:
        (top, left), _, step = _conv_of(self.node)
        value, kernel = self.unpadded(x), self.numbers(weight)  # (O, I / groups, k, k)
        h, w = self.shape()[-2:]
        if step > 2 or (h, w) != (-(-value.h // step), -(-value.w // step)) or len(set(stride)) > 1 or isinstance(padding, str):
            raise self.refusal(f"conv of stride {list(stride)} from {value.h}x{value.w} to {h}x{w} pixels")
        o, i, ky, kx = np.nonzero(kernel)
        dy, dx = ky * dilation[0] - top, kx * dilation[1] - left
        channel = o // (len(kernel) // groups) * kernel.shape[1] + i
        if step == 2:
            source = self.sums.split(value, cleared=kernel[0, 0].size > 1).hold()
            shift = (2 * (dy % 2) + dx % 2) * source.phase + dy // 2 * source.pitch + dx // 2
        else:
            near = kernel[0, 0].size == 1 and not top and not left
            source = value.hold() if near and value is not self.image else self.sums.padded(value)
            shift = dy * source.pitch + dx
        pointwise = step == 1 and kernel[0, 0].size == 1
        term = Term(o, source, channel, shift, kernel[o, i, ky, kx], pointwise)
        offset = np.zeros(len(kernel)) if bias is None else self.numbers(bias)
        return Sum(offset, [term], h, w, alone=kernel.shape[1] == 1 and groups > 1)

    def linear(self, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Sum:
        value, matrix = self.read(x), self.numbers(weight)
        if not value.flat or value.planes.shape != matrix.shape[1:]:
            raise self.refusal("linear layer on a map")
        o, i = np.nonzero(matrix)
        offset = np.zeros(len(matrix)) if bias is None else self.numbers(bias)
        term = Term(o, value.hold(), i, np.zeros_like(i), matrix[o, i], True)
        return Sum(offset, [term], 1, 1, alone=False, flat=True)

    def norm(
        self, x: fx.Node, weight: fx.Node | None, bias: fx.Node | None, mean: fx.Node, var: fx.Node, _: float, eps: float
    ) -> list[Value | Sum]:
        scale = 1 / np.sqrt(self.numbers(var) + eps)
        scale = scale if weight is None else scale * self.numbers(weight)
        shift = (0 if bias is None else self.numbers(bias)) - scale * self.numbers(mean)
        return [self.take(x).scaled(scale, shift)]

    def add(self, x: object, y: object, alpha: float = 1) -> Sum:
        if not isinstance(y, fx.Node):
            return self.take(x).scaled(np.array(1.0), np.array(float(y) * alpha))  # type: ignore[arg-type]
        if self.is_constant(x) or self.is_constant(y):
            raise self.refusal("sum with a parameter")
        if x is y:
            return self.take(x).scaled(np.array(1.0 + alpha), np.array(0.0))
        first, second = self.take(x), self.take(y)
        if (first.h, first.w, len(first.bias)) != (second.h, second.w, len(second.bias)):
            raise self.refusal("sum of maps of two sizes")
        return first.plus(second if alpha == 1 else second.scaled(np.array(float(alpha)), np.array(0.0)))

    def mul(self, x: object, y: object) -> Value | Sum:
        if not isinstance(y, fx.Node):
            return self.take(x).scaled(np.array(float(y)), np.array(0.0))  # type: ignore[arg-type]
        if self.is_constant(x) or self.is_constant(y):
            raise self.refusal("product with a parameter")
        value, factors = self.read(x), self.read(y)
        if value.h * value.w < factors.h * factors.w:
            value, factors = factors, value
        if (factors.h, factors.w) != (1, 1) or value.planes.shape != factors.planes.shape:
            raise self.refusal("product of two maps")
        out = self.room.plain(value.planes.shape, value.h, value.w).hold()
        for first, part in value.runs():
            some = replace(factors, planes=factors.planes[first : first + part.channels])
            for at, by in some.runs():
                to = int(out.planes[first + at])
                plane = int(out.planes[1] - out.planes[0]) if len(out.planes) > 1 else 0
                numbers = (by.start, by.plane, to, plane, by.channels, out.positions)
                self.program.op(Op.MULTIPLY, part.start + at * part.plane, part.plane, *numbers)
        return out

    def act(self, x: fx.Node, act: Act) -> Value:
        return self.sums.compute(self.take(x), act, self.wanted(self.node))

    def hardtanh(self, x: fx.Node, low: float = -1, high: float = 1) -> Value:
        if (low, high) != (0, 6):
            raise self.refusal(f"hardtanh from {low} to {high}")
        return self.act(x, Act.RELU6)

    def mean(self, x: fx.Node, dims: Sequence[int] = (-1, -2), keepdim: bool = False) -> Value:
        value = self.read(x)
        if value.flat or value.planes.ndim != 1 or sorted(d % 4 for d in dims) != [2, 3]:
            raise self.refusal(f"mean over {list(dims)}")
        out = self.room.plain(value.planes.shape, 1, 1).hold()
        step = int(out.planes[1] - out.planes[0]) if len(out.planes) > 1 else 16
        for first, part in value.runs():
            numbers = (int(out.planes[first]), step, part.channels, part.h, part.w, part.pitch)
            self.program.op(Op.MEAN, part.start, part.plane, *numbers)
        out.flat = not keepdim
        return out

    def adaptive_mean(self, x: fx.Node, size: Sequence[int]) -> Value:
        if list(size) != [1, 1]:
            raise self.refusal(f"mean over parts of a map, to {list(size)}")
        return self.mean(x, keepdim=True)

    def max_pool(
        self,
        x: fx.Node,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil: bool = False,
    ) -> Value:
        if set(dilation) != {1}:
            raise self.refusal("pooling with dilation")
        return self.pool(x, kernel, stride, padding, 0)

    def mean_pool(
        self,
        x: fx.Node,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
    ) -> Value:
        if divisor is not None:
            raise self.refusal("mean with a divisor of its own")
        return self.pool(x, kernel, stride, padding, 2 if count_padding else 1)

    def pool(self, x: fx.Node, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], kind: int) -> Value:
        """Max (kind 0), mean over the map's values (1) or all places (2) of windows."""
        value, window = self.read(x), [{*sizes} for sizes in (kernel, stride or kernel, padding)]
        if any(len(sizes) > 1 for sizes in window):
            raise self.refusal("pooling in windows that are no squares")
        out = self.room.plain(value.planes.shape, *self.shape()[-2:]).hold()
        plane = int(out.planes[1] - out.planes[0]) if len(out.planes) > 1 else 0
        for first, part in value.runs():
            sizes = (part.h, part.w, part.pitch, out.h, out.w, out.pitch, *(size.pop() for size in map(set, window)))
            numbers = (part.start, part.plane, int(out.planes[first]), plane, part.channels)
            self.program.op(Op.POOL, *numbers, *sizes, kind)
        return out

    def upsample(self, x: fx.Node, size: object, *rest: object) -> Value:
        value, (h, w) = self.read(x), self.shape()[-2:]
        align, scales = rest if len(rest) == 2 else (False, rest[-1])
        if align or (scales and [round(value.h * scales[0], 6), round(value.w * scales[1], 6)] != [h, w]):  # type: ignore[index]
            raise self.refusal("resizing with align_corners, or by a factor that was rounded")
        out = self.room.plain(value.planes.shape, h, w).hold()
        ((_, whole),) = out.runs()
        for first, part in value.runs():
            to = replace(whole, start=whole.start + first * whole.plane, channels=part.channels)
            if "bilinear" in _name(self.node):
                resize_bilinear(self.program, part, to)
            else:
                resize(self.program, part, to, nearest(part.h, h), nearest(part.w, w))
        return out

    def pad(self, x: fx.Node, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Found:
        if mode != "constant" or value or any(_name(user) != "conv2d" for user in self.node.users) or len(amounts) != 4:
            raise self.refusal("padding before anything but a conv")
        return self.same(x)

    def unpadded(self, x: fx.Node) -> Value:
        """The map that a conv reads; padding before it is the conv's own."""
        return self.image if self.found[x] is self.image else self.read(x)

    def cat(self, parts: Sequence[fx.Node], dim: int = 0) -> Value:
        wanted = self.wanted(self.node) & {"zeros"} | {"plain"}
        for part in parts:
            if isinstance(found := self.found[part], Sum):
                self.found[part] = self.sums.compute(found, Act.NONE, wanted)
        values = [self.read(part).hold() for part in parts]
        if dim != 1 or len({(value.h, value.w, value.pitch, value.planes.ndim) for value in values}) > 1:
            raise self.refusal(f"concatenation along {dim}")
        memory = tuple(memory for value in values for memory in value.memory)
        whole = replace(
            values[0],
            planes=np.concatenate([value.planes for value in values]),
            memory=memory,
            zeros=all(value.zeros for value in values),
            split=None,
            users=0,
        )
        whole.hold()
        for value in values:
            value.drop()
        return whole

    def part(self, value: Value, planes: Ints) -> Value:
        """Some of a map's channels, or all of them in another order."""
        return replace(value, planes=planes, split=None, users=0).hold()

    def parts(self, x: fx.Node, *_: object) -> list[Value | Sum]:
        value = self.read(x)
        found: list[Value | Sum] = []
        sizes = [part.shape[1] for part in self.node.meta["val"]]
        if sum(sizes) != len(value.planes):
            raise self.refusal("split along height or width")
        for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            found.append(self.part(value, value.planes[first : first + size]))
        return found

    def slice(self, x: fx.Node, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
        value = self.read(x)
        if dim != 1:
            raise self.refusal(f"slice along {dim}")
        return self.part(value, value.planes[start:end:step])

    def item(self, x: fx.Node, index: int) -> Found:
        found = self.found[x]
        assert isinstance(found, list)
        one = found[index]
        if isinstance(one, Sum):
            found[index] = None  # type: ignore[call-overload]
            return one
        return one.hold()

    def view(self, x: fx.Node, *_: object) -> Value:
        value, shape = self.read(x), self.shape()
        flat = (value.h, value.w) == (1, 1) and (len(shape) == 2 or tuple(shape[-2:]) != (1, 1))
        leading = shape[1:] if flat else shape[1:-2]
        if int(np.prod(leading)) != value.planes.size or not flat and tuple(shape[-2:]) != (value.h, value.w):
            raise self.refusal(f"view as {list(shape)}")
        some = self.part(value, value.planes.reshape(leading))
        some.flat = flat
        return some

    def transpose(self, x: fx.Node, a: int, b: int) -> Value:
        value = self.read(x)
        axes = [axis % len(self.shape()) - 1 for axis in (a, b)]
        if not all(0 <= axis < value.planes.ndim for axis in axes):
            raise self.refusal(f"transposition of {a} and {b}")
        return self.part(value, value.planes.swapaxes(*axes))

    def same(self, x: fx.Node, *_: object, **__: object) -> Found:
        found = self.found[x]
        if found is self.image:
            return found
        return self.take(x) if isinstance(found, Sum) and len(x.users) == 1 else self.read(x).hold()

    def output(self, value: Value) -> None:
        """What the program gives."""
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
            raise self.refusal(f"{_name(self.node)} whose weights are computed")
        return found.detach().double().numpy()

    def is_constant(self, node: object) -> bool:
        """Whether a node is a parameter."""
        return isinstance(node, fx.Node) and isinstance(self.found[node], Tensor)

    def shape(self) -> Sequence[int]:
        """The shape of the tensor at hand."""
        return tuple(self.node.meta["val"].shape)


def _name(node: fx.Node) -> str:
    """The operation's name, such as conv2d."""
    return "item" if node.target is operator.getitem else str(getattr(node.target, "_opname", node.target))


def _given(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operation by name, also those left at their defaults."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return defaults | dict(zip((argument.name for argument in arguments), node.args, strict=False)) | dict(node.kwargs)


def _conv_of(node: fx.Node) -> tuple[tuple[int, int], int, int]:
    """Of a conv: zeros above and to the left, its own and those of a padding before it; places of its kernel; its stride."""
    given = _given(node)
    top, left = (0, 0) if isinstance(given["padding"], str) else given["padding"]
    if _name(given["input"]) == "pad":
        amounts = given["input"].args[1]
        top, left = top + amounts[2], left + amounts[0]
    return (top, left), int(np.prod(given["weight"].meta["val"].shape[2:])), given["stride"][0]


def _reach(node: fx.Node) -> int:
    """How far from a place of its output the taps of a conv lie, in columns or rows of the map that it reads, maybe split."""
    if _name(node) != "conv2d":
        return 0
    (top, left), _, stride = _conv_of(node)
    given = _given(node)
    (height, width), (down, across) = given["weight"].meta["val"].shape[2:], given["dilation"]
    ends = (-top, -left, (height - 1) * down - top, (width - 1) * across - left)
    return max(abs(end // min(stride, 2)) for end in ends)


_CHANNELS = {"cat", "item", "chunk", "split", "split_with_sizes", "slice", "view", "reshape", "transpose", "clone", "alias"}
_P = _Planner
RULES: dict[str, Callable[..., Found]] = {
    "conv2d": _P.conv2d,
    "linear": _P.linear,
    "_native_batch_norm_legit_no_training": _P.norm,
    **dict.fromkeys(("add", "add_"), _P.add),
    "mul": _P.mul,
    "relu": lambda p, x: p.act(x, Act.RELU),
    "hardswish": lambda p, x: p.act(x, Act.HARD_SWISH),
    "hardsigmoid": lambda p, x: p.act(x, Act.HARD_SIGMOID),
    "silu": lambda p, x: p.act(x, Act.SWISH),
    "sigmoid": lambda p, x: p.act(x, Act.SIGMOID),
    "hardtanh": _P.hardtanh,
    "mean": _P.mean,
    "adaptive_avg_pool2d": _P.adaptive_mean,
    "max_pool2d": _P.max_pool,
    "max_pool2d_with_indices": lambda p, *a, **k: [p.max_pool(*a, **k)],
    "avg_pool2d": _P.mean_pool,
    **dict.fromkeys(("upsample_bilinear2d", "upsample_nearest2d"), _P.upsample),
    "pad": _P.pad,
    "constant_pad_nd": lambda p, x, amounts, value=0: p.pad(x, amounts, value=value),
    "cat": _P.cat,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _P.parts),
    "slice": _P.slice,
    "item": _P.item,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze"), _P.view),
    "transpose": _P.transpose,
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "dropout", "_to_copy", "lift_fresh_copy"), _P.same),
}
