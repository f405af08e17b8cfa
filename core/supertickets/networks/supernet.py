"""One class for the full supernet and all shrunk networks, which are rebuilt from numbers alone.

stem -> [fusion -> parallel blocks] x stages -> head.  HR-NAS, arXiv 2106.06560; SuperTickets, arXiv 2207.03677.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from supertickets.networks.arch import Arch, SupernetArch
from supertickets.networks.blocks import MixedBlock, batch_norm, mixed_blocks
from supertickets.networks.fusion import Fusion
from supertickets.networks.network import Network


class Stage(nn.Module):
    """A fusion, then blocks on each branch."""

    def __init__(self, in_widths: list[int], index: int, arch: SupernetArch) -> None:
        super().__init__()
        stage, name = arch.stages[index], f"stages.{index}"
        self.fusion = Fusion(in_widths, stage.widths, arch=arch, name=f"{name}.fusion")
        self.branches = nn.ModuleList(
            nn.Sequential(*(MixedBlock(w, w, stride=1, arch=arch, name=f"{name}.branches.{b}.{n}") for n in range(count)))
            for b, (count, w) in enumerate(zip(stage.blocks, stage.widths, strict=True))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        fused = self.fusion(features)
        return [blocks(f) for blocks, f in zip(self.branches, fused, strict=True)]


class Supernet(Network):
    """(B, 3, H, W) -> the head's output; without a head, the list of branch features, finest first.

    The finest branch runs at 1/`stem_stride` of the input size, and each further branch at half the size of the one before.
    `Supernet(net.arch, head)`, with a head built from the same arch, has the shapes of `net`, no matter what was shrunk.
    """

    def __init__(self, arch: SupernetArch, head: nn.Module | None = None) -> None:
        super().__init__()
        self._arch = arch
        strides = {4: (2, 2), 2: (2, 1), 1: (1, 1)}[arch.stem_stride]
        layers: list[nn.Module] = []
        for c_in, c_out, stride in zip((3, arch.stem[0]), arch.stem, strides, strict=True):
            layers += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), batch_norm(c_out, arch), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        widths = [[arch.stem[1]], *(stage.widths for stage in arch.stages)]
        self.stages = nn.ModuleList(Stage(widths[i], i, arch) for i in range(len(arch.stages)))
        self.head = head
        initialise(self, arch)

    @property
    def arch(self) -> SupernetArch:
        """The complete arch of the present network: units and tokens of every block, including the head's."""
        blocks = mixed_blocks(self)
        units = {name: dict(block.units) for name, block in blocks.items()}
        tokens = {name: block.mixer.tokens if block.mixer else 0 for name, block in blocks.items()}
        return self._arch.model_copy(update={"units": units, "tokens_left": tokens if self._arch.tokens else {}})

    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the shapes and values of `tensors`, the whole state without removed units; other parts do not change."""
        for name, block in mixed_blocks(self).items():
            start = f"{name}."
            own = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
            if {key: tensor.shape for key, tensor in block.state_dict().items()} != {key: t.shape for key, t in own.items()}:
                block.resize(self._arch, own)

    def features(self, x: Tensor) -> list[Tensor]:
        """Branch features (B, C_i, H/stride/2^i, W/stride/2^i), finest first."""
        features = [self.stem(x)]  # (B, C, H/stem_stride, W/stem_stride)
        for stage in self.stages:
            features = stage(features)
        return features

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        features = self.features(x)
        return features if self.head is None else self.head(features)


@torch.no_grad()
def initialise(net: nn.Module, arch: Arch) -> None:
    """Initial weights: convs N(0, 2/fan_out), linears U(+-1/sqrt(fan_out)), BN scale 1 and shift 0.

    `small_normal`: convs N(0, 0.001^2) (keypoints in HR-NAS).
    `small_head`: as `fan_out`, but with the final classifier N(0, 0.01^2). With few classes fan_out is small, so logits start
    with a deviation near 15, and a short run would spend its epochs on reducing it.
    `reduced`: additionally, the convs of the blocks, whose scale does not matter because of BN, start at 0.3 of their
    deviation. Their directions are learned faster, and magnitudes show what was learned instead of where training began, so
    pruning finds better weights (docs/experiments.md).

    fan_out = k^2 C_out / groups (k^2 for depthwise); with `fan_out`, as in the original, a grouped 1x1 shortcut counts as if it
    had no groups, which keeps the first losses small. A block's one-conv expansion counts as the convs it stands for: its
    fan_out is that of one kernel at full width, expand x C_in, not of all kernels together. Transformers keep PyTorch's own.
    """
    if all(param.is_meta for param in net.parameters()):
        return  # there are no values, but PyTorch would take a while
    blocks = [block for block in mixed_blocks(net).values() if block.units]
    expansions = {id(b.expand): arch.expand * b.in_channels for b in blocks}
    before_norm = {id(conv) for b in blocks for conv in (b.expand, b.project, *b.depthwise.values())}
    for name, module in net.named_modules():
        if ".mixer." in f".{name}." and not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels == module.out_channels
            shared = module.groups if depthwise or arch.init != "fan_out" else 1
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // shared
            fan_out = expansions.get(id(module), fan_out)
            std = 0.001 if arch.init == "small_normal" else sqrt(2 / fan_out)
            if arch.init in ("small_head", "reduced") and name.endswith("classifier"):
                std = 0.01
            module.weight.normal_(0, std)
            if arch.init == "reduced" and id(module) in before_norm:
                module.weight.mul_(0.3)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Linear):
            if arch.init in ("small_head", "reduced") and name.endswith("classifier"):
                module.weight.normal_(0, 0.01)
            else:
                bound = 1 / sqrt(module.out_features)
                module.weight.uniform_(-bound, bound)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1)
            module.bias.zero_()


def prunable(net: nn.Module) -> dict[str, Tensor]:
    """Prunable weights by name: those of all convs, including the head's searched blocks, but not the final classifier.

    Each has the shape (C_out, C_in / groups, k, k). BN, biases, linear layers and the inner layers of transformers are not
    pruned.
    """
    return {
        f"{name}.weight": module.weight
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and not name.endswith("classifier")
    }


def decayed(net: nn.Module) -> set[str]:
    """Names of the parameters with weight decay: conv and linear weights, including attention's packed projections."""
    return {name for name, param in net.named_parameters() if param.ndim > 1 and not name.endswith("queries")}


def in_body(name: str) -> bool:
    """Whether the parameter or module with this name belongs to the body, that is, not to the head."""
    return not name.startswith("head.")


def device_of(net: nn.Module) -> torch.device:
    """The device of the network's parameters, or the CPU if it has none."""
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
