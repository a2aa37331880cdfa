"""The examples of a documentation page: the files that it shows, and the commands with their output."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w*)( notest)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language, without those that are marked `notest`."""
    return [code for named, unchecked, code in BLOCK.findall(page.read_text()) if named == language and not unchecked]


def files(page: Path) -> dict[str, str]:
    """The files that a page shows: Python blocks that begin with the name of a file, such as `# shop.py`."""
    found: dict[str, str] = {}
    for code in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)\n", code)
        assert name, f"{page.name}: a Python block begins with the name of its file, or is marked notest:\n{code}"
        assert name[1] not in found, f"{page.name} shows {name[1]} twice"
        found[name[1]] = code
    return found
