"""Random programs on a test cluster keep every invariant; the same seed has the same course."""

import pytest

from support.searches import seeds
from support.simulation.generator import MIN_FAULTS, OPERATIONS, generate
from support.simulation.program import Program, from_json
from support.simulation.runner import Verdict, run
from support.simulation.shrinking import shrunk

SEEDS = range(1, 9)


def judged(seed: int) -> Verdict:
    return run(generate(seed))


@pytest.mark.long("a program has hundreds of operations and faults")
@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_a_random_program_keeps_every_invariant(seed: int) -> None:
    verdict = judged(seed)
    assert verdict.violations == []
    assert verdict.evidence.runs


@pytest.mark.matrix("what plays the programs is a tool for tests")
def test_the_same_seed_has_the_same_trace() -> None:
    first, second = judged(3), judged(3)
    assert first.trace == second.trace
    assert first.evidence.runs == second.evidence.runs


@pytest.mark.matrix("what plays the programs is a tool for tests")
def test_a_program_has_enough_operations_and_faults() -> None:
    programs = [generate(seed) for seed in range(200)]
    assert min(program.operations - program.faults for program in programs) >= OPERATIONS
    assert min(program.faults for program in programs) >= MIN_FAULTS


def test_a_program_can_be_written_down_and_read_again() -> None:
    program = generate(7)
    assert from_json(program.to_json()) == program


def test_a_failing_program_is_made_as_small_as_what_makes_it_fail() -> None:
    program = generate(5)
    needed = {20, 21, 150}

    def fails(candidate: Program) -> bool:
        return all(candidate.ops[number].verb != "nothing" for number in needed)

    small = shrunk(program, fails)
    assert {number for number, op in enumerate(small.ops) if op.verb != "nothing"} == needed
