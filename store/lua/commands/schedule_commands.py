"""Commands of schedules: definitions, fires and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from peerjob.model.errors import DecodeError
from peerjob.model.firing import (
    MAX_SCHEDULES,
    Fire,
    FireAnswer,
    FirePage,
    FireRecord,
    FireStatus,
    SchedulePage,
    SchedulePut,
    ScheduleRow,
    Term,
)
from peerjob.model.spec import reader
from peerjob.store.lua.client.driver import MAX_REPLY_BYTES, check_cursor
from peerjob.store.lua.scripts.script import Argument, Reply
from peerjob.store.rules import MAX_REMOVALS, check_count, check_fires

from .arrivals import check_id, template_arguments, with_limit_key
from .gate_commands import LuaGateCommands

MAX_FIRES = 1_000
"""The maximum number of fires in one page of a ledger."""
_FIRE_CURSOR = r"-?\d{1,16}:\d{1,5}"
_LOADING = 1 << 53
"""A revision below 0 belongs to an unfinished first load. The value is -(first revision of the load * _LOADING +
progress of the load)."""

_STATUSES = {
    b"D": FireStatus.DONE,
    b"S": FireStatus.STALE,
    b"K": FireStatus.KNOWN,
    b"T": FireStatus.TRIMMED,
    b"X": FireStatus.DEPOSED,
}
_encode = msgspec.msgpack.Encoder().encode
_decode = reader(FireRecord, "fire")


class LuaScheduleCommands(LuaGateCommands):
    """Commands that write, read and fire schedules."""

    async def put_schedule(self, put: SchedulePut) -> ScheduleRow | None:
        arguments = (
            put.name,
            put.kind,
            put.definition,
            _time(put.next_us),
            int(put.paused),
            put.note,
            put.expected,
            _time(put.expected_next_us),
            self._limits.max_fires,
            self._limits.fires_kept_us,
            b"" if put.account is None else _encode(put.account),
            put.trimmed_us,
        )
        (reply,) = await self._run_durably(("put_schedule", arguments))
        return _row(reply)

    async def remove_schedule(self, name: str, *, expected: int | None = None, request: str) -> bool:
        arguments = (name, "" if expected is None else expected, MAX_REMOVALS, request)
        (reply,) = await self._run_durably(("remove_schedule", arguments))
        return bool(reply)

    async def get_schedules(self, names: Sequence[str]) -> list[ScheduleRow | None]:
        check_count(names, "schedules")
        rows: list[ScheduleRow | None] = []
        while len(rows) < len(names):
            rows += map(self._readable_row, await self._run("get_schedules", MAX_REPLY_BYTES, *names[len(rows) :]))
        return rows

    async def changed_schedules(self, revision: int, *, limit: int = MAX_SCHEDULES) -> SchedulePage:
        since, loaded = divmod(-revision, _LOADING) if revision < 0 else (revision, "")
        reset, began, upto, more, *rows = await self._run(
            "changed_schedules", since, loaded, min(limit, MAX_SCHEDULES), MAX_REPLY_BYTES
        )
        return SchedulePage(
            rows=tuple(filter(None, map(self._readable_row, rows))),
            revision=-(int(began) * _LOADING + int(upto)) if began else int(upto),
            more=bool(more),
            reset=bool(reset),
        )

    async def fire(self, fires: Sequence[Fire], *, term: Term | None, node: str = "") -> list[FireAnswer]:
        check_fires(fires)
        if not fires:
            return []
        arguments: list[Argument] = [
            node,
            "" if term is None else term.coordinator,
            0 if term is None else term.number,
            self._limits.max_fires,
            self._limits.fires_kept_us,
            self._limits.retention_us,
            len(fires),
        ]
        for fire in fires:
            arguments += _fire_arguments(fire, term, node)
        # A call without a new instance runs the script `account`, which the server accepts even if its memory is full.
        has_instances = any(fire.instance is not None for fire in fires)
        script = "fire" if has_instances else "account"
        keyed = [new.kind for fire in fires if (new := fire.instance) is not None and new.limit_key]
        replies = await self._run_with_gates(script, arguments, keyed)
        return [
            FireAnswer(
                status=_STATUSES[status],
                record=next(self._readable_records(fire.schedule, [record]), None) if record else None,
            )
            for fire, (status, record) in zip(fires, replies, strict=True)
        ]

    async def fires(
        self,
        name: str,
        *,
        after_us: int | None = None,
        before_us: int | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FirePage:
        first = "-inf" if after_us is None else str(after_us)
        last = "+inf" if before_us is None else f"({before_us}"
        told = "0"
        if cursor is not None:
            last, _, told = check_cursor(cursor, _FIRE_CURSOR).partition(":")
        at, told, more, *records = await self._run("fires", name, first, last, told, min(limit, MAX_FIRES))
        return FirePage(tuple(self._readable_records(name, records)), f"{at.decode()}:{told}" if more else None)

    def _readable_row(self, reply: Reply) -> ScheduleRow | None:
        """Return the schedule in the reply of a script; None, with one report, if it cannot be read."""
        what = f"schedule {reply[0].decode(errors='backslashreplace')!r}" if reply else ""
        try:
            row = _row(reply)
        except Exception as error:  # noqa: BLE001  # damaged bytes cause errors of any type; one hides no other
            self._reports.left_out(what, error)
            return None
        self._reports.readable(what)
        return row

    def _readable_records(self, name: str, records: Iterable[bytes]) -> Iterator[FireRecord]:
        for raw in records:
            try:
                yield _decode(raw)
            except DecodeError as error:
                self._reports.left_out(f"a record of the ledger of schedule {name!r}", error, raw)


def _time(time_us: int | None) -> Argument:
    return "" if time_us is None else time_us


def _fire_arguments(fire: Fire, term: Term | None, node: str) -> list[Argument]:
    record = _encode(fire.record(node=node, term=term))
    arguments: list[Argument] = [fire.schedule, fire.revision, fire.nominal_us, _time(fire.next_us), record]
    new = fire.instance
    if new is None:
        return [*arguments, ""]
    check_id(new.id)
    queue_limit = with_limit_key(fire.queue_limit, new)
    return [*arguments, fire.overlap.value, queue_limit, new.id, new.spec, *template_arguments(new)]


def _row(reply: Reply) -> ScheduleRow | None:
    """Return the schedule in the reply of a script. A reply of two fields stands for a removed schedule."""
    if reply is None:
        return None
    if len(reply) == 1:
        raise DecodeError("a field is missing or has no valid value")
    if len(reply) == 2:
        name, revision = reply
        return ScheduleRow(
            name=name.decode(), kind="", definition=b"", revision=int(revision), next_us=None, removed=True
        )
    name, kind, definition, revision, next_time, paused, note, created, updated, last, trimmed, slot = reply
    holder, *parked = map(bytes.decode, slot) if slot else [""]
    return ScheduleRow(
        name=name.decode(),
        kind=kind.decode(),
        definition=definition,
        revision=int(revision),
        next_us=int(next_time) if next_time else None,
        paused=paused == b"1",
        note=note.decode(),
        created_us=int(created),
        updated_us=int(updated),
        last_us=int(last),
        trimmed_us=int(trimmed),
        holder=holder,
        parked=tuple(parked),
    )
