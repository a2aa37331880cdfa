"""Runs programs, one or many, and makes a failing one smaller."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from support.servers import MissingServerError
from support.simulation.shrinking import shrunk
from support.simulation.storm_soak import serving

from .engines import Engine, engine_of
from .generator import OPERATIONS, generate
from .program import Program
from .reference import Reference
from .runner import Lockstep
from .small_pages import small_pages
from .verdict import Verdict

AT_ONCE = {"memory": 1, "sqlite": 1, "redis": 8, "valkey": 8, "etcd": 1}
"""Programs that run in turns: those on a server's time sleep now and then."""


async def run(program: Program, url: str, turn: asyncio.Lock | None = None) -> Verdict:
    """Run a program on an engine of its own. Programs with the same `turn` run while the others sleep."""
    turn = turn or asyncio.Lock()
    with engine_of(url, program.limits, program.seed) as engine:
        engine.turn = turn
        async with turn:
            return await _run(program, engine)


async def _run(program: Program, engine: Engine) -> Verdict:
    await engine.store.open()
    reference = Reference(program.limits, strict=engine.strict)
    return await Lockstep(program, engine, reference).run()


def judge(program: Program, url: str) -> Verdict:
    """The same, from outside an event loop."""
    with small_pages():
        return asyncio.run(run(program, url))


def smaller(program: Program, url: str, *, tries: int = 200) -> Program:
    """The smallest program that still finds a difference in the same part of an answer.

    It is the whole program if the difference does not come again.
    """
    wanted = _topics(judge(program, url))
    if not wanted:
        return program
    return shrunk(program, lambda candidate: bool(wanted & _topics(judge(candidate, url))), tries=tries)


def _topics(verdict: Verdict) -> set[str]:
    """What the differences are about, without ids and values."""
    return {text.partition(":")[0].partition(" ")[0].partition("[")[0] for text in verdict.differences[:1]}


async def findings(url: str, seeds: Sequence[int]) -> list[str]:
    """What the programs of the seeds found on an engine: each with the smallest program that finds it.

    Each difference is printed at once, since a test can reach its time limit in the search for a smaller program.
    """
    verdicts = await _all(url, seeds, OPERATIONS, turns=8, tell=True)
    return [await asyncio.to_thread(_explained, verdict, url) for verdict in verdicts if verdict.differences]


def _explained(verdict: Verdict, url: str) -> str:
    small = smaller(verdict.program, url, tries=60)
    return f"{told(verdict)}\nThe smallest program that was found:\n{small.to_json()}"


@dataclass
class Tally:
    """What many programs found."""

    engine: str
    programs: int = 0
    blurred: int = 0
    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter[str])
    failing: list[Verdict] = field(default_factory=list[Verdict])

    def add(self, verdict: Verdict) -> None:
        self.programs += 1
        self.blurred += verdict.blurred
        self.calls += verdict.calls
        if verdict.differences:
            self.failing.append(verdict)


def soak(engine: str, seeds: Sequence[int], *, operations: int = OPERATIONS) -> Tally:
    """Run the programs of the seeds on an engine of that kind."""
    tally = Tally(engine)
    try:
        with serving(engine) as url:
            asyncio.run(_soak(tally, url, seeds, operations))
    except MissingServerError as missing:
        print(f"{engine} is left out: {missing}")
    return tally


async def _soak(tally: Tally, url: str, seeds: Sequence[int], operations: int) -> None:
    began = time.monotonic()
    for verdict in await _all(url, seeds, operations, turns=AT_ONCE[tally.engine], tell=True):
        tally.add(verdict)
    tally.seconds = time.monotonic() - began


async def _all(url: str, seeds: Sequence[int], operations: int, *, turns: int, tell: bool = False) -> list[Verdict]:
    """Run the programs of the seeds, some of them in turns."""
    left, turn, verdicts = list(reversed(seeds)), asyncio.Lock(), list[Verdict]()

    async def work() -> None:
        while left:
            verdict = await run(generate(left.pop(), operations), url, turn)
            verdicts.append(verdict)
            if tell and verdict.differences:
                print(told(verdict), flush=True)

    with small_pages():
        await asyncio.gather(*(work() for _ in range(turns)))
    return verdicts


def told(verdict: Verdict) -> str:
    """A failing run in words."""
    program = verdict.program
    op = program.ops[verdict.at] if verdict.at < program.size else "the end"
    head = f"{verdict.engine}, seed {program.seed}, operation {verdict.at}: {op}"
    return "\n    ".join([head, *verdict.differences[:6]])
