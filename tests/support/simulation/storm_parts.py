"""The callers and leaders of a random program against the store contract."""

from __future__ import annotations

import asyncio
import functools
import random

from peerjob.model.definition import Definition, encode_definition
from peerjob.model.firing import Fire, FireOutcome, FireStatus, Overlap, SchedulePut, ScheduleRow, Term
from peerjob.model.spec import Spec, decode_spec, encode, encode_arguments
from peerjob.model.state import State

from .storm import Storm
from .storm_durable import signal

SECOND = 1_000_000
SCHEDULES = ("s", "s/ü")


class Caller:
    """Schedules, cancels and reads."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._chance = storm.chance_of("caller")

    async def work(self, rounds: int) -> None:
        """Do so many things."""
        for _ in range(rounds):
            if self._chance.random() < 0.7 or not self._storm.orders:
                await self._enqueue()
            elif self._storm.is_durable and self._chance.random() < 0.5:
                await signal(self._storm, self._chance, self._storm.store, self._chance.choice([*self._storm.orders]))
            elif self._chance.random() < 0.7:
                await self._cancel()
            else:
                await self._run_now()
            if self._chance.random() < 0.5:
                await asyncio.sleep(self._chance.random() / 500)

    async def _enqueue(self) -> None:
        storm = self._storm
        news = [storm.instance(self._chance) for _ in range(self._chance.choice((1, 1, 3, 8)))]
        answers = await storm.ask(self._chance, lambda: storm.store.enqueue(news, node="caller"))
        for new, answer in zip(news, answers, strict=True):
            if answer.is_new:
                if answer.id != new.id:
                    storm.surprises.append(f"{answer.id} is called new, and {new.id} was given")
                storm.order(new)
            elif new.key is None:
                storm.surprises.append(f"{new.id} has no key, and is called known")

    async def _cancel(self) -> None:
        storm, request = self._storm, self._storm.make.request()
        ids = self._chance.sample(sorted(storm.orders), min(len(storm.orders), self._chance.choice((1, 1, 3))))
        states = await storm.ask(self._chance, lambda: storm.store.cancel(ids, node="caller", request=request))
        for id, state in zip(ids, states, strict=True):
            if state is None:
                storm.surprises.append(f"{id} is unknown to a cancel")
            elif not state.is_final and storm.orders[id].cancelled_us is None:
                storm.orders[id].cancelled_us = storm.clock.time_us()
                storm.ended.setdefault(id, (State.CANCELLED, 0))

    async def _run_now(self) -> None:
        storm, request = self._storm, self._storm.make.request()
        ids = self._chance.sample(sorted(storm.orders), min(len(storm.orders), self._chance.choice((1, 1, 3))))
        answers = await storm.ask(self._chance, lambda: storm.store.run_now(ids, request=request))
        storm.surprises.extend(
            f"{id} is unknown to run_now" for id, answer in zip(ids, answers, strict=True) if not answer
        )


class FiringLeader:
    """One of two leaders that both believe that they lead, and fire the same nominal times."""

    def __init__(self, storm: Storm, number: int) -> None:
        self._storm = storm
        self._chance: random.Random = storm.chance_of(f"leader {number}")
        self._term = Term("c", 7)
        self._name = f"leader-{number}"

    async def make(self) -> None:
        """Put the schedules, as one of the leaders."""
        storm = self._storm
        for name in SCHEDULES:
            overlap = self._chance.choice(tuple(Overlap))
            definition = Definition(
                kind="a",
                spec=encode(Spec(args=encode_arguments((name,), {}))),
                every_us=SECOND,
                overlap=overlap,
                queue_limit=self._chance.choice((1, 3)),
            )
            put = SchedulePut(name=name, kind="a", definition=encode_definition(definition), next_us=SECOND)
            await storm.ask(self._chance, functools.partial(storm.store.put_schedule, put))

    async def work(self, rounds: int) -> None:
        """Fire so many times."""
        storm = self._storm
        for _ in range(rounds):
            name = self._chance.choice(SCHEDULES)
            (row,) = await storm.ask(self._chance, functools.partial(storm.store.get_schedules, [name]))
            if row is not None and row.next_us is not None:
                fire = self._fire(row, row.next_us)
                (answer,) = await storm.ask(
                    self._chance,
                    functools.partial(storm.store.fire, [fire], term=self._term, node=self._name),
                )
                if answer.status not in (FireStatus.DONE, FireStatus.STALE):
                    storm.surprises.append(f"a fire of {name} was answered {answer.status}")
                elif answer.status is FireStatus.DONE and answer.record is not None and answer.record.instance:
                    assert fire.instance is not None
                    storm.order(fire.instance)
            await asyncio.sleep(self._chance.random() / 200)

    def _fire(self, row: ScheduleRow, nominal_us: int) -> Fire:
        storm = self._storm
        missed = self._chance.random() < 0.2
        instance = None
        if not missed:
            spec = Spec(args=encode_arguments((row.name,), {}), schedule=row.name, nominal_us=nominal_us)
            instance = storm.make.instance(kind="a", spec=encode(spec))
            assert decode_spec(instance.spec).schedule == row.name
        definition = storm.definition(row)
        return Fire(
            schedule=row.name,
            revision=row.revision,
            nominal_us=nominal_us,
            outcome=FireOutcome.MISSED if missed else FireOutcome.FIRED,
            request=storm.make.request() if instance is None else instance.id,
            next_us=nominal_us + SECOND,
            instance=instance,
            overlap=definition.overlap,
            queue_limit=definition.queue_limit,
        )
