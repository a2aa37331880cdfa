"""The jobs of the demo. Node processes import this module; the demo schedules its calls."""

import asyncio
import io
import os
import sysconfig
import token
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

from peerjob import INJECTED, Context, Priority, job

WATCHED = "watched"
"""The tag of the jobs whose changes the view shows one by one."""
SLOW_SECONDS, SLOW_STEPS = 3.0, 12
NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


Count = Counter[str]
"""The contents of source files: the number of each of COUNTED."""
COUNTED = ("files", "lines", "tokens", "definitions", "untokenized")
"""Definitions are functions and classes. Of files that Python cannot tokenize, such as broken code in test data, only
lines are counted."""


def source_files(limit: int | None = None) -> list[str]:
    """The `.py` files of the running Python's standard library, at most `limit` of them, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*.py") if NOT_STANDARD.isdisjoint(path.relative_to(root).parts))
    return sorted(str(path) for path in files if path.is_file() and os.access(path, os.R_OK))[:limit]


def count_file(path: str) -> Count:
    """Read and tokenize one file."""
    source = Path(path).read_bytes()
    lines = len(source.splitlines())
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, tokenize.TokenError, ValueError):  # a file whose bytes are not text raises ValueError
        return Count(files=1, lines=lines, untokenized=1)
    definitions = sum(part.type == token.NAME and part.string in ("def", "class") for part in tokens)
    return Count(files=1, lines=lines, tokens=len(tokens), definitions=definitions)


Receipt = dict[str, Any]
"""The result of every job: the node and the fence of the run that made it, and the count."""


def _receipt(ctx: Context, **count: int) -> Receipt:
    return {"node": ctx.worker.node if ctx.worker else "", "fence": ctx.fence, "count": count}


@job(kind="demo.count")
def count(path: str, ctx: Context = INJECTED) -> Receipt:
    """Count lines, tokens and definitions of one source file."""
    return _receipt(ctx, **count_file(path))


@job(kind="demo.slow", tags=[WATCHED], priority=Priority.HIGH)
async def slow(name: str, ctx: Context = INJECTED) -> Receipt:
    """Run for three seconds, and report progress."""
    for step in range(SLOW_STEPS):
        ctx.progress(step / SLOW_STEPS)
        await asyncio.sleep(SLOW_SECONDS / SLOW_STEPS)
    return _receipt(ctx)


@job(kind="demo.urgent", tags=[WATCHED], priority=Priority.HIGH)
async def urgent(name: str, ctx: Context = INJECTED) -> Receipt:
    """Run before the jobs that wait."""
    return _receipt(ctx)


JOBS = (count, slow, urgent)
