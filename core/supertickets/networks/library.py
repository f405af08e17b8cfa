"""Networks of torchvision and timm by name: their feature maps, their own input statistics and their published weights.

A name must be in the library's own list; no addresses, paths or constructor arguments are taken from a config or a ticket.
Building a network downloads nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, fx, nn

from supertickets.errors import UserError, first_line
from supertickets.networks.macs import ShapesAlone, copy_to_meta

LIBRARIES = ("timm", "torchvision")
SHAPE = (3, 256, 256)
OWN = "python"  # in place of a library: the user's own network
_factories: dict[str, Callable[[], nn.Module]] = {}


def use_body(factory: Callable[[], nn.Module]) -> str:
    """Register a network of your own in this process; returns its name for `arch.body`.

    `factory()` returns a module (B, 3, H, W) -> list of feature maps (B, C, H, W), finest first. Tickets store this name, but
    loading a ticket does not import the network: call `use_body` first.
    """
    body = f"{OWN}:{factory.__module__}.{factory.__qualname__}"
    _factories[body] = factory
    return body


class Chosen(nn.Module):
    """Selects some of the feature maps of a network that returns a list of them."""

    def __init__(self, net: nn.Module, outputs: Sequence[int] | None) -> None:
        super().__init__()
        self.net, self.outputs = net, outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = list(self.net(x))
        return maps if self.outputs is None else [maps[index] for index in self.outputs]


class Maps(nn.Module):
    """(B, 3, H, W) -> feature maps of a torchvision network, finest first: the outputs of the modules named `taps`."""

    def __init__(self, net: nn.Module, taps: Sequence[str]) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.ops import StochasticDepth

        # torchvision keeps a graph for each mode and loses one of them when it is copied. If random depth stays a separate
        # module, both are the same.
        leaves = {"leaf_modules": [StochasticDepth]}
        both = create_feature_extractor(net, {tap: str(index) for index, tap in enumerate(taps)}, tracer_kwargs=leaves)
        self.net = fx.GraphModule(both, both.eval_graph)
        self.count = len(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net(x)
        return [maps[str(index)] for index in range(self.count)]


def split_name(body: str) -> tuple[str, str]:
    """Library and name of `library:name`. Raises `UserError` with the most similar name if there is no such network."""
    library, _, name = body.partition(":")
    if library == OWN:
        if body not in _factories:
            raise UserError(f"arch.body: {body!r} is a custom network; register it with supertickets.use_body first")
        return library, name
    if library not in LIBRARIES or not name:
        raise UserError(f"arch.body: {body!r} is not of the form {' or '.join(f'{known}:NAME' for known in LIBRARIES)}")
    names = _names(library)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise UserError(f"arch.body: {library} has no network {name!r}{f'; did you mean {near[0]}?' if near else ''}")
    return library, name


def _names(library: str) -> list[str]:
    if library == "torchvision":
        from torchvision import models

        return list(models.list_models(module=models))
    return list(_timm().list_models())


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("arch.body: bodies of timm need the package timm: pip install 'supertickets[timm]'") from error
    return timm


def library_version(body: str) -> str:
    """Library and version, such as `timm 1.0.31`."""
    library, _ = split_name(body)
    return OWN if library == OWN else f"{library} {version(library)}"


def build_classifier(body: str, classes: int) -> nn.Module:
    """The library's whole network with random weights: (B, 3, H, W) -> logits (B, classes). Raises as `build_maps` does."""
    library, name = split_name(body)
    if library == OWN:
        raise UserError(f"arch.own_head: {body} gives feature maps and has no head of its own")
    if library == "timm":
        net: nn.Module = _timm().create_model(name, pretrained=False, num_classes=classes)
    else:
        net = _torchvision_net(name, num_classes=classes)
    return _with_norms(body, net)


