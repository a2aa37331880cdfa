"""Runs many seeds in several processes, and tells of those that fail."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence

from .coverage import Pairs
from .generator import generate
from .runner import Verdict, run

CHUNK = 5
"""Seeds that a process runs before it tells of them."""
CHUNKS = 10
"""After so many a process is replaced, since the frames of killed nodes stay in memory until it ends."""
Told = tuple[int, list[str], Pairs, Pairs, int, int]


def judge(seed: int) -> Verdict:
    """Run the program of a seed."""
    return run(generate(seed))


def soak(seeds: Sequence[int], processes: int) -> tuple[list[int], Pairs, Pairs]:
    """Run the seeds; the failing ones, and which verbs of callers and of the store met which faults."""
    failing: list[int] = []
    calls, store = Pairs(), Pairs()
    began, done, operations, faults = time.monotonic(), 0, 0, 0
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, maxtasksperchild=CHUNKS) as pool:
        for told in pool.imap_unordered(_judged, chunks):
            for seed, violations, pairs, happened, made, met in told:
                done, operations, faults = done + 1, operations + made, faults + met
                calls.update(pairs)
                store.update(happened)
                if violations:
                    failing.append(seed)
                    print(f"seed {seed} fails; replay it with: {replay(seed)}")
                    for text in violations[:5]:
                        print(f"    {text[:500]}")
            pace = (time.monotonic() - began) / done
            if done % 100 < CHUNK or done == len(seeds):
                text = f"{done:,} of {len(seeds):,} seeds, {len(failing)} failing, {operations:,} operations"
                print(f"{text}, {faults:,} faults, {pace:.2f} s a seed", flush=True)
    return sorted(failing), calls, store


def replay(seed: int) -> str:
    """The command that runs a seed again."""
    return f"PYTHONPATH=tests .venv/bin/python -m support.simulation --seed {seed} --shrink"


def _judged(seeds: Sequence[int]) -> list[Told]:
    told: list[Told] = []
    for seed in seeds:
        program = generate(seed)
        try:
            verdict = run(program)
        except Exception as error:  # noqa: BLE001  # the run of one seed fails, and the others go on
            text = f"{type(error).__name__}: {error}"
            told.append((seed, [f"the run itself failed: {text[:300]}"], Counter(), Counter(), 0, 0))
            continue
        texts = [str(violation) for violation in verdict.violations]
        told.append((seed, texts, verdict.pairs, verdict.happened, program.operations, program.faults))
    return told
