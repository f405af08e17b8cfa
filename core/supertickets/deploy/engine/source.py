"""Writes a program as one self-contained C file with the interface, tables of all weights and code for each instruction set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from supertickets.deploy.engine.program import VECTOR, Act, Op, Program

INTERFACE = 3  # the number of the interface in ticket.h
MARKER = f"supertickets-engine {INTERFACE}"
HERE = Path(__file__).parent
HEADER = HERE / "ticket.h"
PIECES = ("rows.c", "maps.c", "run.c")
LINE = 120  # characters per line in tables


def source(program: Program, size: tuple[int, int], facts: Mapping[str, str]) -> str:
    """The text of the C file for images (3, *size); `facts` (one JSON string per key) become its metadata."""
    shape = program.output_shape
    shared, own = program.arena.size + 4 * VECTOR, program.own.size + 4 * VECTOR
    scratch = 128 + 4 * (shared + own)  # 128: the counter of the parts, and alignment
    sizes = [3, *size, *shape, *[1] * (3 - len(shape)), scratch, program.products(), 4 * own]
    about = ", ".join(f"{json.dumps(key)}: {value}" for key, value in {**facts, "output": json.dumps(list(shape))}.items())
    code = "\n".join((HERE / piece).read_text() for piece in PIECES)
    return "\n".join(
        [
            HEADER.read_text(),
            (HERE / "prelude.c").read_text(),
            _version(),
            f"static const char METADATA[] =\n{_text('{' + about + '}')};",
            f"static const int64_t SIZES[9] = {{{', '.join(map(str, sizes))}}};",
            f"enum {{ SHARED = {shared}, OWN = {own} }};",
            *_tables(program),
            _for_x86(code),
            (HERE / "dispatch.c").read_text(),
        ]
    )


def _version() -> str:
    """The marker in compiled files that identifies them and names their processors; it is read before a file is opened."""
    names = [
        ("TICKET_X86 == 3", "x86-64-v3"),
        ("TICKET_X86 == 4", "x86-64-v4"),
        ("TICKET_X86", "x86-64-v3 x86-64-v4"),
        ("defined(__aarch64__)", "arm64"),
        ("defined(__wasm__)", "wasm"),
    ]
    lines = [f'#{"el" if i else ""}if {test}\n#define TARGETS "{name}"' for i, (test, name) in enumerate(names)]
    return "\n".join([*lines, '#else\n#define TARGETS "other"\n#endif', f'static const char VERSION[] = "{MARKER}; " TARGETS;'])


def _tables(program: Program) -> list[str]:
    rows, (offsets, weights), ints, floats = program.tables()
    masks = program.masks()
    ops = [f"{{{op.kind:d}, {op.wait:d}, {op.strips}, {{{', '.join(map(str, op.numbers))}}}}}" for op in program.ops]
    taps = (f"{{{o},{_number(w)}}}" for o, w in zip(offsets.tolist(), weights.tolist(), strict=True))
    return [
        f"enum {{ {', '.join(f'{op.name} = {op.value}' for op in Op)} }};",
        f"enum {{ {', '.join(f'{act.name} = {act.value}' for act in Act if act.value)} }};",
        f"enum {{ ACTS = {int(program.acts)}, OP_COUNT = {len(ops)} }};",
        _table("Op OPS", ops),
        _table("Row ROW_TABLE", (f"{{{o},{f},{s},{n},{_number(b)}}}" for o, f, s, n, b in rows)),
        _table("Tap TAPS", taps),
        _table("int32_t MASKS", map(str, (-masks.astype(int)).tolist())),
        _table("uint16_t MASK_BITS", map(str, np.packbits(masks, bitorder="little").view("<u2").tolist())),
        _table("int32_t INTS", map(str, ints.tolist())),
        _table("float FLOATS", map(_number, floats.tolist())),
    ]


def _for_x86(code: str) -> str:
    """`code` once for each instruction set: AVX-512 and AVX2 on x86-64, otherwise that of the compiler's options."""

    def one(level: int, width: int, most: int, features: str) -> str:
        """`code` for one instruction set, left out if the file is compiled for the other one only."""
        return "\n".join(
            [
                f"#if TICKET_X86 != {7 - level}",
                "#ifdef __clang__",
                f'#pragma clang attribute push(__attribute__((target("{features}"))), apply_to = function)',
                "#else",
                "#pragma GCC push_options",
                f'#pragma GCC target("{features}")',
                "#endif",
                _with(code, f"v{level}", width, most),
                "#ifdef __clang__",
                "#pragma clang attribute pop",
                "#else",
                "#pragma GCC pop_options",
                "#endif",
                "#endif",
            ]
        )

    wide = one(4, 16, 16, "avx2,fma,avx512f,avx512dq,avx512cd,avx512bw,avx512vl")
    return "\n".join(["#if TICKET_X86", wide, one(3, 8, 12, "avx2,fma"), "#else", _with(code, "plain", 4, 16), "#endif"])


def _with(code: str, name: str, width: int, most: int) -> str:
    """`code` with vectors of `width` floats and at most `most` of them in a tile; `name` is appended to its function names."""
    begin = f"#define FN(name) name##_{name}\n#define VL {width}\n#define MOST {most}"
    names = ("FN", "VL", "MOST", "vec", "TILE", "TILES_BEYOND_8", "OWN_TAPS")
    return "\n".join([begin, code, *(f"#undef {name}" for name in names)])


def _table(name: str, entries: Iterable[str]) -> str:
    lines, line = [], ""
    for entry in entries:
        if len(line) + len(entry) > LINE:
            lines.append(line)
            line = ""
        line += f"{entry},"
    return f"TABLE {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};"


def _number(value: float) -> str:
    """A C literal for exactly this float32."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.f"


def _text(text: str) -> str:
    """A C string literal of several lines; `?` is escaped because of trigraphs."""
    escaped = [char if char not in '\\"?' else f"\\{char}" for char in text]
    return "\n".join(f'"{"".join(escaped[i : i + LINE])}"' for i in range(0, len(escaped), LINE)) or '""'
