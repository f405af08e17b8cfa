"""Rules for operations that pool, resize or only rearrange channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from supertickets.deploy.engine.graph import Found, GraphPlanner, name_of
from supertickets.deploy.engine.program import Act, Op
from supertickets.deploy.engine.resizing import nearest, resize, resize_bilinear
from supertickets.deploy.engine.values import Sum, Value


def max_pool(
    p: GraphPlanner,
    x: fx.Node,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> Value:
    """The largest value of each window."""
    if set(dilation) != {1}:
        raise p.refusal("pooling with dilation")
    return pool(p, x, kernel, stride, padding, 0)


def mean_pool(
    p: GraphPlanner,
    x: fx.Node,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Value:
    """The mean of each window."""
    if divisor is not None:
        raise p.refusal("mean with a divisor of its own")
    return pool(p, x, kernel, stride, padding, 2 if count_padding else 1)


def pool(p: GraphPlanner, x: fx.Node, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], kind: int) -> Value:
    """Pooling in windows: the maximum (kind 0), the mean over values within the map (1) or over all positions (2)."""
    value, window = p.read(x), [{*sizes} for sizes in (kernel, stride or kernel, padding)]
    if any(len(sizes) > 1 for sizes in window):
        raise p.refusal("pooling in windows that are no squares")
    out = p.room.plain(value.planes.shape, *p.shape()[-2:]).hold()
    to, window_sizes = out.whole(), [size for sizes in window for size in sizes]  # kernel, stride, padding
    for first, part in value.runs():
        sizes = (part.h, part.w, part.pitch, out.h, out.w, out.pitch, *window_sizes)
        numbers = (part.start, part.plane, to.start + first * to.plane, to.plane, part.channels)
        p.program.op(Op.POOL, *numbers, *sizes, kind)
    return out


def upsample(p: GraphPlanner, x: fx.Node, size: object, *rest: object) -> Value:
    """Bilinear or nearest resizing."""
    value, (h, w) = p.read(x), p.shape()[-2:]
    align, scales = rest if len(rest) == 2 else (False, rest[-1])
    if align or (scales and [round(value.h * scales[0], 6), round(value.w * scales[1], 6)] != [h, w]):  # type: ignore[index]
        raise p.refusal("resizing with align_corners, or by a factor that was rounded")
    out = p.room.plain(value.planes.shape, h, w).hold()
    whole = out.whole()
    for first, part in value.runs():
        to = replace(whole, start=whole.start + first * whole.plane, channels=part.channels)
        if "bilinear" in name_of(p.node):
            resize_bilinear(p.program, part, to)
        else:
            resize(p.program, part, to, nearest(part.h, h), nearest(part.w, w))
    return out


def pad(p: GraphPlanner, x: fx.Node, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Found:
    """Zero padding around a map that only convs read; these take it into account."""
    if mode != "constant" or value or any(name_of(user) != "conv2d" for user in p.node.users) or len(amounts) != 4:
        raise p.refusal("padding before anything but a conv")
    return same(p, x)


def cat(p: GraphPlanner, parts: Sequence[fx.Node], dim: int = 0) -> Value:
    """Concatenates maps without moving values."""
    wanted = p.wanted(p.node) & {"zeros"} | {"plain"}
    for part in parts:
        if isinstance(found := p.found[part], Sum):
            p.found[part] = p.sums.compute(found, Act.NONE, wanted)
    values = [p.read(part).hold() for part in parts]
    if dim != 1 or len({(value.h, value.w, value.pitch, value.planes.ndim) for value in values}) > 1:
        raise p.refusal(f"concatenation along {dim}")
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


def parts(p: GraphPlanner, x: fx.Node, *_: object) -> list[Value | Sum]:
    """Consecutive parts of a map's channels."""
    value = p.read(x)
    found: list[Value | Sum] = []
    sizes = [part.shape[1] for part in p.node.meta["val"]]
    if sum(sizes) != len(value.planes):
        raise p.refusal("split along height or width")
    for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        found.append(p.part(value, value.planes[first : first + size]))
    return found


def take_slice(
    p: GraphPlanner, x: fx.Node, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """Some of a map's channels."""
    value = p.read(x)
    if dim != 1:
        raise p.refusal(f"slice along {dim}")
    return p.part(value, value.planes[start:end:step])


def item(p: GraphPlanner, x: fx.Node, index: int) -> Found:
    """One of several results."""
    found = p.found[x]
    assert isinstance(found, list)
    one = found[index]
    if isinstance(one, Sum):
        found[index] = None  # type: ignore[call-overload]
        return one
    return one.hold()


def view(p: GraphPlanner, x: fx.Node, *_: object) -> Value:
    """Changes the shape of the channels, or removes the height and width of a map of one pixel."""
    value, shape = p.read(x), p.shape()
    flat = (value.h, value.w) == (1, 1) and (len(shape) == 2 or tuple(shape[-2:]) != (1, 1))
    leading = shape[1:] if flat else shape[1:-2]
    if int(np.prod(leading)) != value.planes.size or not flat and tuple(shape[-2:]) != (value.h, value.w):
        raise p.refusal(f"view as {list(shape)}")
    some = p.part(value, value.planes.reshape(leading))
    some.flat = flat
    return some


def transpose(p: GraphPlanner, x: fx.Node, a: int, b: int) -> Value:
    """Changes the order of the channels."""
    value = p.read(x)
    axes = [axis % len(p.shape()) - 1 for axis in (a, b)]
    if not all(0 <= axis < value.planes.ndim for axis in axes):
        raise p.refusal(f"transposition of {a} and {b}")
    return p.part(value, value.planes.swapaxes(*axes))


def same(p: GraphPlanner, x: fx.Node, *_: object, **__: object) -> Found:
    """An operation that changes nothing."""
    found = p.found[x]
    if found is p.image:
        return found
    return p.take(x) if isinstance(found, Sum) and len(x.users) == 1 else p.read(x).hold()
