"""The contract of bodies: every network of a library in the list is traced, shrunk, trained and kept in tickets alike."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from supertickets import draw_ticket, use_body
from supertickets.config.sections import ArchConfig, TrainConfig
from supertickets.deploy.compact import compact
from supertickets.errors import UserError
from supertickets.networks.body import BodyNet
from supertickets.networks.build import build_net, full_arch, read_arch
from supertickets.networks.packaged import PACKAGES
from supertickets.networks.tracing import trace
from supertickets.networks.weights import load_body, read_weights
from supertickets.pruning.mask import apply_mask, mask_gradients
from supertickets.pruning.prune import prune
from supertickets.report.tables import info_tables
from supertickets.search.penalty import build_penalty
from supertickets.search.shrink import shrink
from supertickets.testing import ToyTask, randomise_norms, toy_config
from supertickets.testing.processes import run_on_two_processes
from supertickets.ticket.facts import describe
from supertickets.ticket.ticket import Ticket, _digest
from supertickets.training.batchnorm import recalibrate
from supertickets.training.optim import build_optimizer, set_lr
from supertickets.training.start import start_from_ticket
from supertickets.units.groups import count_units, entries, unit_groups

SHAPE = (3, 64, 64)
DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"
BODIES = {  # what each one is here for
    "timm:tf_efficientnet_lite0": "inverted residuals",
    "timm:regnety_002": "grouped convs, squeeze-and-excitation",
    "timm:ghostnet_050": "concatenation of cheap maps",
    "timm:hrnet_w18_small": "parallel branches",
    "torchvision:shufflenet_v2_x0_5": "split and shuffled channels",
    "torchvision:resnet18": "residual sums",
    "timm:resnet10t": "residual sums",
    "timm:mobilenetv2_050": "inverted residuals",
    "timm:mobilenetv3_small_050": "squeeze-and-excitation, hard swish",
    "timm:mobilenetv4_conv_small_035": "inverted bottlenecks with two depthwise convs",
    "timm:efficientnet_b0": "squeeze-and-excitation, SiLU",
    "timm:mnasnet_small": "inverted residuals",
    "timm:fbnetc_100": "inverted residuals",
    "timm:tinynet_e": "inverted residuals",
    "timm:lcnet_035": "depthwise-separable convs",
    "timm:rexnet_100": "partial residual sums",
    "timm:regnetx_002": "grouped convs",
    "timm:densenet121": "concatenation, BN before conv",
    "timm:dla46_c": "concatenation in trees",
    "timm:repvgg_a0": "sums of branches with BN only",
    "timm:mobileone_s0": "sums of branches",
    "timm:vgg11_bn": "no shortcuts",
    "timm:skresnet18": "attention over branches",
    "timm:resnest14d": "split attention",
    "timm:cs3darknet_s": "cross-stage partial networks",
    "timm:res2net50_14w_8s": "hierarchical splits",
    "timm:selecsls42": "concatenation",
    "torchvision:mobilenet_v3_small": "squeeze-and-excitation",
    "torchvision:googlenet": "inception branches",
    "torchvision:mnasnet0_5": "inverted residuals",
    "torchvision:resnext50_32x4d": "grouped convs",
}
IN_CI = 5  # the first ones, which include residual sums; SUPERTICKETS_ALL_BODIES=1 runs all


def toy(folder: Path, **changes: object) -> ToyTask:
    return ToyTask(toy_config(folder).model_copy(update={"arch": ArchConfig(**changes)}))


def body_net(body: str, task: ToyTask) -> BodyNet:
    torch.manual_seed(0)
    net = build_net(full_arch(ArchConfig(body=body), SHAPE), task)
    assert isinstance(net, BodyNet)
    randomise_norms(net)
    recalibrate(net, [torch.randn(2, *SHAPE)], net)  # values near 1 in every layer
    return net


def halve(net: BodyNet) -> dict[str, torch.Tensor]:
    """Half of all units, at random."""
    generator = torch.Generator().manual_seed(0)
    return {g.name: torch.randperm(g.count, generator=generator) >= -(-g.count // 2) for g in unit_groups(net)}


def gated(net: BodyNet, dead: dict[str, torch.Tensor]) -> BodyNet:
    """A copy in which the BN scales and shifts of dead units are zero."""
    copied = copy.deepcopy(net)
    params = dict(copied.named_parameters())
    with torch.no_grad():
        for group in unit_groups(net):
            for gate in group.gates:
                positions, units = entries(group, gate)
                for name in (gate, f"{gate.removesuffix('weight')}bias"):
                    params[name][positions[dead[group.name][units]]] = 0
    return copied


def check_contract(body: str, folder: Path) -> str:
    """Assert the contract for one body; gives its row of docs/backbones.md."""
    task = toy(folder, body=body)
    net = body_net(body, task)
    row = f"| `{body}` | {BODIES[body]} | {row_of(net)} |"
    dead, full = halve(net), copy.deepcopy(net)
    assert shrink(net, dead) == sum(int(gone.sum()) for gone in dead.values())
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        ours, theirs = (copied.double()(x.double()) for copied in (copy.deepcopy(net), gated(full, dead)))
        assert float((ours - theirs).abs().max()) < 1e-5

    mask, penalty = prune(net, 0.5), build_penalty(net, SHAPE)
    apply_mask(mask, dict(net.named_parameters()))
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    optimizer = build_optimizer(net, TrainConfig())
    net.train()(x).square().mean().backward()
    penalty.add_gradient(net, 1e-3)
    mask_gradients(mask, net)
    optimizer.step()
    assert all(not weight[~mask[name]].any() for name, weight in net.named_parameters() if name in mask)
    assert all(not torch.equal(before[gate], net.get_parameter(gate)) for gate in penalty.weights)

    again = Ticket.load(Ticket.from_net(net.eval(), task, metrics={}, mask=mask).save(folder / "ticket"))
    assert again.arch == net.arch and torch.equal(again.build()(x), net(x))
    return row


def row_of(net: BodyNet) -> str:
    kept = sum(net.traced.kept.values())
    why = ", ".join(f"{count} {why}" for why, count in sorted(net.traced.kept.items(), key=lambda item: -item[1]))
    return f"{net.traced.channels - kept} of {net.traced.channels} | {why or '-'}"


@pytest.mark.slow
@pytest.mark.parametrize("body", list(BODIES)[: None if os.environ.get("SUPERTICKETS_ALL_BODIES") else IN_CI])
def test_bodies_are_traced_shrunk_trained_and_kept(body, tmp_path, toy_installed):
    row = check_contract(body, tmp_path)
    assert row in DOCS.read_text(), "run python core/tests/test_bodies.py to write docs/backbones.md"


class Odd(torch.nn.Module):
    """Channels that are read behind BN, that are not, that are broadcast, and that meet in a sum."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.a, self.b, self.c = conv(3, 8, 1), conv(8, 8, 1), conv(8, 4, 1)
        self.one, self.bn, self.bare = conv(8, 1, 1), torch.nn.BatchNorm2d(8), conv(8, 8, 1)
        self.bn_b, self.bn_c = torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(4)

    def forward(self, x):
        a = self.bn(self.a(x)).relu()
        b = self.bn_b(self.b(a)) + a  # one unit: a and b
        b = b * self.one(b).sigmoid()  # a map for all channels couples none
        return self.bn_c(self.c(self.bare(b))).sigmoid()  # bare has no BN; sigmoid(0) is not 0


