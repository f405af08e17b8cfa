"""A network from another library, torchvision or timm, as the body of the supernet, with one of this project's heads.

The body is rebuilt from a name in the library's list and from the shapes of its tensors; its units are found by tracing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError, first_line
from supertickets.networks.arch import Arch
from supertickets.networks.blocks import mixed_blocks
from supertickets.networks.depthwise import use_depthwise
from supertickets.networks.library import SHAPE, build_classifier, build_maps, library_version, map_shapes
from supertickets.networks.network import Network
from supertickets.networks.tracing import Traced, trace
from supertickets.networks.unit_group import HasUnits, UnitGroup

Shapes = dict[str, tuple[NonNegativeInt, ...]]


class BodyArch(Arch):
    """A network of a library, full or shrunk. The fields for blocks (from `Arch`) describe heads that have such blocks."""

    family: Literal["body"] = "body"
    body: str
    library: str = ""  # name and version of the library when the arch was created
    own_head: bool = False  # use the library's whole classifier, with its own pooling and linear layer, instead of feature maps
    outputs: list[NonNegativeInt] = []  # numbers of the feature maps used, finest first
    channels: list[PositiveInt] = []  # channels of these maps in the present body
    bn_momentum: float = Field(0.1, gt=0, le=1)  # of the head
    body_bn_momentum: float | None = Field(None, gt=0, le=1)  # unset: the library's own
    shapes: Shapes = {}  # present shapes of all tensors; empty: the full network

    @property
    def widths(self) -> list[int]:
        """Channels of the feature maps that are used, finest first."""
        return self.channels

    @model_validator(mode="after")
    def _maps_or_own_head(self) -> BodyArch:
        if bool(self.outputs) == self.own_head or len(self.outputs) != len(self.channels):
            raise ValueError("needs as many channels as outputs, at least one; none with own_head")
        return self

    def body_alone(self) -> BodyArch:
        """The same body without the fields of its head."""
        return self.model_copy(update={"shapes": {name: s for name, s in self.shapes.items() if name.startswith("body.")}})


class OwnHead(nn.Module):
    """Stands in for a head if the body is a whole classifier for this number of classes: the logits pass through."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


