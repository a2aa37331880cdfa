"""The checker of random programs sees each thing that an invariant of durable bodies forbids."""

from collections.abc import Callable
from typing import Any

import pytest

from peerjob.model.codec import encode_value
from peerjob.model.durable import When
from peerjob.model.record import Record, Transition
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.model.step_values import encode_deadline
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import GONE, Row
from peerjob.store.kv.format.rows import encode as encode_row
from peerjob.store.kv.format.thread_rows import StoredThread, with_thread
from peerjob.store.memory.data import MemoryData
from support.simulation.checker import check
from support.simulation.durable_evidence import Awaited, DurableEvidence, Kept, Member, Signalled, Waited
from support.simulation.evidence import Evidence, Order, Run
from support.simulation.threads import Threads

SECOND = 1_000_000
ID, OTHER, FLOW = (f"00000000-0000-7000-8000-00000000000{number}" for number in range(3))
STEPS = {"charge": encode_value(7), "!approval": encode_value(True), "pause": encode_deadline(10 * SECOND)}


def a_record(id: str, begin_us: int, end_us: int, state: State = State.COMPLETED, **fields: Any) -> Record:
    history = (
        *(Transition(entry, 0) for entry in (State.CREATED, State.SCHEDULED)),
        Transition(State.PROCESSING, begin_us),
        Transition(state, end_us, "", fields.pop("note", "")),
    )
    given: dict[str, Any] = {
        "kind": "k",
        "state": state,
        "spec": encode(Spec(args=encode_arguments((f"t-{id}",), {}))),
        "priority": 5,
        "due_us": 0,
        "attempts": 1,
        "crashes": 0,
        "losses": 0,
        "fence": 7,
        "owner": "",
        "result": encode_value(id),
    }
    return Record(id=id, history=history, **(given | fields))


def a_run(id: str, begin_us: int, end_us: int | None, **fields: Any) -> Run:
    given: dict[str, Any] = {"fence": 7, "result": id, "ending": "returned", **fields}
    return Run(id=id, kind="k", node="n", attempt=1, token=f"t-{id}", begin_us=begin_us, end_us=end_us, **given)


def evidence(*more: Record, runs: tuple[Run, ...] = (), **durable: Any) -> Evidence:
    """ID ran from 11 to 19 and OTHER from 31 to 39, with the steps of ID."""
    records = [a_record(ID, 10, 20), a_record(OTHER, 30, 40), *more]
    found: dict[str, Any] = {"written": {ID: STEPS}, "steps": {ID: STEPS}, **durable}
    return Evidence(
        ended_us=100 * SECOND,
        records={record.id: record for record in records},
        runs=[a_run(ID, 11, 19), a_run(OTHER, 31, 39), *runs],
        durable=DurableEvidence(**found),
    )


def waited(outcome: str, ended_us: int = 0, name: str = "pause", **fields: Any) -> list[Waited]:
    given: dict[str, Any] = {"called_us": 0, "outcome": outcome, "is_suspend": name == "pause", **fields}
    return [Waited(id=ID, name=name, fence=7, ended_us=ended_us, delay_us=10 * SECOND, **given)]


def awaited(at_us: int = 30, results: tuple[object, ...] | None = (ID,)) -> list[Awaited]:
    return [Awaited(parent=OTHER, fence=7, at_us=at_us, ids=(ID,), results=results)]


def a_flow(when: When = "completed", *, optional: bool = False) -> dict[str, tuple[Member, ...]]:
    first = Member(id=ID, needs=(), optional=optional)
    return {FLOW: (first, Member(id=OTHER, needs=((ID, when),), optional=False))}


def cancelled_parent(begin_us: int) -> Evidence:
    """ID is a child of a parent that was cancelled at 20."""
    found = evidence()
    found.records = {
        FLOW: a_record(FLOW, 5, 20, State.CANCELLED),
        ID: a_record(ID, begin_us, begin_us + 9, State.CANCELLED, parent=FLOW),
    }
    found.runs = [a_run(ID, begin_us, begin_us + 9, ending="cancelled"), a_run(FLOW, 6, 19, ending="cancelled")]
    found.orders = {FLOW: Order(id=FLOW, kind="k", token=f"t-{FLOW}", cancelled_us=20)}
    return found


def failed(id: str, begin_us: int, end_us: int) -> Record:
    return a_record(id, begin_us, end_us, State.TERMINATED)


