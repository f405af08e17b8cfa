"""The data sets of the comparison, and for each of them the networks that entrants can start from, as configs of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.errors import one_of
from supertickets.networks.build import build_net, full_arch
from supertickets.networks.macs import count_layers, dense_macs
from supertickets.recipes import find_recipe
from supertickets.task import package_of, task_class

BUDGET = 0.5  # share of the MACs of the network that a search or a pruner starts from
LRASPP = "lraspp_"  # prefix of the name of torchvision's whole segmentation network, before the name of its body
LARGER = ("lite1", "lite2")  # searched down to the MACs of Lite0, and to half of them
LITE = ("lite0", *LARGER)  # EfficientNet-Lite, trained on ImageNet
SEARCHED = ("hrnas", *LITE)  # these networks are searched or pruned; the others are only trained
NO_SUPERNET = {"preset": "paper", **dict.fromkeys(("stages", "kernels", "expand", "stem_stride"), "null")}


@dataclass(frozen=True)
class DataSet:
    """One table of the comparison. `minutes` is the CPU time for the training of each entrant."""

    task: str
    recipe: str
    minutes: float
    small: Sequence[str] = ("mobilenet_v3_small", "shufflenet_v2_x0_5")  # networks from torchvision
    lite0_recipe: str | None = None  # unset: `recipe` with an EfficientNet-Lite in place of its supernet
    enlarged: Mapping[str, str] = field(default_factory=dict)  # settings that give small networks the images of `lite0_recipe`


DATA_SETS = {
    "scenes": DataSet("classification", "scenes", 5),
    "cifar10": DataSet(
        "classification",
        "cifar10",
        35,
        lite0_recipe="cifar10_lite0",
        enlarged={"data.size_px": "[64,64]", "data.pad_px": "8"},
    ),
    "tinyimagenet": DataSet("classification", "tinyimagenet", 11),
    "camvid": DataSet(
        "segmentation",
        "camvid",
        5,
        small=("mobilenet_v3_small", "shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large"),
        lite0_recipe="camvid_lite0",
    ),
    "lspet": DataSet("keypoint", "lspet", 4, lite0_recipe="lspet_lite0"),
}
QUIET = {
    **dict.fromkeys(("run.report", "run.tensorboard", "run.native_ms"), "false"),
    **{"run.examples": "0", "train.evaluate_every": "100000"},
}
_TAYLOR = {"importance": "taylor_per_mac", "rho": "0", "divisor": "8"}


def starts_of(data_set: str) -> list[str]:
    """The networks that this data set is compared with, by name."""
    return [*SEARCHED, *DATA_SETS[data_set].small]


def config_of(data_set: str, start: str, overrides: Sequence[str] = ()) -> Config:
    """The config that trains the network `start` on a data set, with a search to half of the MACs (of Lite0, if it is larger).

    `overrides` are additional pairs of `--key value`. Raises `UserError` for an unknown data set, and as `load_config` does.
    """
    chosen = one_of(DATA_SETS, data_set, key="data set")
    cls = task_class(chosen.task)
    keys = {**QUIET, "search.target_macs": str(BUDGET * lite0_macs(data_set, overrides) if start in LARGER else BUDGET)}
    recipe = chosen.recipe
    if start in LITE:
        keys |= {
            "arch.body": f"timm:tf_efficientnet_{start}",
            "arch.weights": f"${{SUPERTICKETS_WEIGHTS}}/efficientnet_{start}.safetensors",
        }
        if chosen.lite0_recipe:
            recipe = chosen.lite0_recipe
        else:
            keys |= {f"arch.{key}": value for key, value in NO_SUPERNET.items()} | {"arch.own_head": "true", "train.lr": "1e-3"}
            keys |= {f"search.{key}": value for key, value in _TAYLOR.items()}
    elif start != "hrnas":
        body = {"body": f"torchvision:{start.removeprefix(LRASPP)}", "own_head": str(chosen.task == "classification").lower()}
        keys |= {f"arch.{key}": value for key, value in (NO_SUPERNET | body).items()} | chosen.enlarged
    return load_config(cls.Config, find_recipe(recipe, package_of(cls)), [*as_arguments(keys), *overrides])


def lite0_macs(data_set: str, overrides: Sequence[str] = ()) -> int:
    """The MACs of EfficientNet-Lite0 on a data set."""
    config = config_of(data_set, "lite0", overrides)
    task = task_class(DATA_SETS[data_set].task)(config)
    with torch.device("meta"):
        net = build_net(full_arch(config.arch, task.input_shape), task)
    return dense_macs(count_layers(net, task.input_shape))


def as_arguments(keys: Mapping[str, str]) -> list[str]:
    """Settings as arguments of a command line."""
    return [word for key, value in keys.items() for word in (f"--{key}", value)]


def as_it_is(config: Config) -> Config:
    """The config without search and pruning."""
    return config.changed(search={"enabled": False}, prune={"enabled": False})
