"""The engine's C file as a program of its own, for tests with sanitizers, emulators and other instruction sets."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from supertickets.deploy.engine.files import write_c
from supertickets.deploy.plain import fold

# Reads an image, runs the ticket on scratch memory full of NaNs that ends where it should, writes the output.
HARNESS = r"""
#include "ticket.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
  int64_t s[8];
  if (argc < 3 || ticket_sizes(s)) return 3;
  size_t n_in = (size_t)(s[0] * s[1] * s[2]), n_out = (size_t)(s[3] * s[4] * s[5]);
  float *in = malloc(n_in * 4), *out = malloc(n_out * 4);
  char *scratch = malloc((size_t)s[6]);
  memset(scratch, 255, (size_t)s[6]);
  FILE *f = fopen(argv[1], "rb");
  if (!f || fread(in, 4, n_in, f) != n_in) return 4;
  fclose(f);
  if (ticket_run(in, out, scratch)) return 5;
  f = fopen(argv[2], "wb");
  fwrite(out, 4, n_out, f);
  fclose(f);
  free(in), free(out), free(scratch);
  return 0;
}
"""


def run_as_program(
    net: nn.Module, size: tuple[int, int], folder: Path, command: Sequence[str], before: Sequence[str] = ()
) -> float:
    """Largest difference from `net` of its C file, which `command` compiles and `before` (an emulator) runs.

    The image is (1, 3, *size) of noise.
    """
    write_c(fold(net), size, folder / "ticket.c", {})
    (folder / "main.c").write_text(HARNESS)
    x = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    x.tofile(folder / "in")
    files = [str(folder / "ticket.c"), str(folder / "main.c"), "-o", str(folder / "program")]
    subprocess.run([*command, "-std=c11", *files], check=True, capture_output=True)
    done = subprocess.run([*before, str(folder / "program"), str(folder / "in"), str(folder / "out")], capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()[:2000]
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    return float(np.abs(np.fromfile(folder / "out", np.float32) - want.ravel()).max())
