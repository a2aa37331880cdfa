"""Schedules and their ledger, on the wire."""

from __future__ import annotations

from msgspec import structs

from peerjob.handles.schedule import Backfill, FireEntry, ScheduleView
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.errors import DecodeError
from peerjob.model.firing import FireOutcome, FireRecord, ScheduleRow
from peerjob.model.spec import redacted
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import optional_stamp, span, stamp, stamp_us, value_text


def schedule_message(view: ScheduleView) -> pb.Schedule:
    """The message of a schedule, even if this release cannot read its definition."""
    row = view.row
    message = pb.Schedule(
        name=row.name,
        kind=row.kind,
        revision=row.revision,
        paused=row.paused,
        note=row.note,
        next_at=None if row.next_us is None else stamp(row.next_us),
        last_at=optional_stamp(row.last_us),
        created_at=optional_stamp(row.created_us),
        updated_at=optional_stamp(row.updated_us),
        trimmed_at=optional_stamp(row.trimmed_us),
        running=row.holder,
        waiting=row.parked,
        definition=row.definition,
    )
    try:
        definition = view.definition
        message.options.CopyFrom(_options_of(view.name, definition))
        message.priority = definition.priority
        if (spec := redacted(definition.spec)) != definition.spec:
            message.definition = encode_definition(structs.replace(definition, spec=spec))
        message.arguments.extend(map(value_text, (*view.args, *view.kwargs.values())))
    except DecodeError as error:
        message.ClearField("options")
        message.unreadable = str(error)
    return message


def row_of(message: pb.Schedule) -> ScheduleRow:
    """The inverse of `schedule_message`, except for secrets."""
    return ScheduleRow(
        name=message.name,
        kind=message.kind,
        definition=message.definition,
        revision=message.revision,
        next_us=stamp_us(message.next_at) if message.HasField("next_at") else None,
        paused=message.paused,
        note=message.note,
        created_us=stamp_us(message.created_at),
        updated_us=stamp_us(message.updated_at),
        last_us=stamp_us(message.last_at),
        trimmed_us=stamp_us(message.trimmed_at),
        holder=message.running,
        parked=tuple(message.waiting),
    )


def fire_message(entry: FireEntry) -> pb.Fire:
    """The message of a ledger record, without its schedule."""
    record = entry.record
    return pb.Fire(
        nominal_at=stamp(record.nominal_us),
        outcome=str(record.outcome),
        recorded_at=optional_stamp(record.at_us),
        until=optional_stamp(record.until_us),
        count=record.count,
        instance=record.instance,
        parked=record.parked,
        replaced=record.cancelled,
        reason=record.reason,
        node=record.node,
        term=record.term,
        coordinator=record.coordinator,
        request=record.request,
        ongoing=entry.ongoing,
    )


def fire_of(schedule: str, message: pb.Fire) -> FireEntry:
    """The inverse of `fire_message`."""
    record = FireRecord(
        nominal_us=stamp_us(message.nominal_at),
        outcome=FireOutcome(message.outcome),
        at_us=stamp_us(message.recorded_at),
        until_us=stamp_us(message.until),
        count=message.count,
        instance=message.instance,
        parked=message.parked,
        cancelled=message.replaced,
        reason=message.reason,
        node=message.node,
        term=message.term,
        coordinator=message.coordinator,
        request=message.request,
    )
    return FireEntry(schedule, record, ongoing=message.ongoing)


def backfill_of(message: pb.BackfillResponse) -> Backfill:
    """The result of a backfill."""
    return Backfill(
        times=message.times,
        made=message.made,
        known=message.known,
        trimmed=message.trimmed,
        skipped=message.skipped,
    )


def _options_of(name: str, definition: Definition) -> pb.JobOptions:
    return pb.JobOptions(
        name=name,
        description=definition.description,
        version=definition.version,
        max_crashes=definition.max_crashes,
        key=definition.key,
        tags=pb.Labels(values=definition.tags),
        retention=None if definition.retention_us is None else span(definition.retention_us),
        cron=definition.cron,
        every=None if definition.every_us is None else span(definition.every_us),
        timezone=definition.timezone,
        jitter=span(definition.jitter_us),
        jitter_by_name=definition.hashed,
        overlap=str(definition.overlap),
        queue_limit=definition.queue_limit,
        misfire=definition.misfire,
        misfire_limit=definition.misfire_limit,
        start_deadline=None if definition.start_deadline_us is None else span(definition.start_deadline_us),
    )