def test_units_are_neither_missed_nor_coupled_without_need():
    traced = trace(Odd())
    (group,) = traced.groups
    assert group.count == 8 and set(group.gates) == {"bn.weight", "bn_b.weight"} and group.least == 1
    places = {("a.weight", 0), ("b.weight", 0), ("b.weight", 1), ("one.weight", 1), ("bare.weight", 1), ("a.bias", 0)}
    assert places <= group.cuts.keys() and ("bare.weight", 0) not in group.cuts
    assert traced.channels == 20 and traced.kept == {"the output": 4}


class Tiny(torch.nn.Module):
    """A body of one's own: two maps, a residual sum and a depthwise conv."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside = norm_act(3, 12, stride=4), norm_act(12, 12)
        self.down = torch.nn.Sequential(norm_act(12, 20), norm_act(20, 20, stride=2, groups=20), norm_act(20, 10))

    def forward(self, x):
        fine = self.stem(x)
        fine = fine + self.inside(fine)
        return [fine, self.down(fine)]


def norm_act(c_in: int, c_out: int, *, stride: int = 1, groups: int = 1) -> torch.nn.Sequential:
    conv = torch.nn.Conv2d(c_in, c_out, 3, stride, 1, groups=groups, bias=False)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(c_out), torch.nn.ReLU())


def run(folder: Path, images: int = 48, **sections: dict[str, object]) -> Ticket:
    config = toy_config(folder, **{"search": {"importance": "taylor_per_mac", "divisor": 2}, **sections})
    config = config.model_copy(update={"arch": ArchConfig(body=use_body(Tiny))})
    return draw_ticket(ToyTask(config, images), config)


def test_a_run_meets_its_budget_and_a_resumed_one_ends_bit_for_bit_the_same(tmp_path, toy_installed):
    fine_tuned = {"epochs": 4, "body_lr": 0.3, "freeze_body": 1}
    whole = run(tmp_path / "whole", train=fine_tuned, run={"keep_checkpoints": 9})
    share = whole.metrics["macs"] / whole.provenance["supernet"]["macs"]
    assert 0.5 < share <= 0.6 and abs(whole.sparsity - 0.8) < 2e-3
    for path in (tmp_path / "whole" / "checkpoints").glob("epoch_0002*"):
        (tmp_path / "again" / "checkpoints").mkdir(parents=True)
        path.rename(tmp_path / "again" / "checkpoints" / path.name)
    again = run(tmp_path / "again", train=fine_tuned, run={"resume": True})
    assert again.arch == whole.arch and all(torch.equal(t, whole.tensors[name]) for name, t in again.tensors.items())

    config = toy_config(tmp_path / "x", init={"ticket": tmp_path / "whole" / "ticket", "part": "body"})
    moved, _, _ = start_from_ticket(config.init, ToyTask(config), arch=config.arch, seed=0)
    name, x = "body.net.stem.0.weight", torch.randn(2, 3, 16, 16)
    assert torch.equal(moved.state_dict()[name], whole.tensors[name]) and moved(x).shape == (2, 3, 4, 4)
    with pytest.raises(UserError, match="supertickets.use_body"):
        build_net(whole.arch.model_copy(update={"body": "python:elsewhere.body"}), ToyTask(config))


_WORKER = """
import hashlib, json, sys
from pathlib import Path
import torch
from accelerate import PartialState
import supertickets.task as tasks
sys.path.insert(0, sys.argv[2])
from test_bodies import ToyTask, run
torch.set_num_threads(1)
tasks.task_class = lambda name: ToyTask
ticket = run(Path(sys.argv[1]), 16, train={"batch_size": 4, "epochs": 5, "body_lr": 0.3, "freeze_body": 1})
digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in ticket.tensors.values())).hexdigest()
found = [PartialState().num_processes, ticket.metrics["macs"], ticket.sparsity, digest]
Path(sys.argv[1], f"rank{PartialState().process_index}.json").write_text(json.dumps(found))
"""


def test_two_processes_draw_one_ticket_of_a_body(tmp_path):
    run_on_two_processes(_WORKER, tmp_path, str(tmp_path / "run"), str(Path(__file__).parent))
    first, second = (json.loads((tmp_path / "run" / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second and first[0] == 2 and abs(first[2] - 0.8) < 2e-3


def test_what_no_weight_reads_is_compacted_away(tmp_path, toy_installed):
    task = toy(tmp_path, body=use_body(Tiny))
    net = body_net(use_body(Tiny), task)
    before, x = count_units(net), torch.randn(2, *SHAPE)
    with torch.no_grad():
        net.body.net.down[2][0].weight[:, :5] = 0
        net.body.net.stem[0].weight[:3] = 0  # made of nothing, but read: its BN's shift is a value
        small = compact(Ticket.from_net(net, task, metrics={})).build()
        torch.testing.assert_close(small(x), net(x), atol=1e-6, rtol=1e-5)
    assert count_units(small) == before - 5


def test_a_body_rests_first_and_has_a_rate_of_its_own(tmp_path):
    net = body_net(use_body(Tiny), toy(tmp_path, body=use_body(Tiny)))
    assert len(build_optimizer(net, TrainConfig()).param_groups) == 2
    optimizer = build_optimizer(net, TrainConfig(body_lr=0.1))
    set_lr(optimizer, 1.0, body=0.1)
    in_groups = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(in_groups[id(p)] == (0.1 if name.startswith("body.") else 1.0) for name, p in net.named_parameters())


def test_wrong_bodies_and_weights_are_named_in_one_line(tmp_path):
    def said(input_shape=SHAPE, **keys) -> str:
        with pytest.raises(UserError) as error:
            full_arch(ArchConfig(**keys), input_shape)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "did you mean resnet18?" in said(body="timm:resnet_18")
    assert "no network 'mobilenet_v22'; did you mean mobilenet_v2?" in said(body="torchvision:mobilenet_v22")
    for strange in ("timm", "hub:resnet18", "timm:hf-hub:a/b", "timm:/tmp/x", "torchvision:local-dir:x", "resnet18"):
        assert "arch.body" in said(body=strange)
    assert "no batch normalisation" in said(body="timm:convnext_atto") and "LayerNorm" in said(body="timm:convnext_atto")
    assert "stride 32" in said(body="timm:lcnet_035", outputs=[1, 9])
    assert "belongs to the HR-NAS supernet" in said(body="timm:lcnet_035", expand=2)

    task = toy(tmp_path, body="timm:lcnet_035")
    net = body_net("timm:lcnet_035", task)
    named = {name: torch.full_like(tensor, 0.5) for name, tensor in net.body.state_dict().items()}
    config = ArchConfig(body="timm:lcnet_035", weights=tmp_path / "w.safetensors")
    save_file(named, config.weights)
    load_body(net, config)
    assert all(bool((p == 0.5).all()) for p in net.body.parameters())
    save_file({f"x.{name}": tensor for name, tensor in named.items()}, config.weights)
    with pytest.raises(UserError, match="has no tensor conv_stem.weight, which the body needs"):
        load_body(net, config)
    in_order = {"weights": tmp_path / "order.pth", "weights_by": "order"}
    torch.save({f"x.{name}": tensor for name, tensor in named.items()}, in_order["weights"])
    load_body(net, config.model_copy(update=in_order))
    with pytest.raises(UserError, match="does not keep the order"):
        load_body(net, config.model_copy(update={"weights_by": "order"}))
    save_file(named | {"blocks.0.0.conv_dw.weight": torch.zeros(9, 1, 3, 3)}, config.weights)
    with pytest.raises(UserError, match=r"belongs to another network: blocks.0.0.conv_dw.weight is \[9, 1, 3, 3\]"):
        load_body(net, config)
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    with pytest.raises(UserError, match="not a file of tensors"):
        load_body(net, config.model_copy(update={"weights": tmp_path / "w.pth"}))
    for wrong in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.zeros(3, dtype=torch.complex64)):
        torch.save({"a": wrong}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"w\.pth: a is not an ordinary tensor of real numbers"):
            read_weights(tmp_path / "w.pth")
    torch.save({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: a holds numbers that are not finite"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(UserError, match="a body needs a budget"):
        run(tmp_path / "run", search={"target_macs": None})


def test_a_ticket_names_a_body_of_the_list_and_computes_what_it_did(tmp_path, toy_installed):
    task = toy(tmp_path, body="timm:lcnet_035")
    net = body_net("timm:lcnet_035", task)
    shrink(net, halve(net))
    folder = Ticket.from_net(net, task, metrics={}).save(tmp_path / "ticket")
    about = json.loads((folder / "ticket.json").read_text())
    (table,) = info_tables(describe(Ticket.load(folder)), "ticket", layers=False)
    assert "units" in table.columns[0].cells and not {"blocks", "tokens"} & set(table.columns[0].cells)

    def said(**changes: object) -> str:
        changed = copy.deepcopy(about)
        changed["arch"] |= changes.pop("arch", {})
        changed |= changes
        changed["sha256"] = _digest({key: value for key, value in changed.items() if key != "sha256"})
        (folder / "ticket.json").write_text(json.dumps(changed))
        with pytest.raises(UserError) as error:
            Ticket.load(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        return str(error.value)

    shapes = about["arch"]["shapes"]
    stem = shapes["body.conv_stem.weight"]
    assert "arch.body" in said(arch={"body": "timm:hf-hub:a/b"}) and "arch" in said(arch={"checkpoint_path": "x"})
    assert "not a part of it" in said(arch={"shapes": shapes | {"body.conv_stem.weight": [10**6, *stem[1:]]}})
    assert "no tensor body.x" in said(arch={"shapes": shapes | {"body.x": [1]}})
    said(arch={"shapes": shapes | {"body.conv_stem.weight": [stem[0] - 1, *stem[1:]]}})
    said(arch={"channels": [10**9] * 4})
    assert "its outputs are not those" in said(fingerprint=[value + 1 for value in about["fingerprint"]])
    (folder / "ticket.json").write_text(json.dumps(about))
    other = read_arch(about["arch"] | {"library": "timm 0.1"})
    assert any("made with timm 0.1" in note for note in build_net(other, task).notes())


HEAD = """# Backbones

