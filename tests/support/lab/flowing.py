"""Flows of the lab: random graphs of members, and what their bodies wrote down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from peerjob import Flow, Node, PeerjobError, Query, State, StoreError
from peerjob.model.codec import encode_value
from peerjob.model.durable import FLOW_KIND, When
from peerjob.model.graph import member_id
from support.simulation.durable_evidence import Awaited, DurableEvidence, Kept, Member
from support.simulation.evidence import Order
from support.stalls import now_us

from .jobs import failing, member, stepped

MEMBERS = 200
FLOWS = 50
"""Flows of a set-up that runs for so long that it has the time for them."""
AT_ONCE = 3
"""Most flows that are under way."""
REACH = 30
"""A member needs some of so many members before it."""
CANCELLED = 10
"""One of so many flows is cancelled."""
SECONDS = (0.0, 0.0, 0.01, 0.05, 0.3)
BUSY = 0.8
"""The share of the time of a set-up in which flows begin."""


def random_flow(name: str, chance: Random, size: int = MEMBERS) -> tuple[Flow, list[tuple[list[int], When]]]:
    """A flow of random members; and what each member needs."""
    flow, needs = Flow(name), list[tuple[list[int], When]]()
    for number in range(size):
        job = chance.choices((member, stepped, failing), (60, 40, 0.5))[0]
        places = range(max(0, number - REACH), number)
        needed = chance.sample(places, min(len(places), chance.choice((0, 1, 1, 2, 3))))
        when: When = chance.choice(("completed", "completed", "ended"))
        members = flow.members
        after = [members[place] for place in needed]
        flow.add(job.call(chance.choice(SECONDS)), after=after, when=when, optional=job is failing)
        needs.append((needed, when))
    return flow, needs


@dataclass
class Flowing:
    """The caller that schedules flows."""

    chance: Random
    evidence: DurableEvidence = field(default_factory=DurableEvidence)
    orders: dict[str, Order] = field(default_factory=dict[str, Order])

    async def keep_going(self, client: Node, seconds: float, enough: asyncio.Event) -> None:
        """Schedule flows over this time, or until it is enough."""
        began = time.monotonic()
        for number in range(FLOWS):
            while time.monotonic() < began + number * seconds * BUSY / FLOWS or await self._is_busy(client):
                if enough.is_set():
                    return
                await asyncio.sleep(0.2)
            with contextlib.suppress(StoreError):
                await self.schedule(client, number)

    async def _is_busy(self, client: Node) -> bool:
        try:
            return await client.count(Query(kind=FLOW_KIND, state=State.ACTIVE)) >= AT_ONCE
        except StoreError:
            return True

    async def schedule(self, client: Node, number: int, size: int = MEMBERS) -> None:
        """Schedule a flow of random members, and keep what is expected of it."""
        flow, needs = random_flow(f"flow {number}", self.chance, size)
        made = await client.schedule_flow(flow)
        order = self.orders[made.id] = Order(id=made.id, kind=FLOW_KIND, told_us=now_us(), max_retries=None)
        ids = [member_id(made.id, place) for place in range(len(flow))]
        self.evidence.flows[made.id] = tuple(
            Member(id=id, needs=tuple((ids[place], when) for place in needed), optional=one.optional)
            for id, one, (needed, when) in zip(ids, flow, needs, strict=True)
        )
        if number % CANCELLED == CANCELLED - 1:
            await asyncio.sleep(self.chance.random() * 3)
            with contextlib.suppress(PeerjobError):
                if await client.cancel_instance(made.id):
                    order.cancelled_us = now_us()


@dataclass
class Steps:
    """What the bodies wrote down about steps and children."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Instance and step → how often its function was called."""

    @property
    def again(self) -> int:
        """How many steps ran more than once."""
        return sum(times > 1 for times in self.calls.values())


def read_steps(path: Path, evidence: DurableEvidence) -> Steps:
    """Add what the journal has about steps and children to the evidence."""
    steps = Steps()
    for line in path.read_text().splitlines() if path.exists() else ():
        told: dict[str, Any] = json.loads(line)
        id = told["id"]
        if "called" in told:
            steps.calls[id, told["step"]] += 1
        elif "kept" in told:
            evidence.kept.append(Kept(id=id, name=told["step"], value=told["kept"]))
        elif "made" in told:
            evidence.children.setdefault((id, told["child"]), set()).add(told["made"])
        elif "awaited" in told:
            evidence.awaited.append(
                Awaited(
                    parent=id,
                    fence=told["fence"],
                    at_us=told["at_us"],
                    ids=(told["awaited"],),
                    results=(told["result"],),
                )
            )
    return steps


def accepted_twice(evidence: DurableEvidence) -> int:
    """How many steps returned different values, or one that the store does not have."""
    values: dict[tuple[str, str], set[bytes]] = {}
    for kept in evidence.kept:
        stored = evidence.steps.get(kept.id, {}).get(kept.name)
        values.setdefault((kept.id, kept.name), set() if stored is None else {stored}).add(encode_value(kept.value))
    return sum(len(found) > 1 for found in values.values())
