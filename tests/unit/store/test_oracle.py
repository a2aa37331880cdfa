"""Random programs of contract calls: stores without a server answer as the reference store does."""

from pathlib import Path

import pytest

from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireRecord, FireStatus, SchedulePut
from peerjob.model.record import Action, StoreLimits, Transition
from peerjob.model.state import State
from peerjob.store.kv.format.rows import Row, extended
from peerjob.store.kv.queue import outcome_source
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory, Peer, outcome
from support.oracle import moments
from support.oracle.choices import Chosen, chosen_by
from support.oracle.clocks import ShiftedClock
from support.oracle.damage import Damaged
from support.oracle.engines import Engine
from support.oracle.generator import generate
from support.oracle.known import Made
from support.oracle.leniency import alike
from support.oracle.names import Side
from support.oracle.program import from_json
from support.oracle.reference import Reference
from support.oracle.soaking import findings, judge, smaller
from support.searches import cases

MEMORY_SEEDS = [
    440729,
    442058,
    442075,
    935003,
    370056,
    390040,
    390001,
    380150,
    380074,
    380029,
    8099,
    120157,
    121227,
    *range(1, 41),
]
SQLITE_SEEDS = range(101, 121)


@pytest.mark.search
async def test_the_key_value_engine_in_memory() -> None:
    assert await findings("memory://", cases(MEMORY_SEEDS)) == []


@pytest.mark.search
async def test_a_file_of_sqlite(tmp_path: Path) -> None:
    assert await findings(f"sqlite://{tmp_path}/oracle.db?sync=normal", cases(SQLITE_SEEDS)) == []


def test_the_same_program_has_the_same_calls() -> None:
    first, second = (judge(generate(5), "memory://") for _ in range(2))
    assert first.calls == second.calls
    assert first.differences == second.differences == []


def test_a_program_can_be_written_down_and_read_again() -> None:
    program = generate(7)
    assert from_json(program.to_json()) == program


def test_programs_use_each_verb() -> None:
    used = {op.verb for seed in range(40) for op in generate(seed).ops}
    assert {"enqueue", "claim_on_hint", "turn", "run_now", "reap", "fire", "campaign", "clear_logs", "race"} <= used


async def test_two_claims_of_one_instance_in_one_reap_are_an_objection(clock: VirtualClock) -> None:
    reference, make = Reference(StoreLimits(), strict=True), Factory(clock)
    reaper = await Peer(store=reference.store, info=make.node("reaper"), make=make).join()
    mortal = await Peer(store=reference.store, info=make.node("mortal"), make=make).join(ttl_us=1)
    await reference.store.enqueue([make.instance()])
    claim = await mortal.take_one()
    reference.at(reference.now_us + 10)
    chosen = Chosen(reaped=[claim.id, claim.id])
    reference.follow(chosen)
    assert [one.id for one in await reference.store.reap(9, reaper=reaper.incarnation)] == [claim.id]
    assert len(chosen.objections) == 1


async def test_each_fire_of_a_call_has_the_time_at_which_the_engine_has_done_it(clock: VirtualClock) -> None:
    reference, make = Reference(StoreLimits(), strict=False), Factory(clock)
    now_us = clock.time_us()
    reference.at(now_us)
    put = SchedulePut(name="s", kind="work", definition=b"", next_us=1)
    row = await reference.store.put_schedule(put)
    assert row is not None
    fires = [
        Fire(
            schedule="s",
            revision=row.revision,
            nominal_us=number,
            outcome=FireOutcome.FIRED,
            request=new.id,
            next_us=number + 1,
            instance=new,
        )
        for number, new in enumerate(make.instances(3), 1)
    ]
    reference.follow(Chosen(fired_us=(0, now_us + 5, now_us + 9)))
    answers = await reference.store.fire(fires, term=None)
    assert [answer.record and answer.record.at_us - now_us for answer in answers] == [0, 5, 9]


