"""Why something does not run, from what a node tells about it: no input or output here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from peerjob.handles.instance import Instance
from peerjob.handles.schedule import FireEntry, ScheduleView
from peerjob.model.firing import Leader
from peerjob.model.record import NodeView, Record, is_suspect
from peerjob.model.state import State

from .output import age, moment


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What is known around one instance."""

    now: datetime
    instance: Instance[Any]
    nodes: Sequence[NodeView]
    slot_of: ScheduleView | None = None
    """The schedule whose slot it takes, or waits for."""
    busy: Mapping[str, int] = field(default_factory=dict[str, int])
    """Node → instances that it has taken; what nodes say of themselves is as old as their last renewal."""
    before: int = 0
    """Instances that are due, and that nodes which run its kind take first."""
    counted_all: bool = True
    """False when there may be more of them."""

    @property
    def able(self) -> list[NodeView]:
        """The live nodes that run its kind."""
        return able(self.instance.kind, self.nodes)


def able(kind: str, nodes: Iterable[NodeView]) -> list[NodeView]:
    """The nodes that run a kind."""
    return [node for node in nodes if kind in node.info.kinds and node.info.workers]


def rank(record: Record) -> tuple[int, int, str]:
    """The order in which what is due is claimed."""
    return record.priority, record.due_us, record.id


def why_instance(facts: Observations) -> list[str]:
    """Sentences, the reason first."""
    instance = facts.instance
    if instance.state.is_final:
        return list(_why_over(instance))
    if instance.state is State.PROCESSING:
        return list(_why_running(facts))
    return [*_why_waiting(facts), *_what_was(instance)]


def _why_over(instance: Instance[Any]) -> Iterator[str]:
    last = instance.record.history[-1]
    # the note of a failure is its error, which has a line of its own
    note = f" ({last.note})" if last.note and instance.error is None else ""
    yield f"it is over: {instance.state!s}{note} after {_times(instance.attempts)}"
    if instance.error is not None:
        yield f"it ended with {instance.error}"


def _why_running(facts: Observations) -> Iterator[str]:
    instance = facts.instance
    yield f"it runs: on node {instance.node}, for {age(instance.processed_at, facts.now)}, try {instance.attempts}"
    if instance.progress is not None:
        yield f"it says that it is at {instance.progress.fraction:.0%} {instance.progress.message}".rstrip()
    node = next((node for node in facts.nodes if node.name == instance.node), None)
    if node is None:
        yield f"node {instance.node} is not heard of: its peers take the instance back when its lease has run out"
    elif (held := facts.busy.get(node.name, 0)) > node.info.workers:
        yield (
            f"node {node.name} has taken {held} instances for {node.info.workers} workers: it may still wait for one "
            "of them, and is put back if that takes long"
        )


def _why_waiting(facts: Observations) -> Iterator[str]:
    instance = facts.instance
    waits = False
    if instance.due_at > facts.now:
        waits = True
        yield f"it is delayed: due {age(instance.due_at, facts.now)}, at {moment(instance.due_at)}"
    if (slot := facts.slot_of) is not None and slot.running != instance.id and instance.id in slot.waiting:
        waits = True
        place = slot.waiting.index(instance.id)
        others = f", nor are {_others(place)} before it" if place > 1 else ", nor is one before it" if place else ""
        yield f"it is parked: schedule {slot.name} runs one at a time, and {slot.running} is not over{others}"
    if not facts.nodes:
        yield "no node is live"
    elif not facts.able:
        names = ", ".join(f"{node.name} runs {', '.join(node.info.kinds) or 'nothing'}" for node in facts.nodes)
        yield f"no live node runs jobs of kind {instance.kind!r} ({names})"
    elif not waits:
        yield from _why_queued(facts)


def _why_queued(facts: Observations) -> Iterator[str]:
    workers = sum(node.info.workers for node in facts.able)
    free = sum(max(0, node.info.workers - facts.busy.get(node.name, 0)) for node in facts.able)
    names = ", ".join(node.name for node in facts.able)
    least = "" if facts.counted_all else "at least "
    place = f"queued behind {least}{_others(facts.before)}" if facts.before else "the next in the queue"
    if not free or facts.before:
        yield (f"it is {place}: {workers - free} of the {workers} workers that run its kind are busy (on {names})")
    elif is_suspect(facts.instance.crashes, facts.instance.losses):
        yield (
            f"it went down with nodes {facts.instance.crashes + facts.instance.losses} times, and so is taken alone, "
            "by a node that runs nothing else"
        )
    else:
        yield (
            f"it is due, and {free} of {workers} workers are free (on {names}): it should begin at once, unless these "
            "nodes drain or their clocks are wrong"
        )


def _what_was(instance: Instance[Any]) -> Iterator[str]:
    last = instance.record.history[-1]
    if last.note:
        yield f"it was put back by {last.node or 'a peer'}: {last.note}"
    if instance.error is not None:
        yield f"its last try ended with {instance.error}"


def why_schedule(
    schedule: ScheduleView,
    *,
    now: datetime,
    nodes: Sequence[NodeView],
    leader: Leader | None,
    last: FireEntry | None,
) -> list[str]:
    """Sentences about a schedule, the reason first."""
    found: list[str] = []
    if schedule.paused:
        found.append(f"it is paused{': ' + schedule.note if schedule.note else ''}")
    if leader is None:
        found.append("no node is known to lead: schedules do not fire until one does")
    if not able(schedule.kind, nodes):
        found.append(f"no live node runs jobs of kind {schedule.kind!r}: its times are recorded as skipped")
    if schedule.running is not None:
        found.append(f"instance {schedule.running} of it is not over")
    if schedule.next_at is None:
        found.append("it has no time to come")
    elif not schedule.paused:
        found.append(f"its next time is {age(schedule.next_at, now)}, at {moment(schedule.next_at)}")
    if last is not None:
        reason = f" ({last.reason})" if last.reason else ""
        found.append(f"its last time, {moment(last.nominal)}, was {last.outcome}{reason}")
    return found


def _others(count: int) -> str:
    return "one other" if count == 1 else f"{count} others"


def _times(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"