LEGAL: dict[str, Evidence] = {
    "a step, a signal, and a wait that timed out": evidence(
        kept=[Kept(id=ID, name="charge", value=7)] * 2,
        signals=[
            Signalled(id=ID, name="approval", value=True, accepted=True),
            Signalled(id=ID, name="approval", value=False, accepted=False),
        ],
        waits=[
            *waited("suspended", called_us=1),
            *waited("timed out", 10 * SECOND),
            *waited("value", name="approval", value=True),
        ],
        deadlines={ID: {10 * SECOND}},
    ),
    "a parent after its child": evidence(awaited=awaited(), children={(OTHER, "page"): {ID}}),
    "a member after what it needs": evidence(a_record(FLOW, 5, 50, kind="peerjob.flow"), flows=a_flow()),
    "a member after a failed one": evidence(failed(ID, 10, 20), flows=a_flow("ended")),
    "a child of a cancelled parent": cancelled_parent(3 * SECOND),
}
ILLEGAL: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "a step that returned another value": ("STEPS", lambda: evidence(kept=[Kept(id=ID, name="charge", value=8)])),
    "a step that is gone": ("STEPS", lambda: evidence(steps={ID: {}})),
    "a signal that was accepted, and is not there": (
        "STEPS",
        lambda: evidence(signals=[Signalled(id=ID, name="approval", value=False, accepted=True)]),
    ),
    "a signal that was refused, and is there": (
        "STEPS",
        lambda: evidence(signals=[Signalled(id=ID, name="approval", value=True, accepted=False)]),
    ),
    "a wait with two ends": ("WAITS", lambda: evidence(waits=waited("timed out", 11 * SECOND, name="approval"))),
    "a wait with another value": ("WAITS", lambda: evidence(waits=waited("value", name="approval", value=False))),
    "a wait that ended early": ("WAITS", lambda: evidence(waits=waited("timed out", 9 * SECOND))),
    "a wait that began anew": ("WAITS", lambda: evidence(waits=waited("suspended", called_us=20 * SECOND))),
    "a wait whose deadline no step keeps": ("WAITS", lambda: evidence(deadlines={ID: {11 * SECOND}})),
    "a child that is made twice": ("CHILDREN", lambda: evidence(children={(OTHER, "page"): {ID, FLOW}})),
    "a parent before the end of its child": ("CHILDREN", lambda: evidence(awaited=awaited(19))),
    "a parent beside its child": (
        "CHILDREN",
        lambda: evidence(a_record(ID, 10, 20, fence=8), runs=(a_run(ID, 21, 35, fence=8),), awaited=awaited()),
    ),
    "a parent with the result of a failed child": (
        "CHILDREN",
        lambda: evidence(failed(ID, 10, 20), awaited=awaited()),
    ),
    "a parent without the result of its child": ("CHILDREN", lambda: evidence(awaited=awaited(results=None))),
    "a parent with another result": ("CHILDREN", lambda: evidence(awaited=awaited(results=(OTHER,)))),
    "a child that begins long after the end of its parent": ("CHILDREN", lambda: cancelled_parent(40 * SECOND)),
    "a member before the end of what it needs": ("FLOWS", lambda: evidence(a_record(ID, 10, 33), flows=a_flow())),
    "a member beside the body that it needs": (
        "FLOWS",
        lambda: evidence(a_record(ID, 10, 20, fence=8), runs=(a_run(ID, 21, 35, fence=8),), flows=a_flow()),
    ),
    "a member after a failed one that it needs": ("FLOWS", lambda: evidence(failed(ID, 10, 20), flows=a_flow())),
    "a member that failed, and needs a failed one": (
        "FLOWS",
        lambda: evidence(failed(ID, 10, 20), failed(OTHER, 30, 40), flows=a_flow()),
    ),
    "a flow that completed without a member": (
        "FLOWS",
        lambda: evidence(failed(ID, 10, 20), a_record(FLOW, 5, 50, kind="peerjob.flow"), flows=a_flow("ended")),
    ),
    "a flow that failed without a failed member": (
        "FLOWS",
        lambda: evidence(
            a_record(FLOW, 5, 50, State.TERMINATED, kind="peerjob.flow", note="FlowFailed: a member"), flows=a_flow()
        ),
    ),
    "a key of what is to be settled": ("SETTLED", lambda: evidence(unsettled=["settle/x/e"])),
    "a child that stays": ("SETTLED", lambda: evidence(unexpired=[ID])),
    "an instance that waits for nothing": ("WAKER", lambda: evidence(broken={"WAKER: x waits for nothing": None})),
}


@pytest.mark.parametrize("case", LEGAL)
def test_the_checker_accepts(case: str) -> None:
    assert check(LEGAL[case]) == []


@pytest.mark.parametrize("case", ILLEGAL)
def test_the_checker_sees(case: str) -> None:
    invariant, made = ILLEGAL[case]
    assert invariant in {violation.invariant for violation in check(made())}


# -- the data of the store

KEYS = Keys("n")
WAITING = StoredThread(waits=True, needs=True)
READY = f"{KEYS.ready('k', 5, suspect=False)}000/{ID}"


def a_row(state: State = State.SCHEDULED, thread: StoredThread | None = None) -> bytes:
    row = Row(kind="k", state=state, priority=5, due_us=0, history=(Transition(state, 0),))
    return encode_row(row if thread is None else with_thread(row, thread))


