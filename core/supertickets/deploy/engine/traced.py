"""Plans the engine's program for a network of a library, with one rule for each operation of its exported graph.

Convs, BN, sums, concatenations and other linear, local operations become taps of one `Sum`, which is computed when an
activation or another operation needs its values. So BN is folded, a residual sum costs one tap, and parallel branches that are
added (RepVGG) become one conv.
"""

from __future__ import annotations

import torch
from torch import nn

from supertickets.deploy.engine import arithmetic, rearranging
from supertickets.deploy.engine.graph import GraphPlanner, Rule
from supertickets.deploy.engine.program import Act, Program
from supertickets.errors import UserError, first_line


def plan_traced(net: nn.Module, size: tuple[int, int]) -> Program:
    """The program of `net` in eval mode for one image (3, *size) float32.

    Raises `UserError`, naming the module and the operation, if the engine does not support an operation.
    """
    try:
        with torch.no_grad():
            exported = torch.export.export(net, (torch.zeros(1, 3, *size),)).run_decompositions({})
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = first_line(error)
        raise UserError(
            f"{type(net).__name__}: cannot be exported as a graph for {size[0]}x{size[1]} pixels: {reason}"
        ) from error
    planner = GraphPlanner(exported, size, RULES)
    planner.run()
    return planner.program


RULES: dict[str, Rule] = {
    "conv2d": arithmetic.conv2d,
    "linear": arithmetic.linear,
    "_native_batch_norm_legit_no_training": arithmetic.norm,
    **dict.fromkeys(("add", "add_"), arithmetic.add),
    "mul": arithmetic.mul,
    "relu": lambda p, x: arithmetic.activate(p, x, Act.RELU),
    "hardswish": lambda p, x: arithmetic.activate(p, x, Act.HARD_SWISH),
    "hardsigmoid": lambda p, x: arithmetic.activate(p, x, Act.HARD_SIGMOID),
    "silu": lambda p, x: arithmetic.activate(p, x, Act.SWISH),
    "sigmoid": lambda p, x: arithmetic.activate(p, x, Act.SIGMOID),
    "hardtanh": arithmetic.hardtanh,
    "mean": arithmetic.mean,
    "adaptive_avg_pool2d": arithmetic.adaptive_mean,
    "max_pool2d": rearranging.max_pool,
    "max_pool2d_with_indices": lambda p, *a, **k: [rearranging.max_pool(p, *a, **k)],
    "avg_pool2d": rearranging.mean_pool,
    **dict.fromkeys(("upsample_bilinear2d", "upsample_nearest2d"), rearranging.upsample),
    "pad": rearranging.pad,
    "constant_pad_nd": lambda p, x, amounts, value=0: rearranging.pad(p, x, amounts, value=value),
    "cat": rearranging.cat,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), rearranging.parts),
    "slice": rearranging.take_slice,
    "item": rearranging.item,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze"), rearranging.view),
    "transpose": rearranging.transpose,
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "dropout", "_to_copy", "lift_fresh_copy"), rearranging.same),
}
