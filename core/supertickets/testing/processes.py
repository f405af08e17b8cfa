"""Two CPU processes that work together, for tests of what all processes must agree on."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from supertickets.processes import leave_process_group
from supertickets.task import Task
from supertickets.types import Batch, JsonObject

if TYPE_CHECKING:  # Windows has none
    from multiprocessing.context import ForkServerContext

TIME_LIMIT_S = 500


def quick_context() -> ForkServerContext:
    """A context whose processes start quickly: a server that has already imported this package forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["supertickets.draw", "supertickets.testing"])
    return context


def run_on_two_processes(script: str, folder: Path, *arguments: str) -> None:
    """Run the text of a script on two CPU processes of one thread each; if one fails, the assertion shows what it printed."""
    context = quick_context()
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [folder / f"process_{rank}.txt" for rank in range(2)]
    processes = [context.Process(target=_run, args=(script, rank, port, outputs[rank], arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIME_LIMIT_S)
        process.kill()  # does nothing if it has ended
        process.join()
    printed = "\n".join(output.read_text()[-3000:] for output in outputs)
    assert [process.exitcode for process in processes] == [0, 0], printed


def _run(script: str, rank: int, port: int, output: Path, arguments: tuple[str, ...]) -> None:
    """What each process does; everything that it prints goes to the file `output`."""
    launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in launch.items()}
    os.environ |= {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.dump_traceback_later(TIME_LIMIT_S - 5)  # shows where a process that does not end is waiting
    sys.argv = ["worker.py", *arguments]
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        exec(compile(script, "worker.py", "exec"), names)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the other process may be waiting for this one: no exit handler may wait for it in turn
    names.clear()  # the group is left after the script, when its objects are no longer in use
    leave_process_group()


def scores_on_two_processes(build: Callable[[], tuple[Task, nn.Module, DataLoader[Batch]]], folder: Path) -> list[JsonObject]:
    """What `evaluate` returns on each of two CPU processes; `build` makes the task, network and loader on each of them."""

    def score() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # forked: the state of the single parent process came along
        accelerator, (task, net, loader) = Accelerator(cpu=True), build()
        scores = task.evaluate(net, accelerator.prepare_data_loader(loader), accelerator)
        (folder / f"scores_{accelerator.process_index}.json").write_text(json.dumps(scores))

    debug_launcher(score, num_processes=2)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("scores_*.json"))]