def looked(**entries: bytes) -> list[str]:
    """What does not hold in data with the record of ID, and these entries."""
    data, found = MemoryData(), DurableEvidence()
    threads = Threads(data, "n", found)
    for key, value in entries.items():
        data.apply([Transaction([], [Put(key, value, 0)])], None)
    threads.look("now")
    return [text.partition(":")[0] for text in found.broken]


DATA: dict[str, tuple[list[str], dict[str, bytes]]] = {
    "an instance in its queue": ([], {KEYS.state + ID: a_row(), READY: b""}),
    "an instance in no queue": (["WAKER"], {KEYS.state + ID: a_row()}),
    "a final instance in its queue": (
        ["WAKER"],
        {KEYS.state + ID: a_row(State.COMPLETED), READY: b"", f"{KEYS.expiring(0)}0/{ID}": b""},
    ),
    "one that waits for a child": (
        [],
        {KEYS.state + ID: a_row(thread=WAITING), f"{KEYS.needs(ID, 0)}{OTHER}": b""},
    ),
    "one that waits for nothing": (["WAKER"], {KEYS.state + ID: a_row(thread=WAITING)}),
    "one that waits, and is in its queue": (
        ["WAKER"],
        {KEYS.state + ID: a_row(thread=WAITING), f"{KEYS.needs(ID, 0)}{OTHER}": b"", READY: b""},
    ),
    "one that waits for a signal that is there": (
        ["WAKER"],
        {
            KEYS.state + ID: a_row(thread=StoredThread(waits=True, awaits=("approval",))),
            KEYS.step(ID, "!approval"): b"",
        },
    ),
    "an open child of a parent that is gone": (
        ["WAKER", "CLOSED"],
        {KEYS.state + ID: a_row(thread=StoredThread(waits=True, open=True, parent=OTHER))},
    ),
    "a final instance that neither expires nor is held": (["HELD"], {KEYS.state + ID: a_row(State.COMPLETED)}),
    "a child that is held by a final parent": (
        ["CLOSED"],
        {
            KEYS.state + ID: a_row(State.COMPLETED, StoredThread(parent=OTHER, held=True)),
            KEYS.state + OTHER: a_row(State.COMPLETED),
            f"{KEYS.expiring(0)}0/{OTHER}": b"",
        },
    ),
    "a need of what is over": (["EDGES-SETTLE"], {f"{KEYS.edges(OTHER)}{ID}": b"", KEYS.state + OTHER: GONE}),
}


@pytest.mark.parametrize("case", DATA)
def test_a_look_at_the_data_sees(case: str) -> None:
    wanted, entries = DATA[case]
    assert looked(**entries) == wanted


NEED = f"{KEYS.needs(ID, 7)}{OTHER}"
AT_REST: dict[str, tuple[bool, dict[str, bytes]]] = {
    "an end that is to be settled": (True, {KEYS.settle(ID, "e"): b"4", KEYS.state + ID: a_row(State.COMPLETED)}),
    "an edge": (True, {f"{KEYS.edges(OTHER)}{ID}": b"", KEYS.state + ID: a_row(State.COMPLETED)}),
    "what a final instance needed of a child that is gone": (
        False,
        {NEED: b"", KEYS.state + ID: a_row(State.CANCELLED)},
    ),
    "a need of a child that is there": (
        True,
        {NEED: b"", KEYS.state + ID: a_row(State.CANCELLED), KEYS.state + OTHER: a_row(State.COMPLETED)},
    ),
    "a need of an instance that waits": (True, {NEED: b"", KEYS.state + ID: a_row(thread=WAITING)}),
    "a need of an instance that is gone": (True, {NEED: b"", KEYS.state + ID: GONE}),
}


@pytest.mark.parametrize("case", AT_REST)
def test_what_is_left_at_rest_is_seen_unless_it_goes_with_its_instance(case: str) -> None:
    is_left, entries = AT_REST[case]
    data = MemoryData()
    for key, value in entries.items():
        data.apply([Transaction([], [Put(key, value, 0)])], None)
    assert Threads(data, "n", DurableEvidence()).unsettled() == [next(iter(entries))[2:]] * is_left


def test_a_step_that_changes_is_seen() -> None:
    data, found = MemoryData(), DurableEvidence()
    Threads(data, "n", found)
    for value in (b"1", b"1", b"2"):
        data.apply([Transaction([], [Put(KEYS.step(ID, "charge"), value, 0)])], None)
    assert [text.partition(":")[0] for text in found.broken] == ["STEP-ONCE"]


def test_the_time_of_each_wait_is_noted() -> None:
    data, found = MemoryData(), DurableEvidence()
    Threads(data, "n", found)
    thread = StoredThread(waits=True, until_us=7)
    data.apply([Transaction([], [Put(KEYS.state + ID, a_row(thread=thread), 0)])], None)
    assert found.deadlines == {ID: {7}}
