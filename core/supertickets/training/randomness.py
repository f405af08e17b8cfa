"""The state of all random generators of a process as bytes, so that a run can continue where it stopped."""

from __future__ import annotations

import random

import numpy as np
import torch

_TORCH = torch.get_rng_state().numel()
_PYTHON = 625  # words of Python's Mersenne Twister with its position, followed by the normal number kept for later
_NUMPY = 624  # words of NumPy's generator, followed by position, whether a normal number is kept, and that number
SIZE = _TORCH + 8 * (_PYTHON + 1) + 8 * (_NUMPY + 3)


def random_state(device: torch.device | None = None) -> bytes:
    """The states of the generators of PyTorch (CPU), Python and NumPy, and of the accelerator if `device` is one."""
    _, words, kept = random.getstate()
    _, keys, position, has_kept, gauss = np.random.get_state(legacy=True)
    python = np.array([*words, np.nan if kept is None else kept])  # float64 holds every 32-bit word exactly
    state = torch.get_rng_state().numpy().tobytes() + python.tobytes()
    state += np.array([*keys, position, has_kept, gauss]).tobytes()
    if device is not None and device.type != "cpu":
        state += torch.get_device_module(device).get_rng_state(device).numpy().tobytes()
    return state


def set_random_state(state: bytes, device: torch.device | None = None) -> None:
    """Restore the states that `random_state` returned."""
    python, numpy = np.split(np.frombuffer(state[_TORCH:SIZE]), [_PYTHON + 1])
    torch.set_rng_state(torch.frombuffer(bytearray(state[:_TORCH]), dtype=torch.uint8))
    kept = None if np.isnan(python[-1]) else float(python[-1])
    random.setstate((3, tuple(int(word) for word in python[:-1]), kept))
    keys, (position, has_kept, gauss) = numpy[:_NUMPY].astype(np.uint32), numpy[_NUMPY:]
    np.random.set_state(("MT19937", keys, int(position), int(has_kept), float(gauss)))
    if device is not None and device.type != "cpu" and len(state) > SIZE:
        own = torch.frombuffer(bytearray(state[SIZE:]), dtype=torch.uint8)
        torch.get_device_module(device).set_rng_state(own, device)
