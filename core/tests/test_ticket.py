"""The ticket folder: small, exact, checked, never unpickled."""

from __future__ import annotations

import json

import pytest
import torch

from supertickets.config.sections import ArchConfig, Config
from supertickets.errors import UserError
from supertickets.networks.arch import resolve_arch
from supertickets.networks.heads import DenseHead
from supertickets.networks.supernet import Supernet, prunable
from supertickets.pruning.prune import hold, prune
from supertickets.search.shrink import shrink
from supertickets.testing import ToyTask, micro_net, randomise_norms
from supertickets.ticket.facts import describe
from supertickets.ticket.ticket import Ticket

pytestmark = pytest.mark.usefixtures("toy_installed")


def toy_ticket(net: Supernet, share: float) -> Ticket:
    randomise_norms(net)
    mask = prune(net, share) if share else {}
    hold(mask, net)
    return Ticket.from_net(net.eval(), ToyTask(Config()), metrics={"accuracy": 0.5, "iou": {"red": None}}, mask=mask)


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize("tokens", [0, 4])
def test_save_load_gives_the_same_logits_bit_for_bit(tmp_path, share, tokens):
    net = micro_net(tokens=tokens)
    gone = {
        "stages.2.branches.1.0.depthwise.3": torch.arange(24) < 24,
        "stages.2.branches.1.0.depthwise.5": torch.arange(24) < 6,
    }
    shrink(net, gone)
    ticket = toy_ticket(net, share)
    again = Ticket.load(ticket.save(tmp_path / "ticket"))
    x = torch.randn(2, 3, 30, 30)
    assert torch.equal(net(x), again.build()(x))
    assert again.arch == net.arch and again.metrics == ticket.metrics
    assert set(again.mask) == set(ticket.mask) and all(torch.equal(again.mask[n], ticket.mask[n]) for n in again.mask)
    assert again.sparsity == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("preset", ["paper", "small", "tiny", "nano"])
def test_file_shrinks_with_sparsity(tmp_path, preset):
    arch = resolve_arch(ArchConfig(preset=preset))
    net = Supernet(arch, DenseHead(arch, channels=8, outputs=3))
    sizes = []
    for share in (0.0, 0.9):
        folder = toy_ticket(net, share).save(tmp_path / str(share))
        sizes.append((folder / "ticket.safetensors").stat().st_size)
    assert sizes[1] <= 0.25 * sizes[0]


@pytest.mark.parametrize("name", ["ticket.json", "ticket.safetensors"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    path = toy_ticket(micro_net(), 0.5).save(tmp_path / "t") / name
    data = bytearray(path.read_bytes())
    spot = data.index(b"toy") if name.endswith("json") else len(data) // 2
    data[spot] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{name}.*(damaged|checksum)"):
        Ticket.load(tmp_path / "t")


def test_missing_and_foreign_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*no such file.*ticket\.json"):
        Ticket.load(tmp_path / "nowhere")
    (tmp_path / "ticket.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not a ticket"):
        Ticket.load(tmp_path)
    folder = toy_ticket(micro_net(), 0.5).save(tmp_path / "t")
    about = json.loads((folder / "ticket.json").read_text())
    (folder / "ticket.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Ticket.load(folder)
    (folder / "ticket.safetensors").unlink()
    (folder / "ticket.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"ticket\.safetensors"):
        Ticket.load(folder)


def test_a_mask_that_the_weights_do_not_obey_is_refused():
    net = micro_net()
    with pytest.raises(ValueError, match="nonzero weights that its mask"):
        Ticket.from_net(net, ToyTask(Config()), metrics={}, mask=prune(net, 0.5))


def test_saving_again_replaces_whole(tmp_path):
    toy_ticket(micro_net(), 0.5).save(tmp_path / "t")
    second = toy_ticket(micro_net(seed=1), 0.8)
    second.save(tmp_path / "t")
    assert Ticket.load(tmp_path / "t").sparsity == pytest.approx(0.8, abs=1e-4)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["t", "ticket.json", "ticket.safetensors"]


def test_facts_of_a_ticket():
    net = micro_net(tokens=3)
    ticket = toy_ticket(net, 0.8)
    facts, bigger = describe(ticket, (16, 16)), describe(ticket, (32, 32))
    assert facts["prunable"] == sum(w.numel() for w in prunable(net).values())
    assert facts["sparsity"] == pytest.approx(0.8, abs=1e-4) and facts["size"] == [16, 16]
    assert 0 < facts["sparse_macs"] < facts["macs"] < bigger["macs"]
    assert facts["units"] == sum(facts["units_per_kernel"].values()) + facts["tokens"]
    pruned = sum(round(layer["weights"] * layer["sparsity"]) for layer in facts["layers"].values())
    assert pruned == round(0.8 * facts["prunable"])
    json.dumps(facts)
