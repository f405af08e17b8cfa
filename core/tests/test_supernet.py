"""The network: counts against the published method, one-conv form against kernel by kernel, rebuilt from numbers alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supertickets.config.sections import ArchConfig
from supertickets.errors import UserError
from supertickets.networks.arch import SupernetArch, resolve_arch
from supertickets.networks.blocks import MixedBlock, mixed_blocks
from supertickets.networks.heads import ClassificationHead, DenseHead
from supertickets.networks.macs import count_layers, count_params, dense_macs, sparse_layer_macs
from supertickets.networks.supernet import Supernet, prunable
from supertickets.search.shrink import shrink
from supertickets.testing import micro_arch, micro_net, randomise_norms
from supertickets.units.costs import unit_costs
from supertickets.units.groups import unit_groups


@pytest.mark.parametrize(
    ("head", "outputs", "size", "weights", "params", "macs"),
    [
        (90, 19, (512, 1024), 9_921_330, 10_110_235, 61.8366e9),  # Cityscapes
        (180, 150, (512, 512), 10_213_200, 10_427_706, 36.1147e9),  # ADE20K
        (90, 17, (256, 192), 9_921_330, 10_110_053, 5.7966e9),  # COCO keypoints
    ],
)
def test_full_supernet_has_the_published_counts(head, outputs, size, weights, params, macs):
    arch = resolve_arch(ArchConfig(preset="paper"))
    with torch.device("meta"):
        net = Supernet(arch, DenseHead(arch, channels=head, outputs=outputs))
    blocks = mixed_blocks(net)
    assert len(blocks) == 61
    assert sum(sum(block.units.values()) for block in blocks.values()) == 44_928
    assert sum(weight.numel() for weight in prunable(net).values()) == weights
    assert count_params(net) == params
    assert dense_macs(count_layers(net, (3, *size))) == pytest.approx(macs, rel=1e-3)


def test_full_classification_supernet_has_the_published_counts():
    arch = resolve_arch(ArchConfig(preset="paper"))
    with torch.device("meta"):
        net = Supernet(arch, ClassificationHead(arch, classes=1000))
    blocks = mixed_blocks(net)
    assert len(blocks) == 67
    assert sum(sum(block.units.values()) for block in blocks.values()) == 47_952
    assert sum(weight.numel() for weight in prunable(net).values()) == 11_438_360
    assert count_params(net) == 13_243_868
    assert dense_macs(count_layers(net, (3, 224, 224))) == pytest.approx(2.4228e9, rel=1e-3)


@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("size", [32, 33])
def test_classification_head_takes_any_number_of_branches_and_any_size(branches, size):
    stages = [{"blocks": [1] * b, "widths": [4, 8, 12][:b]} for b in range(1, branches + 1)]
    arch = SupernetArch.from_dict({"stages": stages, "stem": [4, 4], "stem_stride": 1})
    net = Supernet(arch, ClassificationHead(arch, classes=3, widths=(6, 8, 10), channels=16)).eval()
    assert net(torch.randn(2, 3, size, size)).shape == (2, 3)
    assert Supernet(net.arch, ClassificationHead(net.arch, classes=3, widths=(6, 8, 10), channels=16)).arch == net.arch
    with pytest.raises(UserError, match=r"head\.widths: 0 widths"):
        ClassificationHead(arch, classes=3, widths=())


def kernel_by_kernel(block: MixedBlock, x: Tensor) -> Tensor:
    """The block as the papers write it: an inverted residual a kernel, summed, one BN, the shortcut. Written independently."""
    total, at = 0, 0
    for k, n in block.units.items():
        rows = slice(at, at + n)
        at += n

        def bn(t: Tensor, norm: nn.BatchNorm2d, rows: slice = rows) -> Tensor:
            stats = norm.running_mean[rows], norm.running_var[rows], norm.weight[rows], norm.bias[rows]
            return F.batch_norm(t, *stats, training=False, eps=norm.eps)

        h = F.relu(bn(F.conv2d(x, block.expand.weight[rows]), block.expand_bn))
        depthwise = block.depthwise[str(k)].weight
        h = F.relu(bn(F.conv2d(h, depthwise, stride=block.stride, padding=k // 2, groups=n), block.depthwise_bn))
        total = total + F.conv2d(h, block.project.weight[:, rows])
    return block.project_bn(total) + block.shortcut(x)


@pytest.mark.parametrize(("c_out", "stride", "units"), [(6, 1, None), (8, 2, {3: 5, 7: 2}), (9, 1, {5: 7})])
def test_one_conv_block_equals_kernel_by_kernel(c_out, stride, units):
    arch = micro_arch(units={"b": units} if units else {})
    torch.manual_seed(0)
    block = MixedBlock(6, c_out, stride=stride, arch=arch, name="b")
    randomise_norms(block)
    block.eval()
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(block(x), kernel_by_kernel(block, x), atol=1e-5, rtol=1e-5)


def test_empty_block_is_its_shortcut():
    block = MixedBlock(6, 8, stride=2, arch=micro_arch(units={"b": {3: 0}}), name="b")
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(x))
    assert [name for name, _ in block.named_parameters()] == ["shortcut.weight"]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_output_stride_and_odd_sizes(stride):
    net = micro_net(stem_stride=stride).eval()
    for height, width in ((32, 48), (37, 51)):
        out = net(torch.randn(1, 3, height, width))
        assert out.shape[-2:] == (-(-height // stride), -(-width // stride))


def test_fusion_of_odd_sizes_follows_the_first_summand():
    fusion = micro_net().stages[2].fusion
    sizes = [(13, 9), (7, 5)]
    out = fusion([torch.randn(1, w, *size) for w, size in zip((4, 6), sizes, strict=True)])
    assert [tuple(f.shape[-2:]) for f in out] == [(13, 9), (7, 5), (4, 3)]


@pytest.mark.parametrize("tokens", [0, 5])
def test_rebuilt_from_json_alone(tokens):
    units = {"stages.2.branches.1.0": {3: 2, 7: 4}, "head.block": {}, "stages.0.fusion.edges.0to0": {5: 3}}
    net = micro_net(tokens=tokens, units=units).eval()
    arch = SupernetArch.from_dict(json.loads(json.dumps(net.arch.to_dict())))
    again = Supernet(arch, DenseHead(arch, channels=8, outputs=3)).eval()
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(net(x), again(x))
    assert again.arch == net.arch


def test_head_expand_is_for_the_block_of_the_dense_head():
    arch = resolve_arch(ArchConfig(preset="tiny"))
    blocks = mixed_blocks(Supernet(arch, DenseHead(arch, channels=48, outputs=3)))
    assert blocks.pop("head.block").units == dict.fromkeys(arch.kernels, sum(arch.widths))
    assert all(block.units == dict.fromkeys(arch.kernels, 4 * block.in_channels) for block in blocks.values())
    wide = resolve_arch(ArchConfig(preset="tiny", head_expand=4))
    assert wide.units_of("head.block", 112) == dict.fromkeys(arch.kernels, 4 * 112)
    assert arch.units_of("head.widen.0", 16) == dict.fromkeys(arch.kernels, 4 * 16)  # of classification: reads one branch


def test_block_names_are_module_paths():
    assert all(path == block.name for path, block in mixed_blocks(micro_net()).items())


@pytest.mark.parametrize("tokens", [0, 5])
def test_macs_equal_flop_counter(tokens):
    units = {"stages.2.branches.1.0": {3: 2, 7: 4}, "head.block": {3: 9}, "stages.1.branches.0.0": {}}
    net = micro_net(tokens=tokens, units=units).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(torch.randn(1, 3, 34, 50))
    assert dense_macs(count_layers(net, (3, 34, 50))) == counter.get_total_flops() / 2


def test_sparse_macs_count_nonzero_weights_layer_by_layer():
    net = micro_net()
    layers = count_layers(net, (3, 32, 32))
    before = sparse_layer_macs(net, layers)
    with torch.no_grad():
        net.stem[0].weight.view(-1)[:10] = 0
    after = sparse_layer_macs(net, layers)
    assert before["stem.0"] - after["stem.0"] == 10 * layers["stem.0"].positions
    assert sum(before.values()) - sum(after.values()) == 10 * 16 * 16


def test_unit_costs_are_exact():
    full, layers = micro_net(), count_layers(micro_net(), (3, 32, 32))
    costs = {resource: unit_costs(full, unit_groups(full), layers, resource) for resource in ("macs", "params")}
    name = "stages.1.fusion.edges.0to1"
    fewer = micro_net(units={name: {3: 16, 5: 14, 7: 16}})
    saved = dense_macs(count_layers(full, (3, 32, 32))) - dense_macs(count_layers(fewer, (3, 32, 32)))
    assert saved == 2 * float(costs["macs"][f"{name}.depthwise.5"][0])
    assert count_params(full) - count_params(fewer) == 2 * float(costs["params"][f"{name}.depthwise.5"][0])


def test_initial_scale_counts_the_expansion_per_kernel():
    net = Supernet(resolve_arch(ArchConfig(preset="small", init="fan_out")))
    block = net.stages[2].branches[2][0]
    assert float(block.expand.weight.detach().std()) == pytest.approx((2 / (4 * 64)) ** 0.5, rel=0.05)
    assert float(block.depthwise["7"].weight.detach().std()) == pytest.approx((2 / 49) ** 0.5, rel=0.05)


def test_small_head_init_starts_with_even_odds():
    net = micro_net(init="small_head")
    assert (
        float(net(torch.randn(4, 3, 32, 32)).detach().std())
        < 0.5
        < float(micro_net(init="fan_out")(torch.randn(4, 3, 32, 32)).detach().std())
    )


def test_reduced_init_is_smaller_where_a_norm_follows():
    stds = {}
    for init in ("small_head", "reduced"):
        torch.manual_seed(0)
        net = Supernet(resolve_arch(ArchConfig(preset="small", init=init)))
        stds[init] = {name: float(weight.detach().std()) for name, weight in prunable(net).items()}
    for name, std in stds["reduced"].items():
        free = any(part in name for part in ("expand", "project", "depthwise"))
        assert std == pytest.approx(stds["small_head"][name] * (0.3 if free else 1), rel=1e-5)


def test_small_normal_init():
    net = Supernet(resolve_arch(ArchConfig(preset="tiny", init="small_normal")))
    assert float(net.stages[2].branches[2][0].project.weight.std()) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kernels": [2]}, "odd"),
        ({"stages": [{"blocks": [1, 1], "widths": [4, 4]}]}, "one branch"),
        ({"widths": 3}, "widths"),
    ],
)
def test_wrong_arch_is_refused(change, word):
    with pytest.raises(UserError, match=word):
        SupernetArch.from_dict({"stages": [{"blocks": [1], "widths": [4]}], **change})


@pytest.mark.parametrize("training", [False, True])
def test_cutting_a_dead_token_changes_nothing(training):
    """gamma = beta = 0: nobody looks at the token and it adds nothing, so the network without it gives the same output."""
    net = micro_net(tokens=6).double()
    randomise_norms(net)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dead = torch.tensor([False, True, False, False, True, False])
    with torch.no_grad():
        norms = [module for name, module in net.named_modules() if name.endswith("token_bn")]
        for norm in norms:
            norm.weight[dead], norm.bias[dead] = 0, 0
    small = copy.deepcopy(net)
    shrink(small, {group.name: dead for group in unit_groups(net) if group.kind == "token"})
    net.train(training), small.train(training)
    for module in (*net.modules(), *small.modules()):
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    x = torch.randn(3, 3, 32, 32, dtype=torch.double)
    torch.testing.assert_close(small(x), net(x), atol=1e-10, rtol=1e-10)
