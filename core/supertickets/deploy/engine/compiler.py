"""Compile a ticket's C file with $CC, cc or ziglang (the extra `native`), which also compiles for other machines."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from supertickets.errors import UserError

FLAGS = ("-O3", "-std=c11", "-fvisibility=hidden", "-fno-math-errno", "-w")
INSTALL = "pip install 'supertickets[native]'"


@dataclass(frozen=True)
class Target:
    """A kind of machine: the suffix of its libraries, its name in zig, and words in a compiler's triple that identify it."""

    suffix: str
    zig: str
    fits: tuple[str, ...]  # all of these words are in the output of `cc -dumpmachine`
    flags: tuple[str, ...] = ("-shared", "-fPIC", "-s")


TARGETS = {
    "x86-64-v3": Target(".so", "x86_64-linux-gnu", ("x86_64", "linux"), ("-DTICKET_X86=3", "-shared", "-fPIC", "-s")),
    "x86-64-v4": Target(".so", "x86_64-linux-gnu", ("x86_64", "linux"), ("-DTICKET_X86=4", "-shared", "-fPIC", "-s")),
    "arm64": Target(".so", "aarch64-linux-gnu", ("aarch64", "linux")),
    "arm64-android": Target(".so", "aarch64-linux-android", ("aarch64", "android"), ("-shared", "-fPIC", "-s", "-nostdlib")),
    "arm64-macos": Target(".dylib", "aarch64-macos", ("arm64", "darwin"), ("-shared", "-fPIC")),
    "windows": Target(".dll", "x86_64-windows-gnu", ("x86_64", "mingw"), ("-shared", "-s")),
    "wasm": Target(
        ".wasm", "wasm32-freestanding", ("wasm32",), ("-msimd128", "-nostdlib", "-Wl,--no-entry", "-Wl,--export-dynamic", "-s")
    ),
}
SUFFIXES = {"Windows": ".dll", "Darwin": ".dylib"}
TARGET_NAMES = ("native", *TARGETS)


def native_suffix() -> str:
    """The suffix of libraries on this machine."""
    return SUFFIXES.get(platform.system(), ".so")


def target_suffix(target: str) -> str:
    """The suffix of a file compiled for `target`. Raises `UserError` for an unknown target."""
    if target != "native" and target not in TARGETS:
        raise UserError(f"--target: '{target}' is unknown; choose one of {', '.join(TARGET_NAMES)}")
    return native_suffix() if target == "native" else TARGETS[target].suffix


def find_compiler(target: str = "native") -> list[str]:
    """The command that compiles for `target`: $CC or cc, if they can, otherwise zig.

    Raises `UserError` if there is none; the message says what was found instead and how to get a compiler.
    """
    suffix = target_suffix(target)
    seen = []
    for name in (os.environ.get("CC", ""), "cc"):
        try:
            command = shlex.split(name)
        except ValueError as error:
            raise UserError(f"CC: {name!r} is not a command ({error})") from error
        if not command or shutil.which(command[0]) is None:
            seen += [f"CC={name}, which is not found"] if command and name != "cc" else []
            continue
        found = _triple(command)
        if target == "native" or all(word in found for word in TARGETS[target].fits):
            return command
        seen.append(f"{name}, which compiles for {found or 'an unknown machine'}")
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", *(["-target", TARGETS[target].zig] if target != "native" else [])]
    there = f" (there is {'; '.join(seen)})" if seen else ""
    raise UserError(f"no C compiler for {target} ({suffix}) was found{there}: set CC to one, or {INSTALL}")


def _triple(command: list[str]) -> str:
    """The machine that a compiler reports as its target; '' if it reports nothing."""
    try:
        done = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def describe_compiler(command: list[str]) -> str:
    """The command and the first line of the compiler's version; another version counts as another compiler."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return f"{shlex.join(command)} {(done.stdout.splitlines() or [''])[0]}"


def compile_c(source: Path, out: Path, *, target: str = "native", flags: tuple[str, ...] = ()) -> None:
    """Compile `source` to the library `out`. Raises `UserError` without a compiler, or with the compiler's first error."""
    command = find_compiler(target)
    own = ("-shared", "-fPIC") if target == "native" else TARGETS[target].flags
    if target == "native" and platform.system() == "Windows":
        own = ("-shared",)
    line = [*command, *FLAGS, *own, *flags, str(source), "-o", str(out)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode or not out.is_file():
        said = [text for text in done.stderr.splitlines() if "error" in text] or done.stderr.splitlines() or ["nothing"]
        raise UserError(f"{shlex.join(command)} could not compile the ticket; it says: {said[0].strip()}")