def test_the_times_of_fires_are_those_within_the_call() -> None:
    records = [FireRecord(nominal_us=1, outcome=FireOutcome.FIRED, at_us=at_us) for at_us in (9, 10, 20, 21)]
    answers = [FireAnswer(status=FireStatus.DONE, record=record) for record in (*records, None)]
    assert chosen_by("fire", answers, (10, 20)).fired_us == (0, 10, 20, 0, 0)


def test_the_repeat_of_a_known_fire_may_be_stale_only_if_the_first_answer_was_given_up() -> None:
    known, stale = (FireAnswer(status=status) for status in (FireStatus.KNOWN, FireStatus.STALE))

    async def call(side: Side) -> None:
        return None

    def compared(how: str) -> tuple[list[FireAnswer], list[FireAnswer]]:
        return alike(Made("fire", call), [known], [stale], how, first=None, present=(), damaged=Damaged())

    assert compared("cancelled") == ([known], [known])
    assert compared("") == ([known], [stale])


def test_an_earlier_fire_may_have_the_joined_record_only_if_the_first_answer_was_given_up() -> None:
    first, joined = (
        FireAnswer(
            status=FireStatus.DONE,
            record=FireRecord(nominal_us=1, outcome=FireOutcome.SKIPPED, request=str(count), count=count),
        )
        for count in (1, 2)
    )

    async def call(side: Side) -> None:
        return None

    def compared(how: str, theirs: list[FireAnswer]) -> tuple[list[FireAnswer], list[FireAnswer]]:
        return alike(Made("fire", call), [first, joined], theirs, how, first=None, present=(), damaged=Damaged())

    assert compared("cancelled", [joined, joined]) == ([first, joined], [first, joined])
    assert compared("cancelled", [joined, first]) == ([first, joined], [joined, first])
    assert compared("repeated", [joined, joined]) == ([first, joined], [joined, joined])


async def test_a_report_of_a_cancelled_instance_writes_nothing(clock: VirtualClock) -> None:
    reference, make = Reference(StoreLimits(), strict=True), Factory(clock)
    peer = await Peer(store=reference.store, info=make.node("peer"), make=make).join()
    await reference.store.enqueue([make.instance()])
    report = outcome(await peer.take_one(), Action.REPORT, progress=b"half")

    async def call(side: Side) -> None:
        return None

    made = Made("commit", call, reports={0: report})
    reference.note_empty(made)
    assert made.empty == set()
    await reference.store.cancel([report.id], request="cancel")
    reference.note_empty(made)
    assert made.empty == {0}


async def test_no_call_is_near_a_moment_at_which_something_changes_by_itself(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, shifted = Reference(StoreLimits(), strict=True), ShiftedClock()
    engine = Engine(name="etcd", store=reference.store, clock=shifted, namespace="oracle")
    reference.at(shifted.time_us())
    await reference.store.enqueue([Factory(clock).instance(delay_us=600_000_000)])
    (moment_us,) = reference.thresholds()
    kept_apart = moments.Moments(engine, reference)

    assert not await kept_apart.step_over(50_000)
    assert kept_apart.fall_into(moment_us + 40_000, moment_us + 40_001, 50_000)
    assert not kept_apart.fall_into(moment_us + 60_000, moment_us + 60_001, 50_000)

    monkeypatch.setattr(moments, "NEAR_US", 600_000_000)
    assert await kept_apart.step_over(50_000)
    assert shifted.time_us() > moment_us + 50_000


@pytest.mark.matrix("what plays the programs is a tool for tests")
def test_a_slip_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_source, "extended", without_note)
    failing = next(program for program in map(generate, range(1, 100)) if judge(program, "memory://").differences)
    small = smaller(failing, "memory://", tries=60)
    assert judge(small, "memory://").differences
    assert small.operations < failing.operations // 3


def without_note(row: Row, state: State, at_us: int, node: str, note: str) -> tuple[Transition, ...]:
    """A slip: the history loses the notes of outcomes."""
    return extended(row, state, at_us, node, "")
