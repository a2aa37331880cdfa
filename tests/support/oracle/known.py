"""What the caller of a program knows: instances, nodes, claims and schedules, by the answers so far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peerjob.model.firing import ScheduleRow
from peerjob.model.record import Ack, Action, Claim, NewInstance, Outcome, Want

from .names import Ids, Side

Call = Callable[[Side], Awaitable[Any]]
Answers = Mapping[Side, Any]


def ignored(answers: Answers) -> None:
    """Learn nothing from the answers."""


@dataclass(frozen=True)
class Made:
    """A call that both sides make: for each side with the fences and revisions of its store."""

    verb: str
    call: Call
    learn: Callable[[Answers], None] = ignored
    """Takes the answers of both sides, after they were found alike."""
    once: bool = False
    """Whether the call has no request id, so that its caller never sends it again."""
    moves: bool = False
    """Whether the call can make instances due."""
    removes: bool = False
    """Whether the call can remove final instances by the choice of the engine."""
    incarnation: str = ""
    ids: tuple[str, ...] = ()
    """The instances that a cancel or a commit names, or whose claims a renewal names; the parent of a spawn."""
    logged: tuple[str, ...] = ()
    """The instances to whose logs the call can add."""
    over: bool = False
    """Whether the lease of the incarnation is over after the call."""
    want: Want | None = None
    """What the call claims."""
    untold: tuple[str, ...] = ()
    """The instances whose outcomes do not tell that they are linked, in a call that also claims."""
    reports: Mapping[int, Outcome] = field(default_factory=dict[int, Outcome])
    """The outcomes that are reports, by their places."""
    releases: bool = False
    """Whether an outcome is RELEASE, which only reports while its instance runs."""
    ends: bool = False
    """Whether the outcomes of a turn only report or end their instances: a claim rarely depends on that."""
    parts: tuple[Made, ...] = ()
    """The commit and the claim of a turn, as calls of the reference: in a race, others can come between them."""
    empty: set[int] = field(default_factory=set[int])
    """The places of those that wrote nothing when the call came first; see `Reference.note_empty`."""


@dataclass
class Node:
    """The present life of a node."""

    life: int = 0
    incarnation: str = ""
    kinds: tuple[str, ...] = ()
    forgotten: bool = False
    """Whether so much time has passed that a store need not remember the end of the incarnation."""


@dataclass
class Known:
    """What answers have told so far. It decides what the picks of an operation mean."""

    ids: Ids
    instances: list[str] = field(default_factory=list[str])
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    nodes: dict[int, Node] = field(default_factory=dict[int, Node])
    ended: list[str] = field(default_factory=list[str])
    """Incarnations of earlier lives."""
    claims: dict[str, int] = field(default_factory=dict[str, int])
    """Instance → the number of its claims so far."""
    held: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Incarnation → the claims that it still has to end."""
    past: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])
    """(Incarnation, instance, claim) of claims that were ended."""
    rows: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Schedule → the places of its revisions."""
    schedules: dict[str, ScheduleRow] = field(default_factory=dict[str, ScheduleRow])
    """The rows of the reference, read before an operation that needs them."""
    limited: bool = False
    """Whether kinds have limits."""
    tags: set[str] = field(default_factory=set[str])
    flowing: bool = False
    """Whether the namespace has durable bodies."""
    children: dict[str, dict[str, NewInstance]] = field(default_factory=dict[str, dict[str, NewInstance]])
    """Parent → its children."""
    linked: set[str] = field(default_factory=set[str])
    """Instances with steps, children or a parent."""
    open: dict[str, NewInstance] = field(default_factory=dict[str, NewInstance])
    """Instances of another store of which a part can be missing."""
    durable: set[str] = field(default_factory=set[str])
    """Instances with an outcome that only durable bodies have: an engine can say that they are linked."""
    suspended: set[str] = field(default_factory=set[str])
    """Instances that were suspended, and may still wait."""
    logged: dict[str, None] = field(default_factory=dict[str, None])
    """Instances to whose logs calls have added."""

    def node(self, number: int) -> Node:
        known = self.nodes.get(number)
        if known is None:
            known = self.nodes[number] = Node(incarnation=self.ids.incarnation(number, 0))
        return known

    def incarnation(self, number: int) -> str:
        return self.node(number).incarnation

    def reborn(self, number: int, kinds: tuple[str, ...]) -> tuple[Node, str]:
        """Begin the next life of a node; also returns the incarnation of the last life."""
        last = self.node(number)
        life = last.life + 1
        node = self.nodes[number] = Node(life, self.ids.incarnation(number, life), kinds)
        if last.life:
            self.ended.append(last.incarnation)
        return node, last.incarnation

    def added(self, new: NewInstance) -> None:
        if new.id not in self.kinds:
            self.instances.append(new.id)
        self.kinds[new.id] = new.kind
        self.tags.update(new.tags)

    def instance(self, pick: int) -> str:
        """The instance that a pick means: mostly one of the latest."""
        return self.instances[pick % len(self.instances)] if self.instances else self.ids.instance(-1)

    def claim(self, node: int, of: str, pick: int) -> tuple[str, int]:
        """The instance and the claim that a pick means."""
        if of == "held" and (held := list(self.held.get(self.incarnation(node), {}).items())):
            return held[pick % len(held)]
        if of == "past" and self.past:
            _, id, claim = self.past[pick % len(self.past)]
            return id, claim
        id = self.instance(pick)
        return id, self.claims.get(id, 0)

    def with_holder(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A call of a node: if it asks for a holder, of the next node that holds claims."""
        if not given.get("holder"):
            return given
        count = len(self.nodes)
        numbers = [(given["node"] + step) % max(1, count) for step in range(count)]
        holders = [number for number in numbers if self.held.get(self.incarnation(number))]
        return {**given, "node": holders[0]} if holders else given

    def took(self, incarnation: str, claims: Mapping[Side, tuple[Claim, ...]]) -> None:
        """Keep the claims of an answer, which has the same instances on both sides."""
        fences: dict[str, dict[Side, int]] = {}
        for side, answer in claims.items():
            for claim in answer:
                fences.setdefault(claim.id, {})[side] = claim.fence
        for id, by_side in fences.items():
            if len(by_side) < len(claims):
                continue  # the comparison of the answers tells
            number = self.claims.get(id, 0)
            if all(side.fences.get((id, number)) != fence for side, fence in by_side.items()):
                number = self.claims[id] = number + 1
                for side, fence in by_side.items():
                    side.fences[id, number] = fence
                self.held.setdefault(incarnation, {})[id] = number

    def acknowledged(self, incarnation: str, outcome: Outcome, claim: int, ack: Ack) -> None:
        """Forget a claim that an outcome ended, or that turned out to be lost."""
        ends = (outcome.action is not Action.REPORT or ack is Ack.LOST) and ack is not Ack.TAKEN
        if ack is Ack.DONE and outcome.is_durable:
            self.durable.add(outcome.id)
        if ack is Ack.DONE and outcome.steps:
            self.linked.add(outcome.id)
        if ack is Ack.DONE and outcome.action is Action.SUSPEND:
            self.suspended.add(outcome.id)
        held = self.held.get(incarnation, {})
        if ends and held.get(outcome.id) == claim:
            del held[outcome.id]
            self.past.append((incarnation, outcome.id, claim))

    def revised(self, name: str, rows: Mapping[Side, ScheduleRow]) -> None:
        """Keep the revision of a write."""
        place: int | None = None
        for side, row in rows.items():
            if row.revision not in side.revisions:
                side.revisions.append(row.revision)
            place = side.revisions.index(row.revision)
        if place is not None:
            known = self.rows.setdefault(name, [])
            if place not in known:
                known.append(place)
