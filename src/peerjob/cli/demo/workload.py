"""The jobs of the demo. Node processes import this module; the demo schedules its calls."""

import asyncio
import io
import json
import logging
import os
import sysconfig
import token
import tokenize
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from peerjob import INJECTED, Context, Priority, Signal, job

WATCHED = "watched"
"""The tag of the jobs whose changes the view shows one by one."""
SLOW_SECONDS, SLOW_STEPS = 3.0, 12
CHARGE_SECONDS, PACKS, PACK_SECONDS = 2.5, 3, 0.2
APPROVAL = Signal("approval", bool)
NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


Count = Counter[str]
"""The contents of source files: the number of each of COUNTED."""
COUNTED = ("files", "lines", "tokens", "definitions", "untokenized")
"""Definitions are functions and classes. Of files that Python cannot tokenize, such as broken code in test data, only
lines are counted."""


def source_files(limit: int | None = None) -> list[str]:
    """The `.py` files of the running Python's standard library, at most `limit` of them, sorted."""
    paths: list[str] = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        # a walk through the installed packages takes longer than the rest, most of all on a disk that is not cached
        folders[:] = [name for name in folders if name not in NOT_STANDARD]
        paths += [str(Path(folder, name)) for name in names if name.endswith(".py")]
    readable = (path for path in sorted(paths) if Path(path).is_file() and os.access(path, os.R_OK))
    return list(islice(readable, limit))


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


# -- orders: bodies with steps, children and a wait ------------------------------------------------------------------

reports = logging.getLogger("jobd.demo.steps")
"""A JSON array for each call of a step's function, and for each value of a step that a body got."""


def report_to(stream: TextIO) -> None:
    """Write the reports of this process, one a line: a process that is killed has written those of its past."""
    reports.addHandler(logging.StreamHandler(stream))
    reports.setLevel(logging.INFO)
    reports.propagate = False


def _report(*parts: str) -> None:
    reports.info(json.dumps(parts))


def reserve(order: str) -> str:
    """Reserve the items. Each call gives another value."""
    _report("called", order, "reserve")
    return uuid4().hex


async def charge(order: str) -> str:
    """Charge the card, which takes long enough for a kill in the middle. Each call gives another value."""
    _report("called", order, "charge")
    await asyncio.sleep(CHARGE_SECONDS)
    return uuid4().hex


@job(kind="demo.pack", priority=Priority.HIGH)
async def pack(order: str, number: int, ctx: Context = INJECTED) -> Receipt:
    """Pack one item."""
    await asyncio.sleep(PACK_SECONDS)
    return _receipt(ctx)


@job(kind="demo.mail", priority=Priority.HIGH)
async def mail(order: str, parcels: int, ctx: Context = INJECTED) -> Receipt:
    """Tell the customer."""
    return _receipt(ctx)


@job(kind="demo.order", priority=Priority.HIGH, max_retries=3)
async def order(name: str, ctx: Context = INJECTED) -> Receipt:
    """Charge, pack on all nodes, wait for an approval without a worker, and mail."""
    _report("got", name, "reserve", await ctx.step("reserve", reserve, name))
    _report("got", name, "charge", await ctx.step("charge", charge, name))
    parcels = await ctx.map("pack", (pack.call(name, number) for number in range(PACKS)))
    if await ctx.wait_for(APPROVAL, timeout="10m"):
        await ctx.call("mail", mail.call(name, len(parcels)))
    return _receipt(ctx)


JOBS = (count, slow, urgent, order, pack, mail)
