"""Builds the fire that goes to the store: for one nominal time, or for a stretch of times."""

from __future__ import annotations

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.definition import Definition
from peerjob.model.firing import Fire, FireOutcome
from peerjob.model.record import NewInstance
from peerjob.model.recurrence import jitter_us
from peerjob.model.spec import decode_spec, encode

from .misfire import MisfireStep


def new_instance(
    definition: Definition,
    *,
    schedule: str,
    id: str,
    created_us: int,
    nominal_us: int = 0,
    due_us: int | None = None,
) -> NewInstance:
    """The instance that a fire makes, due now without `due_us`; raises DecodeError."""
    spec = decode_spec(definition.spec)
    spec = msgspec.structs.replace(spec, created_us=created_us, schedule=schedule, nominal_us=nominal_us)
    return NewInstance(
        id=id,
        kind=definition.kind,
        spec=encode(spec),
        priority=definition.priority,
        due_us=due_us,
        key=definition.key,
        limit_key=definition.limit_key,
        key_concurrency=definition.key_concurrency,
        tags=definition.tags,
        retention_us=definition.retention_us,
        max_crashes=definition.max_crashes,
    )


def fire_of(step: MisfireStep, definition: Definition, *, schedule: str, revision: int, id: str, clock: Clock) -> Fire:
    """The fire that does what the misfire policy decided (`step`). `id` is new and unique; raises DecodeError."""
    instance = None
    if step.outcome is FireOutcome.FIRED:
        instance = new_instance(
            definition,
            schedule=schedule,
            id=id,
            created_us=clock.time_us(),
            nominal_us=step.nominal_us,
            due_us=step.nominal_us + jitter_us(definition, schedule, step.nominal_us),
        )
    return Fire(
        schedule=schedule,
        revision=revision,
        nominal_us=step.nominal_us,
        outcome=step.outcome,
        request=id,
        next_us=step.next_us,
        until_us=step.until_us if step.count > 1 else 0,
        count=step.count,
        instance=instance,
        overlap=definition.overlap,
        queue_limit=definition.queue_limit,
        reason=step.reason,
    )
