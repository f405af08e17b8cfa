"""The commands that the pages show, for the tests and benchmarks that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "examples" not in page.parts]
BLOCK = re.compile(r"(<!-- needs [^>]*-->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r'^--8<-- "(.*)"$', re.MULTILINE)
SHELL = ("", "bash", "sh", "console")


def shell_lines(page: Path, *, marked: bool = False) -> list[str]:
    """The commands of all shell blocks of a page, with those of the files that it includes, without comments.

    Blocks that need data, a GPU or other software have a comment before them, `<!-- needs ... -->`; `marked` includes them.
    """
    text = INCLUDE.sub(lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), page.read_text(encoding="utf-8"))
    blocks = [block for needs, language, block in BLOCK.findall(text) if language in SHELL and (marked or not needs)]
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
