"""Rules for operations that compute: convs, linear layers, BN, sums, products, means and activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from supertickets.deploy.engine.graph import GraphPlanner, conv_of
from supertickets.deploy.engine.program import VECTOR, Act, Op
from supertickets.deploy.engine.values import Sum, Term, Value


def conv2d(
    p: GraphPlanner,
    x: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Sum:
    """A conv of stride 1 or 2 whose output has the same number of rows and columns as its input, or half of them."""
    (top, left), _, step = conv_of(p.node)
    value, kernel = p.unpadded(x), p.numbers(weight)  # (O, I / groups, k, k)
    h, w = p.shape()[-2:]
    if step > 2 or (h, w) != (-(-value.h // step), -(-value.w // step)) or len(set(stride)) > 1 or isinstance(padding, str):
        raise p.refusal(f"conv of stride {list(stride)} from {value.h}x{value.w} to {h}x{w} pixels")
    o, i, ky, kx = np.nonzero(kernel)
    dy, dx = ky * dilation[0] - top, kx * dilation[1] - left
    channel = o // (len(kernel) // groups) * kernel.shape[1] + i
    if step == 2:
        cleared = kernel[0, 0].size > 1 or value is p.image  # nothing after the image may be read
        source = p.sums.split(value, cleared=cleared).hold()
        shift = (2 * (dy % 2) + dx % 2) * source.phase + dy // 2 * source.pitch + dx // 2
    else:
        near = kernel[0, 0].size == 1 and not top and not left
        source = value.hold() if near and value is not p.image else p.sums.padded(value)
        shift = dy * source.pitch + dx
    pointwise = step == 1 and kernel[0, 0].size == 1
    term = Term(o, source, channel, shift, kernel[o, i, ky, kx], pointwise)
    offset = np.zeros(len(kernel)) if bias is None else p.numbers(bias)
    return Sum(offset, [term], h, w, alone=kernel.shape[1] == 1 and groups > 1)


def linear(p: GraphPlanner, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Sum:
    """A linear layer on channels without height and width."""
    value, matrix = p.read(x), p.numbers(weight)
    if not value.flat or value.planes.shape != matrix.shape[1:]:
        raise p.refusal("linear layer on a map")
    o, i = np.nonzero(matrix)
    offset = np.zeros(len(matrix)) if bias is None else p.numbers(bias)
    term = Term(o, value.hold(), i, np.zeros_like(i), matrix[o, i], True)
    return Sum(offset, [term], 1, 1, alone=False, flat=True)


def norm(
    p: GraphPlanner, x: fx.Node, weight: fx.Node | None, bias: fx.Node | None, mean: fx.Node, var: fx.Node, _: float, eps: float
) -> list[Value | Sum]:
    """BN in eval mode; only its first result is used."""
    scale = 1 / np.sqrt(p.numbers(var) + eps)
    scale = scale if weight is None else scale * p.numbers(weight)
    shift = (0 if bias is None else p.numbers(bias)) - scale * p.numbers(mean)
    return [p.take(x).scaled(scale, shift)]


def add(p: GraphPlanner, x: object, y: object, alpha: float = 1) -> Sum:
    """A sum of two maps, or of a map and a number."""
    if not isinstance(y, fx.Node):
        return p.take(x).scaled(np.array(1.0), np.array(float(y) * alpha))  # type: ignore[arg-type]
    if p.is_constant(x) or p.is_constant(y):
        raise p.refusal("sum with a parameter")
    if x is y:
        return p.take(x).scaled(np.array(1.0 + alpha), np.array(0.0))
    first, second = p.take(x), p.take(y)
    if (first.h, first.w, len(first.bias)) != (second.h, second.w, len(second.bias)):
        raise p.refusal("sum of maps of two sizes")
    return first.plus(second if alpha == 1 else second.scaled(np.array(float(alpha)), np.array(0.0)))


def mul(p: GraphPlanner, x: object, y: object) -> Value | Sum:
    """A map times a number, or times one factor for each channel (squeeze-and-excitation)."""
    if not isinstance(y, fx.Node):
        return p.take(x).scaled(np.array(float(y)), np.array(0.0))  # type: ignore[arg-type]
    if p.is_constant(x) or p.is_constant(y):
        raise p.refusal("product with a parameter")
    value, factors = p.read(x), p.read(y)
    if value.h * value.w < factors.h * factors.w:
        value, factors = factors, value
    if (factors.h, factors.w) != (1, 1) or value.planes.shape != factors.planes.shape:
        raise p.refusal("product of two maps")
    out = p.room.plain(value.planes.shape, value.h, value.w).hold()
    to = out.whole()
    for first, part in value.runs():
        some = replace(factors, planes=factors.planes.ravel()[first : first + part.channels])
        for at, by in some.runs():
            numbers = (by.start, by.plane, to.start + (first + at) * to.plane, to.plane, by.channels, out.positions)
            p.program.op(Op.MULTIPLY, part.start + at * part.plane, part.plane, *numbers)
    return out


def activate(p: GraphPlanner, x: fx.Node, act: Act) -> Value:
    """An activation, for which the sum before it is computed."""
    return p.sums.compute(p.take(x), act, p.wanted(p.node))


def hardtanh(p: GraphPlanner, x: fx.Node, low: float = -1, high: float = 1) -> Value:
    """ReLU6 alone."""
    if (low, high) != (0, 6):
        raise p.refusal(f"hardtanh from {low} to {high}")
    return activate(p, x, Act.RELU6)


def mean(p: GraphPlanner, x: fx.Node, dims: Sequence[int] = (-1, -2), keepdim: bool = False) -> Value:
    """The mean over height and width."""
    value = p.read(x)
    if value.flat or value.planes.ndim != 1 or sorted(d % 4 for d in dims) != [2, 3]:
        raise p.refusal(f"mean over {list(dims)}")
    out = p.room.plain(value.planes.shape, 1, 1).hold()
    to = out.whole()
    for first, part in value.runs():
        numbers = (to.start + first * to.plane, to.plane or VECTOR, part.channels, part.h, part.w, part.pitch)
        p.program.op(Op.MEAN, part.start, part.plane, *numbers)
    out.flat = not keepdim
    return out


def adaptive_mean(p: GraphPlanner, x: fx.Node, size: Sequence[int]) -> Value:
    """The same, expressed as pooling to one pixel."""
    if list(size) != [1, 1]:
        raise p.refusal(f"mean over parts of a map, to {list(size)}")
    return mean(p, x, keepdim=True)
