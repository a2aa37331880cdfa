"""Runs many seeds in several processes, and reports those that fail."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from .coverage import Pairs
from .generator import generate
from .runner import Verdict, run

CHUNK = 5
"""Seeds that a process runs before it reports them."""
CHUNKS = 10
"""After so many a process is replaced, since the frames of killed nodes stay in memory until it ends."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the run of one seed."""

    seed: int
    violations: list[str]
    operations: int = 0
    faults: int = 0
    calls: list[tuple[str, str, int]] = []
    """Verb of a caller, fault, how often they met."""
    store: list[tuple[str, str, int]] = []
    """The same of verbs of the store."""


def judge(seed: int) -> Verdict:
    """Run the program of a seed."""
    return run(generate(seed))


def soak(seeds: Sequence[int], processes: int, tally: Path | None = None) -> tuple[list[int], Pairs, Pairs]:
    """Run the seeds; the failing ones, and which verbs of callers and of the store met which faults.

    With a tally, each seed becomes a line of that file, and seeds that it has already are not run again, but count.
    """
    kept = _read(tally)
    missing = [seed for seed in seeds if seed not in kept]
    began, last = time.monotonic(), 0
    for done, judged in enumerate(_run(missing, processes), 1):
        kept[judged.seed] = judged
        if tally is not None:
            with tally.open("ab") as file:
                file.write(msgspec.json.encode(judged) + b"\n")
        if judged.violations:
            print(f"seed {judged.seed} fails; replay it with: {replay(judged.seed)}")
            for text in judged.violations[:5]:
                print(f"    {text[:500]}", flush=True)
        if done - last >= 100 or done == len(missing):
            last = done
            pace = (time.monotonic() - began) / done
            print(f"{_summary([kept[seed] for seed in seeds if seed in kept])}, {pace:.2f} s a seed", flush=True)
    calls, store = Pairs(), Pairs()
    for judged in kept.values():
        calls.update({(verb, fault): times for verb, fault, times in judged.calls})
        store.update({(verb, fault): times for verb, fault, times in judged.store})
    return sorted(judged.seed for judged in kept.values() if judged.violations), calls, store


def replay(seed: int) -> str:
    """The command that runs a seed again."""
    return f"PYTHONPATH=tests .venv/bin/python -m support.simulation --seed {seed} --shrink"


def _run(seeds: Sequence[int], processes: int) -> Iterator[Judged]:
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=gc.disable, maxtasksperchild=CHUNKS) as pool:
        for chunk in pool.imap_unordered(_judged, chunks):
            yield from chunk


def _judged(seeds: Sequence[int]) -> list[Judged]:
    judged: list[Judged] = []
    for seed in seeds:
        program = generate(seed)
        try:
            verdict = run(program)
        except Exception as error:  # noqa: BLE001  # the run of one seed fails, and the others go on
            text = f"the run itself failed: {type(error).__name__}: {str(error)[:300]}"
            judged.append(Judged(seed=seed, violations=[text]))
        else:
            judged.append(
                Judged(
                    seed=seed,
                    violations=[str(violation)[:2000] for violation in verdict.violations],
                    operations=program.operations,
                    faults=program.faults,
                    calls=_flat(verdict.pairs),
                    store=_flat(verdict.happened),
                )
            )
    return judged


def _read(tally: Path | None) -> dict[int, Judged]:
    if tally is None or not tally.exists():
        return {}
    found = [msgspec.json.decode(line, type=Judged) for line in tally.read_bytes().splitlines()]
    return {judged.seed: judged for judged in found}


def _flat(pairs: Pairs) -> list[tuple[str, str, int]]:
    return [(verb, fault, times) for (verb, fault), times in pairs.items()]


def _summary(judged: Sequence[Judged]) -> str:
    operations, faults = sum(one.operations for one in judged), sum(one.faults for one in judged)
    failing = sum(bool(one.violations) for one in judged)
    return f"{len(judged):,} seeds, {failing} failing, {operations:,} operations, {faults:,} faults"
