"""`import supertickets` gives the three names that most programs need, and is fast until one of them is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import supertickets
from supertickets.draw import draw_ticket
from supertickets.task import load_task
from supertickets.ticket.ticket import Ticket


def test_the_front_door_gives_the_same_objects():
    assert supertickets.Ticket is Ticket and supertickets.draw_ticket is draw_ticket and supertickets.load_task is load_task
    assert {"Ticket", "draw_ticket", "load_task"} <= set(dir(supertickets))
    with pytest.raises(AttributeError, match="has no attribute 'ticket_loader'"):
        supertickets.ticket_loader  # noqa: B018


def test_importing_the_package_does_not_import_pytorch():
    code = (
        "import sys, time\n"
        "start = time.process_time(); import supertickets; used = time.process_time() - start\n"
        "early = 'torch' in sys.modules\n"
        "from supertickets import Ticket\n"
        "print(early, 'torch' in sys.modules, used < 0.3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]  # processor time: a busy machine does not change it