This page lists the networks of timm and torchvision that have been tested as `arch.body`, with random weights and a
`PyramidHead`. Each of them passes these checks of `core/tests/test_bodies.py`:

- After half of all units are removed, the outputs equal those of the full network with these units set to zero.
- The network trains for one step with a mask and the penalty.
- A ticket of the network gives the same outputs, bit for bit.

The third column shows how many of the channels with batch normalisation (BN) in body and head can be removed. The last
column says why the other channels stay, namely which operations tracing does not follow. The sparse engine runs all of
these networks except `skresnet18` and `resnest14d`. This page is generated by `python core/tests/test_bodies.py`.

| body | covers | BN channels that can be removed | channels that stay |
|---|---|---|---|
"""


if __name__ == "__main__":  # writes docs/backbones.md
    from supertickets import task as tasks

    torch.set_num_threads(1)
    tasks.task_class = lambda name: ToyTask
    rows = []
    for name in BODIES:
        with tempfile.TemporaryDirectory() as place:
            rows.append(check_contract(name, Path(place)))
        print(rows[-1], file=sys.stderr, flush=True)
    DOCS.write_text(HEAD + "\n".join(rows) + "\n")


def test_packages_name_bodies_and_files():
    """Each package has a body of its library."""
    timm = pytest.importorskip("timm")
    for name, package in PACKAGES.items():
        library, body = package.body.split(":")
        assert library == "timm" and body in timm.list_models() and body.endswith(name)


def test_a_body_on_images_that_are_too_small_is_one_line():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"data\.size_px: timm:vgg11_bn does not work on images of 16x16 pixels \(.+\)$"):
        full_arch(ArchConfig(body="timm:vgg11_bn"), (3, 16, 16))
