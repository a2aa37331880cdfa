"""The checker of random programs sees each thing that an invariant forbids."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from peerjob.model.codec import encode_value
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.firing import FireOutcome, FireRecord, Overlap, ScheduleRow
from peerjob.model.record import LogLine, Record, Transition
from peerjob.model.spec import Progress, Spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitNumbers
from support.simulation.checker import check
from support.simulation.evidence import Absence, Evidence, Ledger, Order, Run

SECOND = 1_000_000
ID, OTHER = "0-one", "0-two"
PLAIN = ((State.CREATED, 0, ""), (State.SCHEDULED, 0, ""), (State.PROCESSING, 10, ""), (State.COMPLETED, 20, ""))
Steps = Sequence[tuple[State, int, str]]


def a_record(id: str = ID, steps: Steps = PLAIN, **fields: Any) -> Record:
    history = tuple(Transition(state, at_us, "n", note) for state, at_us, note in steps)
    given: dict[str, Any] = {
        "id": id,
        "kind": "k",
        "state": history[-1].state,
        "spec": encode(Spec(args=encode_arguments((f"t-{id}",), {}))),
        "priority": 5,
        "due_us": 0,
        "attempts": 1,
        "crashes": 0,
        "losses": 0,
        "fence": 7,
        "owner": "",
        "history": history,
        "result": encode_value(id),
    }
    return Record(**(given | fields))


def a_run(id: str = ID, **fields: Any) -> Run:
    given: dict[str, Any] = {
        "id": id,
        "kind": "k",
        "node": "n",
        "fence": 7,
        "attempt": 1,
        "begin_us": 11,
        "end_us": 19,
        "ending": "returned",
        "token": f"t-{id}",
        "result": id,
    }
    return Run(**(given | fields))


def an_order(id: str = ID, **fields: Any) -> Order:
    given: dict[str, Any] = {"id": id, "kind": "k", "token": f"t-{id}"}
    return Order(**(given | fields))


def evidence(record: Record | None = None, *runs: Run, orders: Sequence[Order] = (), **fields: Any) -> Evidence:
    """The evidence of an instance that ran once and is Completed, unless the options say otherwise."""
    record = record or a_record()
    given: dict[str, Any] = {"records": {record.id: record}, "runs": runs or [a_run()], **fields}
    return Evidence(ended_us=100 * SECOND, orders={one.id: one for one in orders or [an_order()]}, **given)


FAILED_TWICE: Steps = (
    *PLAIN[:3],
    (State.SCHEDULED, 20, "retry 1: Error"),
    (State.PROCESSING, 30, ""),
    (State.TERMINATED, 40, "Error"),
)
LOST_ONCE: Steps = (*PLAIN[:3], (State.SCHEDULED, 20, "node lost"), *((s, at + 20, n) for s, at, n in PLAIN[2:]))
CANCELLED: Steps = (*PLAIN[:3], (State.CANCELLED, 20, ""))

EVERY = Definition(kind="k", spec=b"", every_us=SECOND, overlap=Overlap.SKIP)
FIRED = FireRecord(nominal_us=SECOND, outcome=FireOutcome.FIRED, at_us=SECOND, instance=ID)


def a_ledger(*records: FireRecord, definitions: Sequence[Definition] = (EVERY,), **fields: Any) -> Ledger:
    last = max(record.until_us or record.nominal_us for record in records)
    given: dict[str, Any] = {"next_us": last + SECOND, "last_us": last, "created_us": 0}
    row = ScheduleRow(name="s", kind="k", definition=encode_definition(definitions[-1]), revision=1, **(given | fields))
    return Ledger(row=row, records=records, definitions=tuple(definitions))


def of_schedule(id: str, nominal_us: int) -> Record:
    return a_record(id, spec=encode(Spec(args=encode_arguments((f"t-{id}",), {}), schedule="s", nominal_us=nominal_us)))


def fires(*records: FireRecord, **fields: Any) -> Evidence:
    return evidence(of_schedule(ID, SECOND), ledgers=[a_ledger(*records, **fields)])


def two_of_one_schedule(*runs: Run, **fields: Any) -> Evidence:
    second = FireRecord(nominal_us=2 * SECOND, outcome=FireOutcome.FIRED, at_us=2 * SECOND, instance=OTHER)
    found: Any = {ID: of_schedule(ID, SECOND), OTHER: of_schedule(OTHER, 2 * SECOND)}
    return evidence(
        None,
        *runs,
        orders=[an_order(), an_order(OTHER)],
        **({"records": found, "ledgers": [a_ledger(FIRED, second)]} | fields),
    )


def two_places(first_claimed_us: int = 40, told_us: int = 0) -> Evidence:
    later: Steps = (*PLAIN[:2], (State.PROCESSING, first_claimed_us, ""), (State.COMPLETED, 50, ""))
    return evidence(
        None,
        a_run(begin_us=41, end_us=49),
        a_run(OTHER),
        orders=[an_order(told_us=told_us), an_order(OTHER)],
        records={ID: a_record(steps=later), OTHER: a_record(OTHER)},
    )


def passed_over(claims: int) -> Evidence:
    """One instance waits, while a node claims so many later ones within a window."""
    steps: dict[str, Steps] = {
        ID: (*PLAIN[:2], (State.PROCESSING, 100 * SECOND, ""), (State.COMPLETED, 101 * SECOND, ""))
    }
    for number in range(claims):
        at_us = (2 + number) * SECOND
        steps[f"1-{number}"] = (*PLAIN[:2], (State.PROCESSING, at_us, ""), (State.COMPLETED, at_us + 1, ""))
    return evidence(
        None,
        *(a_run(id, begin_us=at[2][1], end_us=at[3][1]) for id, at in steps.items()),
        orders=[an_order(id) for id in steps],
        records={id: a_record(id, steps=at) for id, at in steps.items()},
        strict=False,
        starts={"n": 2},
    )


def paused(from_us: int, until_us: int) -> Sequence[Absence]:
    return [Absence(node="n", why="paused", from_us=from_us, until_us=until_us)]


def again(**fields: Any) -> Run:
    """The second run of an instance, on another node, with the outcome that counts."""
    given: dict[str, Any] = {"node": "m", "fence": 8, "begin_us": 31, "end_us": 39}
    return a_run(**(given | fields))


def limited(limit: LimitNumbers, second_us: int, *runs: Run, key_concurrency: int = 0) -> Evidence:
    """Two instances of one limit and one key; the second one is claimed at this time."""
    steps = (*PLAIN[:2], (State.PROCESSING, second_us, ""), (State.COMPLETED, second_us + 10, ""))
    same = encode(Spec(args=encode_arguments((f"t-{ID}",), {})))
    runs = runs or (a_run(), a_run(OTHER, begin_us=second_us + 6, end_us=second_us + 7, token=f"t-{ID}"))
    records = {ID: a_record(), OTHER: a_record(OTHER, steps, spec=same)}
    return Evidence(records=records, runs=runs, limit=limit, key_concurrency=key_concurrency)


TWICE = a_record(steps=LOST_ONCE, fence=8, losses=1)

LEGAL: dict[str, Evidence] = {
    "one run": evidence(),
    "a limit that is kept": limited(LimitNumbers(concurrency=1, period_us=10, burst=1), 20, key_concurrency=1),
    "a run on a node that was killed, then another": evidence(
        TWICE,
        a_run(end_us=None, ending=""),
        again(),
        absences=[Absence(node="n", why="killed", from_us=15)],
    ),
    "two bodies while a node is paused": evidence(
        TWICE, a_run(end_us=50, ending="cancelled"), again(), absences=paused(12, 45)
    ),
    "a body that ignores that its claim is lost": evidence(
        TWICE, a_run(end_us=50, ending="returned", stubborn=True, asked="lost", result="stale"), again()
    ),
    "a retry": evidence(
        a_record(steps=FAILED_TWICE, attempts=2, fence=8),
        a_run(ending="raised"),
        again(attempt=2),
        orders=[an_order(max_retries=1)],
    ),
    "a poisoned instance": evidence(
        a_record(steps=(*PLAIN[:3], (State.TERMINATED, 20, "poison")), attempts=0, crashes=1),
        orders=[an_order(max_crashes=0)],
    ),
    "a cancelled run": evidence(
        a_record(steps=CANCELLED), a_run(ending="cancelled"), orders=[an_order(cancelled_us=20)]
    ),
    "a schedule that fired": fires(FIRED),
    "a time that was backfilled before it came": fires(
        msgspec.structs.replace(FIRED, outcome=FireOutcome.BACKFILLED),
        FireRecord(nominal_us=2 * SECOND, outcome=FireOutcome.MISSED, at_us=2 * SECOND),
    ),
    "a time of a pause that was backfilled": fires(
        FIRED,
        FireRecord(nominal_us=4 * SECOND, outcome=FireOutcome.BACKFILLED, at_us=5 * SECOND),
        next_us=2 * SECOND,
        paused=True,
    ),
    "two of one schedule, one after the other": two_of_one_schedule(a_run(), a_run(OTHER, begin_us=19, end_us=25)),
    "the better place first": two_places(first_claimed_us=10),
    "a request of a node that stood still": two_places(told_us=2_000_050),
    "a few worse places first within a window": passed_over(8),
    "own lines": evidence(logs={ID: [LogLine(1, 1, f"body t-{ID} says")]}),
}

ILLEGAL: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "an instance that is gone": ("NO-LOSS", lambda: evidence(records={}, orders=[an_order()])),
    "an instance of the ledger that is gone": (
        "NO-LOSS",
        lambda: fires(msgspec.structs.replace(FIRED, instance=OTHER)),
    ),
    "an instance that waits for ever": ("NO-LOSS", lambda: evidence(a_record(steps=PLAIN[:2], fence=0, attempts=0))),
    "an instance that is claimed for ever": ("NO-LOSS", lambda: evidence(a_record(steps=PLAIN[:3]))),
    "a completion without a body": ("NO-LOSS", lambda: evidence(None, a_run(ending="raised"))),
    "a completion under a fence that no body had": ("NO-LOSS", lambda: evidence(a_record(fence=9))),
    "a fence that two runs have": ("ONE-OWNER", lambda: evidence(TWICE, a_run(), again(), again(begin_us=41))),
    "a fence that goes back": ("ONE-OWNER", lambda: evidence(a_record(), a_run(fence=8), again(fence=7))),
    "a record that a stale run wrote": ("ONE-OWNER", lambda: evidence(a_record(), a_run(), again())),
    "a result of another run": ("ONE-OWNER", lambda: evidence(TWICE, a_run(), again(result="other"))),
    "two bodies at once": ("ONE-OWNER", lambda: evidence(TWICE, a_run(end_us=50), again())),
    "a body that never ended, and another": (
        "ONE-OWNER",
        lambda: evidence(TWICE, a_run(end_us=None, ending=""), again()),
    ),
    "two bodies long after a pause": (
        "ONE-OWNER",
        lambda: evidence(
            TWICE,
            a_run(end_us=10 * SECOND),
            again(begin_us=9 * SECOND, end_us=10 * SECOND),
            absences=paused(12, 45),
        ),
    ),
    "a body that was told and goes on, though nothing was lost": (
        "ONE-OWNER",
        lambda: evidence(TWICE, a_run(end_us=50, stubborn=True, asked="timeout"), again()),
    ),
    "a cancelled instance that is Completed": ("ONE-OWNER", lambda: evidence(orders=[an_order(cancelled_us=15)])),
    "a body that begins long after the cancellation": (
        "ONE-OWNER",
        lambda: evidence(
            a_record(steps=CANCELLED),
            a_run(begin_us=30 * SECOND, end_us=31 * SECOND, ending="cancelled"),
            orders=[an_order(cancelled_us=20)],
        ),
    ),
    "a history without a beginning": ("LEGAL-HISTORY", lambda: evidence(a_record(steps=PLAIN[1:]))),
    "a state that does not follow": ("LEGAL-HISTORY", lambda: evidence(a_record(steps=(*PLAIN[:2], PLAIN[3])))),
    "a final state that is left": (
        "LEGAL-HISTORY",
        lambda: evidence(a_record(steps=(*PLAIN, (State.COMPLETED, 30, "")))),
    ),
    "a time that goes back": (
        "LEGAL-HISTORY",
        lambda: evidence(a_record(steps=(*PLAIN[:3], (State.COMPLETED, 5, "")))),
    ),
    "a record unlike its history": ("LEGAL-HISTORY", lambda: evidence(a_record(state=State.TERMINATED))),
    "a claim without a fence": ("LEGAL-HISTORY", lambda: evidence(a_record(fence=0), a_run(fence=0))),
    "a history that was written anew": (
        "LEGAL-HISTORY",
        lambda: evidence(snapshots={ID: [tuple(Transition(state, 1) for state, _, _ in PLAIN[:3])]}),
    ),
    "a history that is too long": (
        "LEGAL-HISTORY",
        lambda: evidence(
            a_record(
                steps=(*PLAIN[:2], *((State.PROCESSING, 10, ""), (State.SCHEDULED, 10, "node lost")) * 30, *PLAIN[2:])
            )
        ),
    ),
    "a nominal time with two records": (
        "ONE-FIRE",
        lambda: fires(FIRED, msgspec.structs.replace(FIRED, instance=OTHER, outcome=FireOutcome.BACKFILLED)),
    ),
    "an instance with two records": (
        "ONE-FIRE",
        lambda: fires(FIRED, msgspec.structs.replace(FIRED, nominal_us=2 * SECOND)),
    ),
    "stretches that overlap": (
        "ONE-FIRE",
        lambda: fires(
            FIRED,
            FireRecord(nominal_us=SECOND, until_us=2 * SECOND, count=2, outcome=FireOutcome.MISSED),
        ),
    ),
    "a nominal time without a record": (
        "ONE-FIRE",
        lambda: fires(FIRED, FireRecord(nominal_us=3 * SECOND, outcome=FireOutcome.MISSED)),
    ),
    "a record of no nominal time": ("ONE-FIRE", lambda: fires(msgspec.structs.replace(FIRED, nominal_us=SECOND + 1))),
    "a stretch that counts wrong": (
        "ONE-FIRE",
        lambda: fires(
            FIRED, FireRecord(nominal_us=2 * SECOND, until_us=4 * SECOND, count=2, outcome=FireOutcome.MISSED)
        ),
    ),
    "an instance that the ledger does not know": (
        "ONE-FIRE",
        lambda: fires(msgspec.structs.replace(FIRED, instance="", outcome=FireOutcome.MISSED)),
    ),
    "a fire before its time": ("ONE-FIRE", lambda: fires(msgspec.structs.replace(FIRED, at_us=SECOND - 1))),
    "a body before the time of its fire": (
        "ONE-FIRE",
        lambda: fires(msgspec.structs.replace(FIRED, nominal_us=4 * SECOND, at_us=4 * SECOND)),
    ),
    "two bodies of a schedule that skips": (
        "ONE-FIRE",
        lambda: two_of_one_schedule(a_run(), a_run(OTHER, begin_us=18, end_us=25)),
    ),
    "two instances of one nominal time": (
        "ONE-FIRE",
        lambda: two_of_one_schedule(
            a_run(),
            a_run(OTHER, begin_us=19, end_us=25),
            records={ID: of_schedule(ID, SECOND), OTHER: of_schedule(OTHER, SECOND)},
        ),
    ),
    "a worse place first": ("ORDER", two_places),
    "many worse places first within a window": ("ORDER", lambda: passed_over(9)),
    "an attempt that nothing counts": ("RETRIES", lambda: evidence(a_record(attempts=2))),
    "a loss that counts as an attempt": (
        "RETRIES",
        lambda: evidence(a_record(steps=LOST_ONCE, fence=8, attempts=2), a_run(), again()),
    ),
    "more retries than allowed": (
        "RETRIES",
        lambda: evidence(a_record(steps=FAILED_TWICE, attempts=2, fence=8), a_run(), again(attempt=2)),
    ),
    "a run with a number too high": ("RETRIES", lambda: evidence(None, a_run(attempt=2))),
    "a poisoned instance that had no crash": (
        "RETRIES",
        lambda: evidence(a_record(steps=(*PLAIN[:3], (State.TERMINATED, 20, "poison")), attempts=0)),
    ),
    "more claims than the concurrency": ("LIMIT", lambda: limited(LimitNumbers(concurrency=1), 15)),
    "more claims of a key than its concurrency": ("LIMIT", lambda: limited(LimitNumbers(), 15, key_concurrency=1)),
    "more bodies than the concurrency": (
        "LIMIT",
        lambda: limited(LimitNumbers(concurrency=1), 20, a_run(), a_run(OTHER, begin_us=18, end_us=29)),
    ),
    "a claim too soon": ("RATE", lambda: limited(LimitNumbers(period_us=11, burst=1), 20)),
    "a key without an owner": ("BOUNDED", lambda: evidence(leftovers=["own/x/y"])),
    "more lines than allowed": ("BOUNDED", lambda: evidence(logs={ID: [LogLine(1, 1, "line")] * 1001})),
    "a variable that another body set": ("ISOLATED", lambda: evidence(None, a_run(found=OTHER))),
    "arguments of another instance": ("ISOLATED", lambda: evidence(None, a_run(token=f"t-{OTHER}"))),
    "tags of another instance": ("ISOLATED", lambda: evidence(a_record(tags=("red",)))),
    "the key of another instance": ("ISOLATED", lambda: evidence(a_record(key="other"))),
    "a body that sees other tags": ("ISOLATED", lambda: evidence(None, a_run(tags=("red",)))),
    "a body that sees another key": ("ISOLATED", lambda: evidence(None, a_run(key="other"))),
    "a line of another instance": ("ISOLATED", lambda: evidence(logs={ID: [LogLine(1, 1, f"body t-{OTHER} says")]})),
    "the progress of another instance": (
        "ISOLATED",
        lambda: evidence(a_record(progress=encode(Progress(0.5, f"body t-{OTHER} works", 1)))),
    ),
}


@pytest.mark.parametrize("case", LEGAL)
def test_the_checker_accepts(case: str) -> None:
    assert check(LEGAL[case]) == []


@pytest.mark.parametrize("case", ILLEGAL)
def test_the_checker_sees(case: str) -> None:
    invariant, made = ILLEGAL[case]
    assert invariant in {violation.invariant for violation in check(made())}
