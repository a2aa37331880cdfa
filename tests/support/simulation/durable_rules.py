"""STEPS, WAITS, CHILDREN, FLOWS and SETTLED: the invariants of durable bodies."""

from __future__ import annotations

from collections.abc import Iterator

from peerjob.model.codec import decode_value
from peerjob.model.durable import SIGNAL_MARK, When
from peerjob.model.errors import DecodeError
from peerjob.model.state import State
from peerjob.model.step_values import TIMED_OUT, decode_deadline

from .durable_evidence import Waited
from .evidence import Evidence, Run, Violation
from .owners import LATE_US, described, overlap


def steps(evidence: Evidence) -> Iterator[Violation]:
    """STEPS: a value is accepted once, and stays.

    * A step returns the value that was written first, to each run.
    * The store has each value as long as it has the instance.
    * A caller who heard that a signal is accepted gave the first value, and one who heard that it is not did not.
    """
    durable = evidence.durable
    for kept in durable.kept:
        if (first := _value(evidence, kept.id, kept.name)) != kept.value:
            yield Violation("STEPS", kept.id, f"step {kept.name!r} returned {kept.value!r}, and {first!r} is written")
    for id, stored in durable.steps.items():
        if stored != durable.written.get(id, {}):
            names = sorted(set(durable.written.get(id, {})) ^ set(stored))
            yield Violation("STEPS", id, f"the store has other steps than those that were written: {names}")
    for signal in durable.signals:
        first = _value(evidence, signal.id, SIGNAL_MARK + signal.name)
        if signal.accepted != (first == signal.value):
            text = (
                f"signal {signal.name!r} of {signal.value!r} was answered {signal.accepted}, and {first!r} is written"
            )
            yield Violation("STEPS", signal.id, text)


def waits(evidence: Evidence) -> Iterator[Violation]:
    """WAITS: a wait ends once, not early, and not later because of a restart.

    * Each run that comes past a wait for a signal has the value or the timeout that was written.
    * No wait times out before its deadline, which is kept when the wait begins.
    * Each wait with a time ends at a deadline that is kept.
    * A run that comes to the wait long after the deadline is not suspended again.

    Times of nodes whose clocks differ are not judged.
    """
    durable = evidence.durable
    runs = {(run.id, run.fence): run for run in evidence.runs}
    for waited in durable.waits:
        yield from _ended(evidence, waited)
        deadline_us = _deadline(evidence, waited)
        if evidence.skew_us or deadline_us is None:
            continue
        if waited.outcome == "timed out" and waited.ended_us < deadline_us:
            text = f"{waited.name!r} timed out {deadline_us - waited.ended_us} us early"
            yield Violation("WAITS", waited.id, text)
        run = runs[waited.id, waited.fence]
        late_us = waited.called_us - deadline_us
        if waited.outcome == "suspended" and late_us > LATE_US and not evidence.away(run, "paused", "cut off"):
            text = f"a run is suspended for {waited.name!r} {late_us} us after its deadline: {described(run)}"
            yield Violation("WAITS", waited.id, text)
    for id, times in durable.deadlines.items():
        kept = {decode_deadline(value) for value in durable.written.get(id, {}).values()}
        if times - kept:
            yield Violation("WAITS", id, f"waits end at {sorted(times - kept)}, which no step keeps")


def _ended(evidence: Evidence, waited: Waited) -> Iterator[Violation]:
    stored = evidence.durable.written.get(waited.id, {}).get(SIGNAL_MARK + waited.name)
    if waited.outcome == "value" and waited.value != _value(evidence, waited.id, SIGNAL_MARK + waited.name):
        yield Violation("WAITS", waited.id, f"{waited.name!r} ended with {waited.value!r}, and {stored!r} is written")
    if waited.outcome == "timed out" and stored != TIMED_OUT and not waited.is_suspend:
        yield Violation("WAITS", waited.id, f"{waited.name!r} timed out, and {stored!r} is written")


def _deadline(evidence: Evidence, waited: Waited) -> int | None:
    stored = evidence.durable.written.get(waited.id, {}).get(waited.name)
    return None if stored is None else decode_deadline(stored)


def _value(evidence: Evidence, id: str, name: str) -> object:
    stored = evidence.durable.written.get(id, {}).get(name)
    try:
        return None if stored is None else decode_value(stored)
    except DecodeError:
        return stored


