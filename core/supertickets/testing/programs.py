"""The engine's C file as a separate program, for tests with sanitizers, emulators and other instruction sets."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from supertickets.deploy.engine.files import write_c
from supertickets.deploy.plain import fold

# Reads an image, runs the ticket on scratch memory of exactly the right size that is filled with NaNs, and writes the output.
HARNESS = r"""
#include "ticket.h"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static float *in, *out;
static char *scratch;
static int parts;
static void rest(void) { sched_yield(); }
static void *run(void *part) {
  ticket_run_part(in, out, scratch, (int)(intptr_t)part, parts, rest);
  return 0;
}
enum { LED = 3 }; /* images that a team runs one after the other */
static TicketTeam team;
static void *follow(void *part) {
  for (uint32_t seen = 0; seen < LED;) seen = ticket_follow(&team, (int)(intptr_t)part, seen, rest);
  return 0;
}
int main(int argc, char **argv) {
  int64_t s[9];
  if (argc < 4 || ticket_sizes(s)) return 3;
  parts = atoi(argv[3]);
  size_t n_in = (size_t)(s[0] * s[1] * s[2]), n_out = (size_t)(s[3] * s[4] * s[5]);
  size_t bytes = (size_t)(s[6] + (parts - 1) * s[8]);
  in = malloc(n_in * 4), out = malloc(n_out * 4), scratch = malloc(bytes);
  memset(scratch, 255, bytes);
  FILE *f = fopen(argv[1], "rb");
  if (!f || fread(in, 4, n_in, f) != n_in) return 4;
  fclose(f);
  if (parts == 1 && ticket_run(in, out, scratch)) return 5;
  if (parts > 1) {
    pthread_t others[16];
    memset(scratch, 0, 128);
    for (int turn = 0; turn < 2; turn++) { /* the second one finds what the first one has left */
      for (int i = 1; i < parts; i++) pthread_create(others + i, 0, run, (void *)(intptr_t)i);
      run(0);
      for (int i = 1; i < parts; i++) pthread_join(others[i], 0);
    }
    memset(out, 255, n_out * 4); /* what is written and compared is the team's output */
    for (int i = 1; i < parts; i++) pthread_create(others + i, 0, follow, (void *)(intptr_t)i);
    for (int i = 0; i < LED; i++) ticket_lead(&team, in, out, scratch, parts, rest);
    for (int i = 1; i < parts; i++) pthread_join(others[i], 0);
  }
  f = fopen(argv[2], "wb");
  fwrite(out, 4, n_out, f);
  fclose(f);
  free(in), free(out), free(scratch);
  return 0;
}
"""


def run_as_program(
    net: nn.Module, size: tuple[int, int], folder: Path, command: Sequence[str], before: Sequence[str] = (), threads: int = 1
) -> float:
    """Largest difference between `net` and its C file, which `command` compiles and `before` (an emulator) runs.

    The image is (1, 3, *size) of noise; up to 16 `threads` share it, first as parts of single calls and then as a team.
    """
    write_c(fold(net), size, folder / "ticket.c", {})
    (folder / "main.c").write_text(HARNESS)
    x = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    x.tofile(folder / "in")
    files = [str(folder / "ticket.c"), str(folder / "main.c"), "-o", str(folder / "program")]
    subprocess.run([*command, "-std=c11", *files, "-lpthread"], check=True, capture_output=True)
    arguments = [str(folder / "in"), str(folder / "out"), str(threads)]
    done = subprocess.run([*before, str(folder / "program"), *arguments], capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()[:2000]
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    return float(np.abs(np.fromfile(folder / "out", np.float32) - want.ravel()).max())
