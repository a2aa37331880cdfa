"""What peers and callers of a random program against the store contract do with durable bodies."""

from __future__ import annotations

import random
from typing import Any

from peerjob.model.durable import SIGNAL_MARK, Need, SignalAnswer, Step, Wait
from peerjob.model.query import MAX_LIMIT, Query
from peerjob.model.record import Action, Claim, Held, NewChild, Outcome
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .durable_evidence import Member
from .storm import Storm

SIGNAL = "go"
SOON_US = 20_000


async def spawn(storm: Storm, chance: random.Random, peer: Peer, claim: Claim) -> None:
    """Add children of a running instance, of which some need others."""
    made: list[NewChild] = []
    for _ in range(chance.choice((1, 2, 4))):
        needed = chance.sample(made, min(len(made), chance.choice((0, 0, 1, 2))))
        needs = tuple(Need(one.instance.id, chance.choice(("completed", "ended"))) for one in needed)
        made.append(NewChild(instance=storm.instance(chance, key=None), needs=needs))
    parent = Held(claim.id, claim.fence)
    answers = await storm.ask(chance, lambda: storm.store.spawn(peer.incarnation, parent, made))
    if answers is None:
        return
    storm.durable.flows[f"{claim.id} {made[0].instance.id}"] = tuple(
        Member(
            id=child.instance.id,
            needs=tuple((need.id, need.when) for need in child.needs),
            optional=True,
        )
        for child in made
    )
    for child in made:
        storm.order(child.instance)
        storm.children.setdefault(claim.id, []).append(child.instance.id)


def durable(storm: Storm, chance: random.Random, claim: Claim, action: Action) -> dict[str, Any]:
    """The fields of an outcome that only durable bodies have; it can be another action."""
    children = storm.children.get(claim.id, [])
    given: dict[str, Any] = {"linked": claim.linked or bool(children)}
    if storm.calm:
        return given
    if chance.random() < 0.3:
        given["steps"] = (Step(chance.choice("ab"), f"{claim.id} {claim.fence}".encode()),)
    if action is not Action.COMPLETE or chance.random() < 0.6:
        return given
    needs = tuple(map(Need, chance.sample(children, min(len(children), chance.choice((0, 1, 3))))))
    until_us = storm.clock.time_us() + SOON_US if chance.random() < 0.3 else None
    wait = Wait(signals=() if needs else (SIGNAL,), needs=bool(needs), until_us=until_us)
    return given | {"action": Action.SUSPEND, "wait": wait, "needs": needs}


def accepted(storm: Storm, outcome: Outcome) -> None:
    """Note the steps of an outcome that is done."""
    for step in outcome.steps:
        _keep(storm, outcome.id, step.name, step.value)


async def signal(storm: Storm, chance: random.Random, store: Store, id: str) -> None:
    """Give a value to an instance."""
    value = chance.choice((b"1", b"2"))
    answer = await storm.ask(chance, lambda: store.signal(id, SIGNAL, value))
    if answer in (SignalAnswer.ACCEPTED, SignalAnswer.SAME):
        _keep(storm, id, SIGNAL_MARK + SIGNAL, value)


def _keep(storm: Storm, id: str, name: str, value: bytes) -> None:
    first = storm.durable.written.setdefault(id, {}).setdefault(name, value)
    if first != value:
        storm.surprises.append(f"{name!r} of {id} was accepted as {first!r}, and as {value!r}")


async def go_on(storm: Storm, chance: random.Random) -> None:
    """Follow up all ends, and give a value to all that wait for one."""
    store = storm.quiet
    while await store.settle():
        pass
    query = Query(state="Scheduled", limit=MAX_LIMIT)
    while True:
        page = await store.lookup(query)
        for record in page.records:
            if record.wait is not None and record.wait.signals:
                await signal(storm, chance, store, record.id)
        if page.cursor is None:
            return
        query = query.at(page.cursor)
