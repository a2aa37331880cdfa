"""What is counted: the source files of the standard library, and what is in each."""

from __future__ import annotations

import io
import os
import sysconfig
import token
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, kw_only=True)
class Count:
    """How much is in some files. The sum of counts is a count."""

    files: int = 0
    lines: int = 0
    tokens: int = 0
    definitions: int = 0
    """Of functions and classes."""
    untokenized: int = 0
    """Files that Python cannot tokenize, such as test data with broken code; they count as lines only."""

    def __add__(self, other: Count) -> Count:
        return Count(
            files=self.files + other.files,
            lines=self.lines + other.lines,
            tokens=self.tokens + other.tokens,
            definitions=self.definitions + other.definitions,
            untokenized=self.untokenized + other.untokenized,
        )


def source_files(limit: int | None = None) -> list[str]:
    """Paths of the `.py` files of the running Python's standard library, at most `limit` of them, in order."""
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(
        str(path)
        for path in root.rglob("*.py")
        if NOT_STANDARD.isdisjoint(path.relative_to(root).parts) and path.is_file() and os.access(path, os.R_OK)
    )
    return found[:limit]


def count_file(path: str) -> Count:
    """Read and tokenize one file."""
    source = Path(path).read_bytes()
    lines = len(source.splitlines())
    tokens = definitions = 0
    try:
        for one in tokenize.tokenize(io.BytesIO(source).readline):
            tokens += 1
            if one.type == token.NAME and one.string in ("def", "class"):
                definitions += 1
    except (SyntaxError, tokenize.TokenError, ValueError):  # ValueError: bytes that are not text
        return Count(files=1, lines=lines, untokenized=1)
    return Count(files=1, lines=lines, tokens=tokens, definitions=definitions)


def count_files(paths: Iterable[str]) -> Count:
    """Count files one after the other."""
    return sum(map(count_file, paths), Count())
