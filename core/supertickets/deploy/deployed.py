"""A deployed ticket in place of the network, so that scores and predictions are those of the deployed file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from supertickets.deploy.engine.cache import compile_ticket
from supertickets.deploy.engine.planner import assert_supported
from supertickets.deploy.export import FORMATS, Runner, export, open_exported
from supertickets.errors import UserError
from supertickets.ticket.ticket import Ticket

ENGINES = ("eager", "native", "onnx")


def network_for(ticket: Ticket, engine: str, device: torch.device | str = "cpu") -> nn.Module:
    """The ticket as a module in eval mode: eager on `device` in channels_last, or with `engine` on the CPU.

    Raises `UserError` for an engine that is unknown or cannot run the ticket.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine: '{engine}' is unknown; choose one of {', '.join(ENGINES)}")
    if engine == "eager":
        return ticket.build().to(torch.device(device)).to(memory_format=torch.channels_last)
    return DeployedNet(ticket, engine)


class DeployedNet(nn.Module):
    """(B, 3, H, W) -> the ticket's output by `engine`, on the device of the images. Each new image size gets its own file."""

    def __init__(self, ticket: Ticket, engine: str) -> None:
        super().__init__()
        if engine == "native":
            assert_supported(ticket.build())
        self.ticket, self.engine = ticket, engine
        self.runners: dict[tuple[int, int], Runner] = {}
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        if size not in self.runners:
            self.runners[size] = self._open(size)
        outputs = self.runners[size](images.detach().float().cpu().contiguous().numpy())
        return torch.from_numpy(outputs).to(images.device)

    def _open(self, size: tuple[int, int]) -> Runner:
        threads = torch.get_num_threads()
        if self.engine == "native":
            return compile_ticket(self.ticket, size=size, threads=threads)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"ticket{FORMATS[self.engine].suffix}"
            export(self.ticket, path, format=self.engine, size=size, dynamic_batch=True)
            return open_exported(path, threads=threads)
