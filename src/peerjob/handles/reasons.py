"""Why an instance does not run, or a schedule does not fire. This module has no input or output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from peerjob.model.ages import age, moment, until
from peerjob.model.durable import FLOW_KIND
from peerjob.model.firing import Leader
from peerjob.model.listed import listed
from peerjob.model.printable import counted
from peerjob.model.record import NodeView, Record, is_suspect
from peerjob.model.state import State
from peerjob.model.stored_limit import InstanceLimits

from .instance import Instance
from .limit_reasons import Running, why_limited
from .schedule import FireEntry, ScheduleView


@dataclass(frozen=True, kw_only=True)
class Observations:
    """The state of the cluster around one instance."""

    now: datetime
    instance: Instance[Any]
    nodes: Sequence[NodeView]
    slot_of: ScheduleView | None = None
    """The schedule whose slot the instance has, or waits for."""
    busy: Mapping[str, int] = field(default_factory=dict[str, int])
    """Node → number of claimed instances, read from the store now; NodeView has the number at the last renewal."""
    limits: InstanceLimits = field(default_factory=InstanceLimits)
    running: Running = field(default_factory=dict[str, dict[str, str]])
    """Running instances of each kind, with their nodes; enough of them to name the holders of limits."""
    before: int = 0
    """The number of due instances that the nodes for this kind claim before this instance."""
    counted_all: bool = True
    """False if the count of `before` ended early, so that the true number is possibly larger."""
    children: tuple[int, int] | None = None
    """How many children of the instance are not over, and how many it has; None unless it waits for children."""

    @property
    def able(self) -> list[NodeView]:
        """The live nodes that claim the kind."""
        return able(self.instance.kind, self.nodes)


def able(kind: str, nodes: Iterable[NodeView]) -> list[NodeView]:
    """The nodes that claim a kind: those that run it, without those that drain or are drained."""
    return [
        node
        for node in nodes
        if node.info.workers and (kind in node.info.open_kinds or (kind == FLOW_KIND and node.intake in ("", "active")))
    ]


def _closed(kind: str, nodes: Iterable[NodeView]) -> str:
    """Name the nodes that would run a kind, and are draining or drained; "" if there are none."""
    closed = [node for node in nodes if kind in node.info.kinds and kind not in node.info.open_kinds]
    return listed((f"{node.name} is {node.intake}" for node in closed), none="")


def rank(record: Record) -> tuple[int, int, str]:
    """The order in which due instances are claimed."""
    return record.priority, record.due_us, record.id


def why_instance(observations: Observations) -> list[str]:
    """Sentences about an instance, the reason first."""
    instance = observations.instance
    if instance.state.is_final:
        return list(_why_over(instance))
    if instance.state is State.PROCESSING:
        return list(_why_running(observations))
    return [*_why_waiting(observations), *_what_was(instance)]


def _why_over(instance: Instance[Any]) -> Iterator[str]:
    last = instance.record.history[-1]
    # the note of a failed instance repeats the error, which the next line shows
    note = f" ({last.note})" if last.note and instance.error is None else ""
    deaths = f" and {counted(instance.crashes, 'death')} of its node" if instance.crashes else ""
    yield f"it is final: {instance.state!s}{note} after {_times(instance.attempts)}{deaths}"
    if instance.error is not None:
        yield f"it ended with {instance.error}"


def _why_running(observations: Observations) -> Iterator[str]:
    instance = observations.instance
    since = age(instance.processed_at, observations.now)
    yield f"it runs: on node {instance.node}, for {since}, try {instance.attempts}"
    if instance.progress is not None:
        yield f"it reports {instance.progress.fraction:.0%} {instance.progress.message}".rstrip()
    node = next((node for node in observations.nodes if node.name == instance.node), None)
    if node is None:
        yield f"node {instance.node} does not renew its lease: the instance returns to the queue when the lease expires"
    elif (held := observations.busy.get(node.name, 0)) > node.info.workers:
        yield (
            f"node {node.name} has claimed {held} instances for {node.info.workers} workers: it may still wait for a "
            "worker, and returns to the queue if that takes long"
        )


def _why_waiting(observations: Observations) -> Iterator[str]:
    instance = observations.instance
    if instance.waits_for is not None:
        yield f"it is suspended: it waits for {instance.waits_for}"
        if observations.children is not None:
            yield "{:,} of its {:,} children are not over: jobctl show --tree lists them".format(*observations.children)
        return
    waits = False
    if instance.due_at > observations.now:
        waits = True
        yield f"it is delayed: due {age(instance.due_at, observations.now)}, at {moment(instance.due_at)}"
    if (slot := observations.slot_of) is not None and slot.running != instance.id and instance.id in slot.waiting:
        waits = True
        position = slot.waiting.index(instance.id)
        others = (
            f", nor are {_others(position)} before it" if position > 1 else ", nor is one before it" if position else ""
        )
        yield f"it is parked: schedule {slot.name} runs one at a time, and {slot.running} is not final{others}"
    for sentence in why_limited(instance.kind, observations.limits, observations.running, observations.now):
        waits = True
        yield sentence
    if not observations.nodes:
        yield "no node is live"
    elif not observations.able and (closed := _closed(instance.kind, observations.nodes)):
        yield f"no node claims jobs of kind {instance.kind!r} now: {closed}; jobctl undrain lets a node claim again"
    elif not observations.able:
        names = listed(
            f"{node.name} runs {listed(node.info.kinds, like=instance.kind, none='nothing')}"
            for node in observations.nodes
        )
        yield f"no live node runs jobs of kind {instance.kind!r} ({names})"
    elif not waits:
        yield from _why_queued(observations)


def _why_queued(observations: Observations) -> Iterator[str]:
    workers = sum(node.info.workers for node in observations.able)
    free = sum(max(0, node.info.workers - observations.busy.get(node.name, 0)) for node in observations.able)
    names = listed(node.name for node in observations.able)
    if closed := _closed(observations.instance.kind, observations.nodes):
        names += f"; {closed}"
    least = "" if observations.counted_all else "at least "
    position = (
        f"queued behind {least}{_others(observations.before)}" if observations.before else "the next in the queue"
    )
    if not free or observations.before:
        yield (f"it is {position}: {workers - free} of the {workers} workers that run its kind are busy (on {names})")
    elif is_suspect(observations.instance.crashes, observations.instance.losses):
        deaths = observations.instance.crashes + observations.instance.losses
        yield f"nodes died {deaths} times while they ran it, so only a node that runs nothing else claims it"
    else:
        yield (
            f"it is due, and {free} of {workers} workers are free (on {names}): it should start at once, unless the "
            "clocks of these nodes are wrong"
        )


def _what_was(instance: Instance[Any]) -> Iterator[str]:
    last = instance.record.history[-1]
    if last.note:
        yield f"{last.node or 'a peer'} returned it to the queue: {last.note}"
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
    sentences: list[str] = []
    if schedule.paused:
        sentences.append(f"it is paused{': ' + schedule.note if schedule.note else ''}")
    if leader is None:
        sentences.append("no leader is known: schedules do not fire until there is one")
    if not able(schedule.kind, nodes) and (closed := _closed(schedule.kind, nodes)):
        sentences.append(f"no node claims jobs of kind {schedule.kind!r} now: {closed}")
    elif not able(schedule.kind, nodes):
        sentences.append(f"no live node runs jobs of kind {schedule.kind!r}: its times are recorded as skipped")
    if schedule.running is not None:
        sentences.append(f"its instance {schedule.running} is not final")
    if schedule.next_at is None:
        sentences.append("it has no next time")
    elif not schedule.paused:
        sentences.append(f"its next time is {until(schedule.next_at, now)}, at {moment(schedule.next_at)}")
    if last is not None:
        reason = f" ({last.reason})" if last.reason else ""
        sentences.append(f"its last time, {moment(last.until or last.nominal)}, was {last.outcome}{reason}")
    return sentences


def _others(count: int) -> str:
    return "one other" if count == 1 else f"{count} others"


def _times(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"