def build_maps(body: str, outputs: Sequence[int] | None = None) -> nn.Module:
    """The network with random weights: (B, 3, H, W) -> its feature maps `outputs` (default: all), finest first.

    Raises `UserError` if the library has no such network or map, and for a network without batch normalisation.
    """
    library, name = split_name(body)
    try:
        if library == OWN:
            net: nn.Module = Chosen(_factories[body](), outputs)
        else:
            net = _timm_maps(name, outputs) if library == "timm" else _torchvision_maps(name, outputs)
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, NotImplementedError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(f"arch.body: {body} gives no feature maps{_which(outputs)} ({reason})") from error
    return _with_norms(body, net)


def _with_norms(body: str, net: nn.Module) -> nn.Module:
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        norms = sorted({type(m).__name__ for m in net.modules() if "Norm" in type(m).__name__})
        instead = f" (it has {', '.join(norms)})" if norms else ""
        raise UserError(f"arch.body: {body} has no batch normalisation, whose scales the search works on{instead}")
    return net


def _which(outputs: Sequence[int] | None) -> str:
    return "" if outputs is None else f" {list(outputs)}"


def _timm_maps(name: str, outputs: Sequence[int] | None) -> nn.Module:
    if outputs is None:  # request all of them, as timm's default omits some
        with torch.device("meta"):
            known = _timm().create_model(name, pretrained=False, features_only=True).feature_info.info
        outputs = range(len(known))
    net: nn.Module = _timm().create_model(name, pretrained=False, features_only=True, out_indices=tuple(outputs))
    return net


def _torchvision_maps(name: str, outputs: Sequence[int] | None) -> nn.Module:
    net = _torchvision_net(name)
    found = _last_of_each_size(net)
    return Maps(net, [found[index] for index in (range(len(found)) if outputs is None else outputs)])


def _torchvision_net(name: str, **options: int) -> nn.Module:
    from torchvision import models

    inception = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    net: nn.Module = models.get_model(name, weights=None, **inception, **options)
    return net


@torch.no_grad()
def _last_of_each_size(net: nn.Module) -> list[str]:
    """The modules with the last output (B, C, h, w) of each size, finest first; of several, the outermost one."""
    last: dict[int, str] = {}
    meta = copy_to_meta(net).eval()

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and 1 < output.shape[-1] < SHAPE[-1]:
                last[output.shape[-1]] = name  # the hook of an outer module runs after those of inner modules

        return hook

    for name, module in meta.named_modules():
        if name and name.count(".") <= 1:  # stages and blocks, not what is inside them
            module.register_forward_hook(note(name))
    with ShapesAlone():
        meta(torch.empty(1, *SHAPE, device="meta"))
    return [last[side] for side in sorted(last, reverse=True)]


@torch.no_grad()
def map_shapes(net: nn.Module, shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """(C, H, W) of each feature map for one input of `shape`, finest first."""
    meta = copy_to_meta(net).eval()
    with ShapesAlone():
        maps = meta(torch.empty(1, *shape, device="meta"))
    if any(m.ndim != 4 for m in maps):
        raise UserError("arch.body: its outputs are not feature maps (B, C, H, W)")
    return [tuple(m.shape[1:]) for m in maps]


def input_statistics(body: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of R, G and B, in 0..1, that the network's published weights expect."""
    library, name = split_name(body)
    if library == "timm":
        published = _timm().get_pretrained_cfg(name)
        if published is not None:
            return tuple(published.mean), tuple(published.std)
    elif library == "torchvision":
        from torchvision import models

        weights = models.get_model_weights(name)
        if len(weights):
            preset = next(iter(weights)).transforms()
            return tuple(preset.mean), tuple(preset.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published_weights(body: str) -> dict[str, Tensor]:
    """The weights that the library publishes, from its cache or downloaded. Raises `UserError` if neither is possible."""
    library, name = split_name(body)
    if library == OWN:
        raise UserError(f"arch.pretrained: {body} has no published weights; give a file in arch.weights")
    try:
        if library == "timm":
            return dict(_timm().create_model(name, pretrained=True).state_dict())
        from torchvision import models

        return dict(models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # libraries raise many kinds of errors for downloads
        reason = first_line(error)
        raise UserError(
            f"arch.pretrained: the weights of {body} could not be loaded ({reason:.160}); give a file in arch.weights instead"
        ) from error
