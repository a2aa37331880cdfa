"""The reasons that `jobctl why` gives."""

from collections.abc import Sequence
from typing import Any

import pytest

from peerjob import Instance, State
from peerjob.handles.reasons import Observations, why_instance, why_schedule
from peerjob.handles.schedule import FireEntry, ScheduleView
from peerjob.model.clock import to_datetime
from peerjob.model.firing import FireOutcome, FireRecord, Leader, ScheduleRow, Term
from peerjob.model.record import NodeInfo, NodeView
from peerjob.model.spec import ErrorInfo, Progress, encode
from support.instances import CLOCK, an_instance

NOW = to_datetime(CLOCK.time_us())
MINUTE = 60_000_000
LEADER = Leader(incarnation="i", name="one", term=Term("store", 1))


def a_node(name: str = "one", *kinds: str, workers: int = 2, intake: str = "active") -> NodeView:
    return NodeView(info=NodeInfo(name=name, incarnation=name, kinds=kinds, workers=workers, intake=intake))


def sentences(instance: Instance[Any], *nodes: NodeView, **facts: Any) -> list[str]:
    return why_instance(Observations(now=NOW, instance=instance, nodes=nodes, **facts))


@pytest.mark.parametrize(
    ("nodes", "busy", "reason"),
    [
        ([], 0, "no node is live"),
        ([a_node("one", "other")], 0, "no live node runs jobs of kind 'work' (one runs other)"),
        ([a_node("web", workers=0)], 0, "no live node runs jobs of kind 'work' (web runs nothing)"),
        ([a_node("one", "work")], 2, "it is the next in the queue: 2 of the 2 workers that run its kind"),
        ([a_node("one", "work")], 0, "it is due, and 2 of 2 workers are free (on one): it should start at once"),
    ],
)
def test_an_instance_that_is_due_waits_for_a_worker(nodes: Sequence[NodeView], busy: int, reason: str) -> None:
    (first,) = sentences(an_instance(State.SCHEDULED), *nodes, busy={"one": busy})
    assert first.startswith(reason)


def test_workers_of_a_node_that_drains_do_not_count() -> None:
    drained, active = a_node("a", "work", intake="drained"), a_node("b", "work")
    assert sentences(an_instance(State.SCHEDULED), drained, active, busy={"b": 2}) == [
        "it is the next in the queue: 2 of the 2 workers that run its kind are busy (on b; a is drained)"
    ]
    assert sentences(an_instance(State.SCHEDULED), drained, a_node("c", "work", intake="draining")) == [
        "no node claims jobs of kind 'work' now: a is drained, c is draining; jobctl undrain lets a node claim again"
    ]
    old = a_node("old", "work", intake="")
    assert sentences(an_instance(State.SCHEDULED), old)[0].startswith("it is due, and 2 of 2 workers are free (on old)")


def test_instances_ahead_are_counted_up_to_a_limit() -> None:
    node = a_node("one", "work")
    assert sentences(an_instance(State.SCHEDULED), node, before=7)[0].startswith("it is queued behind 7 others: ")
    assert "at least 9 others" in sentences(an_instance(State.SCHEDULED), node, before=9, counted_all=False)[0]


def test_all_reasons_of_a_delayed_instance_are_shown() -> None:
    error = encode(ErrorInfo(type="OSError", message="no route"))
    retried = an_instance(
        State.SCHEDULED, due_us=CLOCK.time_us() + 5 * MINUTE, note="retry 1 in 5m", error=error, kind="rare"
    )
    assert sentences(retried, a_node("one", "work")) == [
        "it is delayed: due in 5m, at " + f"{to_datetime(CLOCK.time_us() + 5 * MINUTE):%Y-%m-%d %H:%M:%SZ}",
        "no live node runs jobs of kind 'rare' (one runs work)",
        "one returned it to the queue: retry 1 in 5m",
        "its last try ended with OSError: no route",
    ]


def test_a_poison_job_names_the_deaths_of_its_nodes() -> None:
    poison = an_instance(State.TERMINATED, note="poison", attempts=0, crashes=4)
    assert sentences(poison) == ["it is final: Terminated (poison) after 0 tries and 4 deaths of its node"]
    lucky = an_instance(State.COMPLETED, attempts=1, crashes=1)
    assert sentences(lucky) == ["it is final: Completed after 1 try and 1 death of its node"]


def test_a_parked_instance_names_what_it_waits_for() -> None:
    first, second, third = (an_instance(State.SCHEDULED, slot="nightly") for _ in range(3))
    slot = a_schedule(holder=first.id, parked=(second.id, third.id))
    node = a_node("one", "work")
    assert sentences(third, node, slot_of=slot) == [
        f"it is parked: schedule nightly runs one at a time, and {first.id} is not final, nor is one before it"
    ]
    assert sentences(first, node, slot_of=slot)[0].startswith("it is due")


def test_what_may_have_killed_nodes_is_taken_alone() -> None:
    assert sentences(an_instance(State.SCHEDULED, crashes=2), a_node("one", "work"))[0].startswith("nodes died 2")


def test_a_running_instance_is_shown_with_its_progress_and_its_node() -> None:
    running = an_instance(State.PROCESSING, progress=Progress(0.25, "half of half"))
    assert sentences(running, a_node("one", "work")) == [
        "it runs: on node one, for 0s, try 1",
        "it reports 25% half of half",
    ]
    assert sentences(running)[-1].startswith("node one does not renew its lease")
    ahead = sentences(an_instance(State.PROCESSING), a_node("one", "work"), busy={"one": 3})
    assert ahead[-1].startswith("node one has claimed 3 instances for 2 workers: it may still wait")


def a_schedule(**row: Any) -> ScheduleView:
    fields: dict[str, Any] = {"name": "nightly", "kind": "work", "definition": b"", "revision": 1, "next_us": None}
    return ScheduleView(ScheduleRow(**(fields | row)))


def test_a_schedule_that_fires_tells_when() -> None:
    fire = FireEntry("nightly", FireRecord(nominal_us=CLOCK.time_us(), outcome=FireOutcome.SKIPPED, reason="no node"))
    found = why_schedule(
        a_schedule(next_us=CLOCK.time_us() + 3 * MINUTE),
        now=NOW,
        nodes=[a_node("one", "work")],
        leader=LEADER,
        last=fire,
    )
    assert [one.partition(",")[0] for one in found] == ["its next time is in 3m", "its last time"]
    assert found[1].endswith("was skipped (no node)")


def test_the_last_of_several_times_that_share_a_record_is_shown() -> None:
    first = CLOCK.time_us() - 60_000_000
    record = FireRecord(nominal_us=first, until_us=first + 59_000_000, count=60, outcome=FireOutcome.SKIPPED)
    fire = FireEntry("nightly", record)
    assert fire.until is not None
    found = why_schedule(a_schedule(), now=NOW, nodes=[a_node("one", "work")], leader=LEADER, last=fire)
    assert found[-1] == f"its last time, {fire.until:%Y-%m-%d %H:%M:%S}Z, was skipped"


def test_all_reasons_of_a_schedule_that_does_not_fire_are_shown() -> None:
    found = why_schedule(a_schedule(paused=True, holder="x"), now=NOW, nodes=[], leader=None, last=None)
    assert [one.partition(":")[0] for one in found] == [
        "it is paused",
        "no leader is known",
        "no live node runs jobs of kind 'work'",
        "its instance x is not final",
        "it has no next time",
    ]