def children(evidence: Evidence) -> Iterator[Violation]:
    """CHILDREN: a parent goes on after its children, and takes them along.

    * Each run of a parent gets the same child under a name.
    * A body that has waited for children goes on when no body of them runs, and each of them is final.
    * A child that completed has the result that its parent got, and one that did not complete has no result for it.
    * A child of a final parent is final, and long after the cancellation of the parent, no body of it begins.
    """
    runs_of = evidence.runs_of()
    for (parent, name), ids in evidence.durable.children.items():
        if len(ids) > 1:
            yield Violation("CHILDREN", parent, f"child {name!r} is {sorted(ids)}")
    for one in evidence.durable.awaited:
        for id in one.ids:
            record = evidence.records.get(id)
            if record is not None and record.history[-1].at_us > one.at_us and evidence.tells_times:
                text = f"went on at {one.at_us} after child {id}, which ended at {record.history[-1].at_us}"
                yield Violation("CHILDREN", one.parent, text)
            for run in runs_of.get(id, ()):
                if _runs_at(evidence, run, one.at_us):
                    yield Violation("CHILDREN", one.parent, f"went on at {one.at_us} beside {id}: {described(run)}")
        found = [evidence.records.get(id) for id in one.ids]
        if None in found:
            continue
        records = [record for record in found if record is not None]
        if (one.results is None) != any(record.state is not State.COMPLETED for record in records):
            states = [str(record.state) for record in records]
            yield Violation("CHILDREN", one.parent, f"got the results {one.results} of children that are {states}")
        elif one.results is not None:
            stored = [None if record.result is None else decode_value(record.result) for record in records]
            if stored != list(one.results):
                yield Violation("CHILDREN", one.parent, f"got {one.results}, and the results are {stored}")
    yield from _taken_along(evidence)


def _runs_at(evidence: Evidence, run: Run, at_us: int) -> bool:
    """Whether a body runs at a time, and nothing that the guarantees name excuses it."""
    later = Run(id=run.id, kind=run.kind, node="", fence=run.fence + 1, attempt=1, begin_us=at_us)
    return run.begin_us < at_us and overlap(evidence, run, later)


def _taken_along(evidence: Evidence) -> Iterator[Violation]:
    runs_of = evidence.runs_of()
    for id, record in evidence.records.items():
        order = evidence.orders.get(record.parent)
        if not record.parent or order is None or order.cancelled_us is None:
            continue
        for run in runs_of.get(id, ()):
            if run.begin_us > order.cancelled_us + evidence.ttl_us + 2 * LATE_US and not evidence.away(
                run, "paused", "cut off"
            ):
                yield Violation("CHILDREN", id, f"began long after the cancellation of its parent: {described(run)}")


def flows(evidence: Evidence) -> Iterator[Violation]:
    """FLOWS: a member runs after what it needs, or is cancelled.

    * A body of a member begins when what it needs is final, with no body, and Completed unless "ended" is enough.
    * A member that needs a Completed one which is not is Cancelled.
    * If a flow is Completed, so is each member that is not optional. If it failed, one of them is not.
    """
    runs_of = evidence.runs_of()
    for flow, members in evidence.durable.flows.items():
        for member in members:
            for needed, when in member.needs:
                for run in runs_of.get(member.id, ()):
                    yield from _started(evidence, run, needed, when)
                    for other in runs_of.get(needed, ()):
                        if _runs_at(evidence, other, run.begin_us):
                            text = f"began beside {needed}, which it needs: {described(other)}"
                            yield Violation("FLOWS", run.id, text)
                yield from _after(evidence, member.id, needed, when)
        record = evidence.records.get(flow)
        stored = [evidence.records.get(member.id) for member in members if not member.optional]
        failed = [one.id for one in stored if one is not None and one.state is not State.COMPLETED]
        if record is None:
            continue
        if record.state is State.COMPLETED and failed and not _is_repeated(evidence, flow):
            yield Violation("FLOWS", flow, f"is Completed, and its members {failed} are not")
        if "FlowFailed" in record.history[-1].note and not failed and None not in stored:
            yield Violation("FLOWS", flow, "failed, and each member that is not optional is Completed")


def _is_repeated(evidence: Evidence, flow: str) -> bool:
    return any(name.startswith("kept/") for name in evidence.durable.written.get(flow, ()))


def _started(evidence: Evidence, run: Run, needed: str, when: When) -> Iterator[Violation]:
    record = evidence.records.get(needed)
    if record is not None and evidence.tells_times and record.history[-1].at_us > run.begin_us:
        yield Violation("FLOWS", run.id, f"began before {needed} ended at {record.history[-1].at_us}: {described(run)}")
    if record is not None and when == "completed" and record.state is not State.COMPLETED:
        yield Violation("FLOWS", run.id, f"began, and needs {needed}, which is {record.state!s}")


def _after(evidence: Evidence, member: str, needed: str, when: When) -> Iterator[Violation]:
    record, before = evidence.records.get(member), evidence.records.get(needed)
    if record is None or before is None or when == "ended" or before.state is State.COMPLETED:
        return
    if record.state is not State.CANCELLED:
        yield Violation("FLOWS", member, f"is {record.state!s}, and needs {needed}, which is {before.state!s}")


def settled(evidence: Evidence) -> Iterator[Violation]:
    """SETTLED: at rest, nothing is left to follow up, and no child is held; meanwhile, nothing waits for nothing.

    * After each operation, what waits and what holds it in the store agree: see `threads`.
    * At rest, no end is to be settled, and nothing is needed. The exception is what a final instance needed of a child
      that was removed before its end was settled: the removal of that instance takes it along.
    * A child whose retention is over is removed after the end of its parent.
    """
    for text in evidence.durable.broken:
        yield Violation(text.partition(":")[0], "the store", text)
    for key in evidence.durable.unsettled:
        yield Violation("SETTLED", key, "the key is left at rest")
    for id in evidence.durable.unexpired:
        yield Violation("SETTLED", id, "its retention is over, its parent is final, and it is not removed")
