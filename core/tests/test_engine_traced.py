"""The engine on networks that it knows by their graph alone: it computes what they compute, or names what it lacks."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supertickets.config.sections import ArchConfig
from supertickets.deploy.engine import load, runner
from supertickets.deploy.engine.compiler import compile_c
from supertickets.deploy.engine.files import write_c
from supertickets.deploy.engine.traced import plan_traced
from supertickets.errors import UserError
from supertickets.networks.build import build_net, full_arch
from supertickets.search.shrink import shrink
from supertickets.testing import ToyTask, micro_net, randomise_norms, toy_config
from supertickets.testing.programs import run_as_program
from supertickets.training.batchnorm import recalibrate
from supertickets.units.groups import unit_groups

CASES = int(os.environ.get("SUPERTICKETS_ENGINE_CASES", 4))  # random networks; 200 before a release
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
ACTS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid, nn.Identity)


class Branchy(nn.Module):
    """Some twenty random operations, each on results of earlier ones; ends in a map or in logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.dice, self.seed = random.Random(seed), seed
        self.layers, self.steps = nn.ModuleList(), []
        self.shapes: list[tuple[int, int, int]] = []

    def prepare(self, size: tuple[int, int]) -> Branchy:
        """Choose the operations for images of this size."""
        dice, (h, w) = self.dice, size
        self.conv(None, (3, h, w))
        for _ in range(dice.randint(6, 20)):
            at = dice.randrange(max(0, len(self.shapes) - 4), len(self.shapes))
            dice.choice([self.conv, self.conv, self.conv, self.gate, self.pool, self.meet, self.shuffle, self.enlarge])(
                at, self.shapes[at]
            )
        self.logits = dice.random() < 0.5
        self.last = nn.Linear(self.shapes[-1][0], 5) if self.logits else nn.Conv2d(self.shapes[-1][0], 5, 1)
        return self

    def step(self, kind: str, at: object, layer: nn.Module, shape: tuple[int, int, int], *more: object) -> None:
        self.steps.append((kind, at, len(self.layers), more))
        self.layers.append(layer)
        self.shapes.append(shape)

    def conv(self, at: int | None, shape: tuple[int, int, int]) -> None:
        dice, (c, h, w) = self.dice, shape
        stride, k, spread = dice.choice([1, 1, 2]), dice.choice([1, 3, 3, 5]), dice.choice([1, 1, 2])
        groups = dice.choice([1, c, 2 if c % 2 == 0 else 1])
        out = c if groups == c > 1 and dice.random() < 0.7 else groups * dice.randint(1, 6)
        wide = spread * (k - 1)
        uneven = stride == 2 and h % 2 == 0 and w % 2 == 0 and k > 1  # "same" padding, as TensorFlow pads
        padding = 0 if uneven else wide // 2
        conv = nn.Conv2d(c, out, k, stride, padding, spread, groups, bias=dice.random() < 0.5)
        layers = [conv, nn.BatchNorm2d(out)] if dice.random() < 0.7 else [conv]
        amounts = [(wide - 1) // 2, wide - 1 - (wide - 1) // 2] * 2 if uneven else None
        layer = nn.Sequential(*layers, dice.choice(ACTS)())
        self.step("conv", at, layer, (out, -(-h // stride), -(-w // stride)), amounts)

    def gate(self, at: int, shape: tuple[int, int, int]) -> None:
        c, squeezed = shape[0], self.dice.randint(1, 4)
        layer = nn.Sequential(nn.Conv2d(c, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, c, 1), self.dice.choice(ACTS[3:6])())
        self.step("gate", at, layer, shape)

    def pool(self, at: int, shape: tuple[int, int, int]) -> None:
        c, h, w = shape
        kernel, stride, padding = self.dice.choice([(3, 2, 1), (2, 2, 0), (3, 1, 1)])
        if min(h, w) < kernel:
            return
        kinds = [nn.MaxPool2d(kernel, stride, padding), nn.AvgPool2d(kernel, stride, padding)]
        kinds.append(nn.AvgPool2d(kernel, stride, padding, count_include_pad=False))
        sizes = [(n + 2 * padding - kernel) // stride + 1 for n in (h, w)]
        self.step("pool", at, self.dice.choice(kinds), (c, *sizes))

    def meet(self, at: int, shape: tuple[int, int, int]) -> None:
        """A sum, or side by side, with all earlier maps of this size."""
        like = [i for i, other in enumerate(self.shapes) if other == shape]
        beside = [i for i, other in enumerate(self.shapes) if other[1:] == shape[1:]][-3:]
        if self.dice.random() < 0.5:
            self.step("sum", like, self.dice.choice([nn.BatchNorm2d(shape[0]), nn.ReLU(), nn.Identity()]), shape)
        else:
            channels = sum(self.shapes[i][0] for i in beside)
            self.step("beside", beside, self.dice.choice(ACTS)(), (channels, *shape[1:]))

    def shuffle(self, at: int, shape: tuple[int, int, int]) -> None:
        if shape[0] % 2:
            self.step("affine", at, nn.Identity(), shape)
        else:
            self.step("shuffle", at, nn.BatchNorm2d(shape[0] // 2), (shape[0] // 2, *shape[1:]), self.dice.random() < 0.5)

    def enlarge(self, at: int, shape: tuple[int, int, int]) -> None:
        c, h, w = shape
        size = self.dice.choice([(2 * h, 2 * w), (h + 1, 2 * w + 3), (4 * h, 4 * w)])
        if size[0] * size[1] <= 2000:
            mode = self.dice.choice(["nearest", "bilinear"])
            self.step("enlarge", at, nn.Identity(), (c, *size), size, mode)

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for kind, at, index, more in self.steps:
            layer, given = (
                self.layers[index],
                x if at is None else [found[i] for i in at] if isinstance(at, list) else found[at],
            )
            match kind:
                case "conv":
                    out = layer(F.pad(given, more[0]) if more[0] else given)
                case "gate":
                    out = given * layer(given.mean((2, 3), keepdim=True))
                case "sum":
                    out = layer(sum(given[1:], given[0]))
                case "beside":
                    out = layer(torch.cat(given, 1))
                case "affine":
                    out = given * 0.5 + 1
                case "shuffle":
                    b, c, h, w = given.shape
                    mixed = given.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
                    out = layer(mixed[:, : c // 2] if more[0] else mixed.chunk(2, 1)[1])
                case "enlarge":
                    out = F.interpolate(given, more[0], mode=more[1], align_corners=False if more[1] == "bilinear" else None)
                case _:
                    out = layer(given)
            found.append(out)
        return self.last(F.adaptive_avg_pool2d(found[-1], 1).flatten(1) if self.logits else found[-1])


def branchy(seed: int) -> tuple[nn.Module, tuple[int, int]]:
    torch.manual_seed(seed)
    dice = random.Random(seed)
    size = (dice.randint(1, 33), dice.randint(1, 33))
    net = Branchy(seed).prepare(size).eval()
    randomise_norms(net, seed)
    sparsity = dice.choice([0.0, 0.5, 0.9])
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(torch.rand(weight.shape) >= sparsity)
    recalibrate(net, [torch.randn(4, 3, *size)], net)  # values near 1 in every layer
    return net.eval(), size


def difference(net: nn.Module, size: tuple[int, int], folder: Path, *, threads: int = 1, level: str = "-O0") -> float:
    """Largest difference of the compiled network from double precision, as a share of the largest output."""
    write_c(net, size, folder / "ticket.c", {})
    compile_c(folder / "ticket.c", folder / "ticket.so", flags=(level, "-DTICKET_X86=34"))
    x = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    out = load(folder / "ticket.so")(x)
    assert np.array_equal(load(folder / "ticket.so", threads=threads)(x), out)
    with torch.no_grad():
        want = net.double()(torch.from_numpy(x).double()).numpy()
    net.float()
    assert out.shape == want.shape
    return float(np.abs(out - want).max() / np.abs(want).max())


@needs_compiler
@pytest.mark.parametrize("case", range(CASES))
def test_any_graph_gives_what_eager_gives(case, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SHARE", 1)
    level = "-O1" if case % 5 == 1 else "-O0"
    assert difference(*branchy(case), tmp_path, threads=2 + case % 2, level=level) <= 1e-4


@needs_compiler
@pytest.mark.parametrize("case", [1])
def test_the_code_for_other_processors_agrees(case, tmp_path):
    """Compiled without what is special to x86-64, and under the sanitizers."""
    net, size = branchy(case)
    command = ["cc", "-O0", "-DTICKET_X86=0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert run_as_program(net, size, tmp_path, command) <= 1e-4 * float(net(torch.zeros(1, 3, *size)).detach().abs().max() + 1)


class TwoStems(nn.Module):
    """A 3x3 and a 1x1 conv of stride 2 on the image, as in RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(3, 5, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.narrow(x) + self.wide(x)).mean(dim=(2, 3))


@needs_compiler
@pytest.mark.parametrize("size", [(30, 30), (7, 9)])
def test_nothing_is_read_after_the_image(size, tmp_path):
    command = ["cc", "-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DTICKET_X86=34"]
    assert run_as_program(TwoStems().eval(), size, tmp_path, command) <= 1e-4


@needs_compiler
@pytest.mark.slow
def test_no_thread_reads_or_writes_where_another_one_writes(tmp_path):
    net, size = branchy(0)
    assert run_as_program(net, size, tmp_path, ["cc", "-O0", "-g", "-fsanitize=thread"], threads=3) <= 1e-4


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("body", ["timm:mobilenetv3_small_050"])
def test_a_shrunk_body_runs(body, tmp_path):
    task = ToyTask(toy_config(tmp_path).model_copy(update={"arch": ArchConfig(body=body)}))
    net = build_net(full_arch(ArchConfig(body=body), (3, 64, 64)), task).eval()
    randomise_norms(net)
    shrink(net, {group.name: torch.arange(group.count) % 2 == 1 for group in unit_groups(net)})
    recalibrate(net, [torch.randn(4, 3, 50, 61)], net.eval())
    assert difference(net, (50, 61), tmp_path) <= 1e-4


def test_a_residual_sum_costs_one_tap_and_parallel_branches_are_one_conv():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide, self.narrow = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return (self.bn(self.wide(x)) + self.narrow(x) + x).relu()

    net = Block().eval()
    randomise_norms(net)
    program = plan_traced(net, (8, 8))
    _, taps, _, _ = program.tables()
    assert len(taps[0]) - 1 == 4 * 3 + 4 * 4 * 9  # stem, then all three branches


class Corners(nn.Module):
    """Channels side by side that only a conv of stride 2 reads, a map added to itself, memory of split maps used again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 12, 1)
        self.deep, self.down = nn.Conv2d(12, 12, 3, 2, 1, groups=12), nn.Conv2d(6, 12, 3, 2, 1)
        self.last = nn.Conv2d(4, 12, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        wide = self.deep(self.wide(a).relu())  # of a split map without zeros around it
        beside = self.down(torch.cat([self.a(x) * 2, self.b(x)], 1))
        return wide + (beside + beside).relu() + self.last(F.silu(a + a))


@needs_compiler
@pytest.mark.parametrize("size", [(16, 34), (15, 33), (7, 2)])
def test_corners(size, tmp_path):
    torch.manual_seed(0)
    assert difference(Corners().eval(), size, tmp_path) <= 1e-5


class Odd(nn.Module):
    """One operation behind a conv."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.conv, self.operation = nn.Conv2d(3, 4, 3, padding=1), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.conv(x))


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: x.softmax(1), "the engine has no softmax"),
        (lambda x: F.gelu(x), "the engine has no gelu"),
        (lambda x: F.hardtanh(x), "no hardtanh from -1.* to 1"),
        (lambda x: x * x, "no product of two maps"),
        (lambda x: x.flatten(1), "no view as"),
        (lambda x: F.adaptive_avg_pool2d(x, 2), "no mean over parts of a map"),
        (nn.Conv2d(4, 4, 3), "no conv of stride .1, 1. from 8x8 to 6x6"),
        (lambda x: x[:, :, ::2], "no slice along 2"),
    ],
)
def test_what_the_engine_lacks_is_named(operation, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        write_c(Odd(operation).eval(), (8, 8), tmp_path / "never.c", {})
    assert "\n" not in str(error.value) and "export it as onnx" in str(error.value) and not any(tmp_path.iterdir())


class Finest(nn.Module):
    """A head that the engine does not know."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[0].softmax(1)


def test_modules_are_named(tmp_path):
    net = micro_net()
    net.eval().head = Finest()
    with pytest.raises(UserError, match=r"^head: the engine has no softmax"):
        write_c(net, (16, 16), tmp_path / "never.c", {})