class BodyNet(Network):
    """(B, 3, H, W) -> the output of the head, which gets the body's feature maps, finest first."""

    def __init__(self, arch: BodyArch, head: nn.Module) -> None:
        super().__init__()
        self._arch = arch
        if arch.own_head:
            if not isinstance(head, OwnHead):
                raise UserError(f"arch.own_head: the classifier of {arch.body} can only be used for classification")
            self.body = build_classifier(arch.body, head.classes)
        else:
            self.body = build_maps(arch.body, arch.outputs)
        use_depthwise(self.body)
        self.head = head  # after the body, because tickets store their tensors in this order
        self._traced: Traced | None = None
        if arch.shapes:
            own = self.state_dict()
            self._check(arch, own)
            take(self, {name: own[name][tuple(slice(size) for size in shape)] for name, shape in arch.shapes.items()})
        if arch.body_bn_momentum is not None:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = arch.body_bn_momentum

    @staticmethod
    def _check(arch: BodyArch, own: Mapping[str, Tensor]) -> None:
        """Raise `UserError` if the library's network has other or smaller tensors."""
        where = f"{arch.body} in {library_version(arch.body)}"
        of_body = {name for name in own if name.startswith("body.")}
        if unknown := [name for name in arch.shapes if name not in own]:
            raise UserError(f"arch.shapes: {where} has no tensor {unknown[0]}")
        if missing := [name for name in own if name in of_body and name not in arch.shapes]:
            raise UserError(f"arch.shapes: {where} has a tensor {missing[0]} that is not known here")
        for name, shape in arch.shapes.items():
            full = own[name].shape
            if len(shape) != len(full) or any(new > old or new < 1 for new, old in zip(shape, full, strict=True)):
                raise UserError(f"arch.shapes: {name} is {list(full)} in {where}; {list(shape)} is not a part of it")

    @property
    def arch(self) -> BodyArch:
        """The complete arch of the present network."""
        blocks = mixed_blocks(self)
        return self._arch.model_copy(
            update={
                "shapes": {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()},
                "units": {name: dict(block.units) for name, block in blocks.items()},
                "tokens_left": {name: block.mixer.tokens for name, block in blocks.items() if block.mixer},
            }
        )

    @property
    def traced(self) -> Traced:
        """The result of tracing the present network. Heads that describe their own units are not traced."""
        if self._traced is None:
            described = any(isinstance(module, HasUnits) for module in self.head.modules())
            found = trace(_Alone(self.body) if described else self)
            self._traced = found
        return self._traced

    def unit_groups(self) -> list[UnitGroup]:
        """The unit groups that tracing finds."""
        return self.traced.groups

    def notes(self) -> list[str]:
        """Notes on how many BN channels can be removed, why the others cannot, and on a change of the library's version."""
        found, now = self.traced, library_version(self._arch.body)
        kept = ", ".join(f"{count}: {why}" for why, count in sorted(found.kept.items(), key=lambda item: -item[1]))
        free = found.channels - sum(found.kept.values())
        why = f" (kept: {kept})" if kept else ""
        said = [f"{self._arch.body}: {free} of {found.channels} BN channels can be removed{why}"]
        if self._arch.library != now:
            said.append(
                f"the body was made with {self._arch.library}; here it is that of {now}, with tensors of the same shapes"
            )
        return said

    def resize(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the shapes and values of `tensors`, the whole state of the network without the removed units."""
        for name, block in mixed_blocks(self).items():
            start = f"{name}."
            block.resize(self._arch, {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)})
        take(self, tensors)
        self._traced = None
        if not self._arch.own_head:
            self._arch = self._arch.model_copy(update={"channels": [shape[0] for shape in map_shapes(self.body, SHAPE)]})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head([self.body(x)] if self._arch.own_head else self.body(x))
        return out


class _Alone(nn.Module):
    """The body as a module with the name that it has in the whole network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(x)
        return maps


@torch.no_grad()
def take(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the network's tensors to these values and, if they differ, shapes, and update the sizes in their modules."""
    modules, own = dict(net.named_modules()), net.state_dict()
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module, old = modules[path], own[name]
        if old.shape == tensor.shape:
            old.copy_(tensor)
        elif leaf in module._parameters:
            parameter = module._parameters[leaf]
            assert parameter is not None
            new = nn.Parameter(tensor.detach().clone(), requires_grad=parameter.requires_grad)
            if leaf == "weight":
                _describe(module, tuple(old.shape), tuple(tensor.shape))
            module._parameters[leaf] = new
        else:
            module._buffers[leaf] = tensor.detach().clone()


def _describe(module: nn.Module, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Adjust the sizes that a module records to its weight; the groups of a conv are removed as a whole."""
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            module.groups = module.groups * new[0] // old[0]
        module.out_channels, module.in_channels = new[0], new[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = new
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = new[0]


def body_arch(config: ArchConfig, input_shape: tuple[int, int, int]) -> BodyArch:
    """The arch of the full body that `config` names, with the requested feature maps.

    By default, these are all maps from stride 4 on that still have several pixels at `input_shape`. Raises `UserError` for keys
    that belong to the HR-NAS supernet, and for a body or outputs that do not exist.
    """
    assert config.body is not None
    for key in _OF_THE_SUPERNET:
        if getattr(config, key) is not None:
            raise UserError(f"arch.{key}: belongs to the HR-NAS supernet; the body {config.body} has its own")
    about = {"body": config.body, "library": library_version(config.body), "body_bn_momentum": config.bn_momentum}
    if config.own_head:
        return BodyArch.model_validate(about | {"own_head": True})
    with torch.device("meta"):
        net = build_maps(config.body)
        try:
            maps = map_shapes(net, input_shape)
        except (RuntimeError, ValueError) as error:
            size = "x".join(map(str, input_shape[1:]))
            reason = first_line(error)
            raise UserError(f"data.size_px: {config.body} does not work on images of {size} pixels ({reason})") from error
    strides = [round(input_shape[1] / height) for _, height, _ in maps]
    outputs = config.outputs
    if outputs is None:
        outputs = [i for i, (_, h, w) in enumerate(maps) if strides[i] >= 4 and min(h, w) > 1] or [len(maps) - 1]
    if outputs != sorted(set(outputs)) or not outputs or outputs[-1] >= len(maps) or outputs[0] < 0:
        known = ", ".join(f"{i} (stride {stride})" for i, stride in enumerate(strides))
        raise UserError(f"arch.outputs: {outputs} must be rising numbers of {config.body}'s feature maps: {known}")
    return BodyArch.model_validate(about | {"outputs": outputs, "channels": [maps[index][0] for index in outputs]})


_OF_THE_SUPERNET = ("stem", "stem_stride", "stages", "kernels", "expand", "head_expand", "tokens", "bn_eps", "init")
