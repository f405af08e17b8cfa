"""How long processors take to exchange data, which limits what several threads gain for one image.

The host of a virtual machine may place its processors on one chip, or far from each other, and may move them at any time.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
import threading
import time
from pathlib import Path

from supertickets.arguments import friendly
from supertickets.deploy.engine.compiler import compile_c
from supertickets.deploy.engine.scheduling import keep_off_this_processor
from supertickets.errors import UserError

TURNS = 2000
CODE = """
#include <stdint.h>
/* Waits until *flag is `mine`, then sets it to `theirs`; `turns` times. Gives up after about a second. */
__attribute__((visibility("default"))) int take_turns(uint32_t *flag, uint32_t mine, uint32_t theirs, int turns) {
  for (int64_t spins = 0; turns; spins++) {
    if (spins > 1 << 28) return -1;
    if (__atomic_load_n(flag, __ATOMIC_ACQUIRE) != mine) continue;
    __atomic_store_n(flag, theirs, __ATOMIC_RELEASE), turns--;
  }
  return 0;
}
"""


def exchange_ns(folder: Path, tries: int = 5) -> float:
    """Nanoseconds in which 64 bytes go from this processor's cache to another one's and back; the best of several tries.

    Compiles the code above in `folder`, once. Raises `UserError` without a compiler or a second processor.
    """
    compiled = folder / "exchange.so"
    if not compiled.exists():
        (folder / "exchange.c").write_text(CODE)
        compile_c(folder / "exchange.c", compiled)
    library = ctypes.CDLL(str(compiled))
    flag = ctypes.byref(ctypes.c_uint32())
    best = math.inf
    for _ in range(tries):
        other = threading.Thread(target=library.take_turns, args=(flag, 1, 0, TURNS + 1))
        other.start()
        keep_off_this_processor([other.native_id or 0])
        library.take_turns(flag, 0, 1, 1)  # both threads are running after this turn
        began = time.perf_counter()
        failed = library.take_turns(flag, 0, 1, TURNS)
        best = min(best, time.perf_counter() - began)
        other.join()
        if failed:
            raise UserError("the threads cannot take turns: this program needs two processors")
    return 1e9 * best / TURNS


@friendly
def main() -> None:
    """Print the time."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{exchange_ns(Path(folder)):.0f} ns")


if __name__ == "__main__":
    main()
