"""Change a ticket at random, one place at a time, and look at each as `supertickets info` does.

    python benchmarks/hostile_tickets.py TICKET --count 1000 [--seed 0]

A change either leaves a ticket that is read, built and described, or ends in one line of `UserError`. Anything else is printed
with its number, which `--only` repeats. The checksums are those that the changed files ought to have. In the end: how many of
each, the slowest, and the most memory that the process had at any time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from supertickets.errors import UserError
from supertickets.report.tables import info_tables
from supertickets.testing import mutated
from supertickets.ticket.facts import describe
from supertickets.ticket.ticket import Ticket, _digest


def main() -> None:
    """Change a ticket at random many times, load each one, and count what does not end in one clear line."""
    parser = argparse.ArgumentParser(description="Look at changed tickets.")
    parser.add_argument("ticket", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one change")
    options = parser.parse_args()
    about = json.loads((options.ticket / "ticket.json").read_text())
    blob = (options.ticket / "ticket.safetensors").read_bytes()
    ends: Counter[str] = Counter()
    slowest, slowest_number = 0.0, 0
    look(options.ticket, -1)  # what is imported on first use is no part of any change's time
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.count) if options.only is None else [options.only]:
            change(about, blob, Path(folder), random.Random(f"{options.seed} {number}"))
            began = time.monotonic()
            end = look(Path(folder), number)
            took = time.monotonic() - began
            ends[end] += 1
            if took > slowest:
                slowest, slowest_number = took, number
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{dict(ends)}; slowest {slowest:.2f} s (number {slowest_number}); peak {peak_mb:.0f} MB")


def change(about: dict[str, object], blob: bytes, folder: Path, rng: random.Random) -> None:
    """Write a changed ticket: nine in ten times its JSON, else bytes of its tensors' file."""
    data = bytearray(blob)
    content = about
    if rng.random() < 0.9:
        content = mutated(about, rng)
    else:
        start = 0 if rng.random() < 0.5 else rng.randrange(len(data))  # the header is at the start
        for _ in range(rng.randint(1, 8)):
            data[min(len(data) - 1, start + rng.randrange(400))] = rng.randrange(256)
        content = about | {"tensors_sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(content, dict) and rng.random() < 0.95:
        content = {key: value for key, value in content.items() if key != "sha256"}
        content["sha256"] = _digest(content)
    (folder / "ticket.json").write_text(json.dumps(content))
    (folder / "ticket.safetensors").write_bytes(data)


def look(folder: Path, number: int) -> str:
    """How it ends: read, refused, or the name of another exception."""
    try:
        ticket = Ticket.load(folder)
        ticket.build()
        info_tables(describe(ticket), str(folder))
    except UserError as error:
        if "\n" in str(error):
            print(f"{number}: more than one line: {error}")
        return "refused"
    except Exception as error:
        print(f"{number}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return type(error).__name__
    return "read"


if __name__ == "__main__":
    main()
