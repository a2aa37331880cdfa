"""Random programs against the store contract: peers that claim, commit and die, on a network that loses answers.

Several peers, a caller and two leaders work at the same time, each by a random generator of its own. Each call goes
through a layer that fails it, loses its answer, delays it or does it twice; the caller of a verb then sends it again,
word for word, as nodes do. The evidence is judged by the same invariants as that of a cluster.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from peerjob.model.clock import Clock
from peerjob.model.definition import Definition, decode_definition
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import ScheduleRow
from peerjob.model.record import NewInstance
from peerjob.model.spec import Spec, decode_spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.cluster.faults import FaultKind, Faults
from peerjob.testing.factories import Factory

from .durable_evidence import DurableEvidence
from .evidence import Absence, Order, Run

T = TypeVar("T")
HOWS: tuple[FaultKind, ...] = ("error", "lost answer", "late", "repeated")
KINDS = ("a", "b", "c/ü")
FAULTY = 0.15
"""The share of calls that meet a fault."""
SENT = 60
"""How often a call is sent at most."""


class Storm:
    """What all parts of one program share: the store, its faults, and the evidence."""

    def __init__(self, store: Store, clock: Clock, seed: int, *, short_ttl_us: int) -> None:
        self.faults = Faults()
        self.quiet = store
        """The store without faults."""
        self.store = self.faults.over(store)
        self.clock = clock
        self.make = Factory(clock)
        self.seed = seed
        self.short_ttl_us = short_ttl_us
        self.calm = False
        self.orders: dict[str, Order] = {}
        self.runs: list[Run] = []
        self.absences: list[Absence] = []
        self.ended: dict[str, tuple[State, int]] = {}
        """Instance → the final state that the store accepted, and under which fence."""
        self.is_durable = seed % 2 == 1
        """Whether instances are durable bodies."""
        self.durable = DurableEvidence()
        self.children: dict[str, list[str]] = {}
        """Instance → the children that it has for certain."""
        self.surprises: list[str] = []
        """Answers that the contract excludes."""
        self.serial = 0

    def chance_of(self, part: str) -> random.Random:
        """A generator for one part of the program."""
        return random.Random(f"{self.seed}/{part}")

    async def ask(self, chance: random.Random, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, perhaps with a fault, and send it again until it is answered."""
        for _ in range(SENT):
            if not self.calm and chance.random() < FAULTY:
                self.faults.add("*", chance.choice(HOWS), by=chance.choice((0.001, 0.01, 0.03)))
            try:
                return await call()
            except StoreUnavailableError:
                await asyncio.sleep(chance.random() / 1000)
        raise AssertionError(f"a call was not answered in {SENT} times")

    def instance(self, chance: random.Random, **fixed: Any) -> NewInstance:
        """A random instance."""
        self.serial += 1
        token = f"t{self.serial}"
        options: dict[str, Any] = {
            "kind": chance.choice(KINDS),
            "priority": chance.choice((-(2**31), 0, 0, 5, 5, 5, 2**31 - 1)),
            "tags": tuple(chance.sample(("red", "green", "ü/%"), chance.choice((0, 0, 1, 2)))),
            "max_crashes": chance.choice((0, 1, 3)),
            "spec": encode(Spec(args=encode_arguments((token,), {}))),
        }
        if chance.random() < 0.2:
            options["key"] = chance.choice(("k1", "k2", "kü"))
        if chance.random() < 0.2:
            options["delay_us"] = chance.randrange(1, 40_000)
        return self.make.instance(**(options | fixed))

    def definition(self, row: ScheduleRow) -> Definition:
        """What a schedule says."""
        return decode_definition(row.definition)

    def order(self, new: NewInstance) -> None:
        """Note an instance that the store said is new."""
        self.orders[new.id] = Order(
            id=new.id,
            kind=new.kind,
            token=decode_spec(new.spec).arguments()[0][0],
            tags=new.tags,
            priority=new.priority,
            max_retries=2,
            max_crashes=new.max_crashes,
            key=new.key,
        )
