"""Files written by version 0.1 still load: tickets with their outputs, and a run that continues from its checkpoint.

`data/v0.1` holds what version 0.1 wrote: the toy task's ticket (with its early weights in `rewind/`), the first four of the six
epochs of the run that drew it, a segmentation ticket, and for each ticket one input with the output that its network gave.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from supertickets.config.reader import load_config
from supertickets.config.sections import Config
from supertickets.draw import draw_ticket
from supertickets.testing import ToyTask
from supertickets.ticket.ticket import Ticket

pytestmark = pytest.mark.usefixtures("toy_installed")

DATA = Path(__file__).parent / "data" / "v0.1"
INSTALLED = {"toy", *(point.name for point in entry_points(group="supertickets.tasks"))}


@pytest.mark.parametrize("task", ["toy", "segmentation"])
def test_an_old_ticket_gives_its_outputs(task):
    if task not in INSTALLED:
        pytest.skip(f"the {task} task is not installed")
    ticket, stored = Ticket.load(DATA / f"{task}_ticket"), load_file(DATA / f"{task}_ticket_output.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(ticket.build()(stored["image"]), stored["output"], rtol=1e-4, atol=1e-4)
    assert ticket.task == task and 0.6 < ticket.sparsity < 0.9 and ticket.provenance["version"] == "0.1.0"


def test_an_old_run_continues_from_its_checkpoint(tmp_path):
    """The checkpoint holds a mask, weights to revive and early weights; the run ends where it ended in version 0.1."""
    folder = tmp_path / "run"
    shutil.copytree(DATA / "toy_run", folder)
    where = ["--run.dir", str(folder), "--run.resume", "true"]
    config = load_config(Config, folder / "config.yaml", [*where, "--run.native_ms", "false"])
    # On CPUs without AVX-512, oneDNN writes past its memory in the backward pass of a 1x1 conv with stride 2 whose input has 2
    # to 6 channels in the channels-last layout, as this old network has.
    with torch.backends.mkldnn.flags(enabled=False):
        ticket = draw_ticket(ToyTask(config), config)
    old = Ticket.load(DATA / "toy_ticket")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert (
        ticket.sparsity == pytest.approx(old.sparsity, abs=1e-3) and ticket.provenance["supernet"] == old.provenance["supernet"]
    )
    assert ticket.metrics["macs"] == pytest.approx(old.metrics["macs"], rel=0.05)
    early, old_early = (
        Ticket.load(path / "rewind").tensors["stem.0.weight"] for path in (folder / "ticket", DATA / "toy_ticket")
    )
    both = (early != 0) & (old_early != 0)  # the masks may differ a little between machines, the early values may not
    assert both.any() and torch.equal(early[both], old_early[both])
