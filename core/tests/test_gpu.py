"""Laws of training on a GPU: the same numbers as on a CPU, in every precision and layout. Run with `pytest -m gpu`."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supertickets.draw import draw_ticket
from supertickets.testing import ToyTask, micro_net, randomise_norms, toy_config
from supertickets.training.recompute import recompute_blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("toy_installed"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch) -> None:
    """TF32 has ten bits; here the arithmetic is compared, not its precision."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def passes(net: nn.Module, device: str, *, layout=torch.contiguous_format, half=None) -> tuple[torch.Tensor, dict]:
    """Output and gradients of one forward and backward pass in training mode, as float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 64, 64, generator=generator).to(device, memory_format=layout)
    labels = torch.randint(0, 3, (4, 64, 64), generator=generator).to(device)
    net = copy.deepcopy(net).to(device, memory_format=layout).train()
    with torch.autocast(device, half, enabled=half is not None):
        out = net(x)
        loss = F.cross_entropy(F.interpolate(out.float(), (64, 64), mode="bilinear"), labels)
    loss.backward()
    return out.detach().float().cpu(), {name: param.grad.float().cpu() for name, param in net.named_parameters()}


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference as a share of the norm."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-6))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("precision", "allowed"), [("no", 1e-3), ("bf16", 0.15), ("fp16", 0.03)])
def test_a_pass_agrees_with_the_cpu(layout, precision, allowed):
    net = micro_net()
    randomise_norms(net)
    out, gradients = passes(net, "cpu")
    found, theirs = passes(net, "cuda", layout=layout, half=HALF.get(precision))
    assert difference(found, out) < allowed
    whole = [torch.cat([g.flatten() for g in each.values()]) for each in (theirs, gradients)]
    assert difference(*whole) < 2 * allowed


def test_recomputed_blocks_agree_and_keep_less():
    net = micro_net()
    other = copy.deepcopy(net)
    recompute_blocks(other)
    peaks, results = [], []
    for each in (net, other):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results.append(passes(each, "cuda"))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    (out, gradients), (again, others) = results
    assert difference(again, out) < 1e-6 and peaks[1] < peaks[0]
    assert all(difference(others[name], gradients[name]) < 1e-3 for name in gradients)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_drawing_meets_its_targets(tmp_path, precision):
    config = toy_config(tmp_path / "run", train={"precision": precision, "epochs": 12, "checkpointing": True})
    ticket = draw_ticket(ToyTask(config), config)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert ticket.sparsity == pytest.approx(0.8, abs=1e-3) and last["accuracy"] > 0.45
    assert last["macs"] == pytest.approx(0.6 * ticket.provenance["supernet"]["macs"], rel=0.02)
