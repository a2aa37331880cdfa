"""Commands of nodes: join, leave, reap, the list of nodes, published kinds, and the watch of changes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.audit import MAX_AUDIT, AuditRecord
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.instruction import encode_instruction
from peerjob.model.published import DIGEST_BYTES, MAX_DESCRIPTORS, KindDescriptor
from peerjob.model.record import MAX_BATCH, Instruction, NodeInfo, NodeView, Reaped, StoreLimits, check_batch
from peerjob.model.spec import reader
from peerjob.model.state import State
from peerjob.store.activity import encode_sample, limited, merged, position_of, samples_in
from peerjob.store.audit import audit_records
from peerjob.store.lua.client.driver import MAX_REPLY_BYTES, Driver, LuaCommands, log_set_aside

MAX_HANDED_BACK = 250
_ACTIVITY_ROUNDS = 8
_decode = reader(NodeInfo, "node")
_SLOT_HEAD = struct.Struct(">II")
"""The head of a stored slot of activity: the number of the slot, and how often it was written."""
_DESCRIPTOR = struct.Struct(f">d{DIGEST_BYTES}sII")
"""The head of a stored descriptor: the time of its publication, its digest, and the sizes of body and schema."""
_NO_HEAD = (0.0, b"", 0, 0)


class LuaNodeCommands(LuaCommands):
    """Commands of incarnations about themselves and each other."""

    def __init__(self, driver: Driver, *, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, clock=clock, limits=limits, retry_for=retry_for)
        self._shown: dict[bytes, tuple[bytes, NodeInfo]] = {}
        """Per incarnation, the latest NodeInfo that was read, and the time at which the node wrote the NodeInfo."""

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        info = msgspec.msgpack.encode(node)
        reply = await self._run("join", node.incarnation, node.name, info, ttl_us, node.reads_layout)
        while previous is not None and await self._run("forgive", previous) > 0:
            pass
        return int(reply)

    async def leave(self, incarnation: str) -> int:
        returned: int = 0
        while True:
            count, is_all, set_aside = await self._run(
                "leave",
                incarnation,
                MAX_HANDED_BACK,
                self._limits.retention_us,
                self._limits.max_final_per_kind,
            )
            log_set_aside(set_aside)
            returned += int(count)
            if is_all:
                return returned

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        limits = self._limits
        arguments = (min(limit, MAX_BATCH), reaper, limits.retention_us, limits.max_final_per_kind)
        # Not retried: when the server is back, the reaper can have lost its own lease, and must not reap without a
        # lease.
        (reply,) = await self._driver.run(("reap", arguments))
        log_set_aside(reply[0])
        fields = iter(reply[1:])
        return [
            Reaped(id=name.decode(), kind=kind.decode(), state=State(state), node=node.decode())
            for name, kind, state, node in zip(*[fields] * 4, strict=True)
        ]

    async def nodes(self) -> list[NodeView]:
        fields = iter(await self._run("nodes"))
        alive = list(zip(*[fields] * 5, strict=True))
        await self._refresh_shown([(name, shown) for name, shown, *_ in alive])
        self._reports.keep("node ", {_node(name) for name, *_ in alive})
        views: list[NodeView] = []
        for name, _, *numbers in alive:
            try:
                running, renewed, expires = map(_number, numbers)
            except ValueError as error:
                self._reports.left_out(_node(name), error)
                continue
            if name in self._shown:
                info = self._shown[name][1]
                self._reports.readable(_node(name))
                views.append(NodeView(info=info, running=running, renewed_us=renewed, expires_us=expires))
        return sorted(views, key=lambda view: (view.info.name, view.info.incarnation))

    async def _refresh_shown(self, alive: Sequence[tuple[bytes, bytes]]) -> None:
        """Update `_shown`, so that it has the current NodeInfo of the live incarnations and of no others."""
        known = self._shown
        self._shown = {name: known[name] for name, shown in alive if name in known and known[name][0] == shown}
        new = [name for name, _ in alive if name not in self._shown]
        while new:
            results = await self._run("shown", MAX_REPLY_BYTES, *new[:MAX_BATCH])
            for name, info, shown in zip(new, results[::2], results[1::2], strict=False):
                try:
                    # `info` is None if the incarnation left after the list of live incarnations was read.
                    if info is not None:
                        self._shown[name] = (shown, _decode(info))
                except ValueError as error:
                    self._reports.left_out(_node(name), error)
            del new[: len(results) // 2]

    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        return bool(await self._run("instruct", incarnation, encode_instruction(instruction)))

    async def publish_kinds(self, kinds: Sequence[str]) -> None:
        check_batch(len(kinds))
        await self._run("publish_kinds", self._limits.kinds_kept_us, *kinds)

    async def publish_descriptors(self, descriptors: Sequence[KindDescriptor]) -> list[bool]:
        check_batch(len(descriptors))
        fields = [
            field
            for descriptor in descriptors
            for field in (descriptor.kind, descriptor.digest, descriptor.body, descriptor.schema)
        ]
        reply = await self._run("publish_descriptors", self._limits.kinds_kept_us, MAX_DESCRIPTORS, *fields)
        return [bool(missing) for missing in reply]

    async def descriptors(self, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
        check_batch(len(kinds))
        reply = await self._run("descriptors", self._limits.kinds_kept_us, *kinds)
        return [tuple(self._descriptors_in(kind, data)) for kind, data in zip(kinds, reply, strict=True)]

    async def published_kinds(self, kinds: Sequence[str]) -> list[bool]:
        check_batch(len(kinds))
        return [bool(known) for known in await self._run("published_kinds", self._limits.kinds_kept_us, *kinds)]

    async def add_audit(self, records: Sequence[AuditRecord]) -> None:
        check_batch(len(records))
        if records:
            await self._run("add_audit", MAX_AUDIT, *map(msgspec.msgpack.encode, records))

    async def audit(self, limit: int = MAX_AUDIT) -> list[AuditRecord]:
        return audit_records(reversed(await self._run("audit", limit)))

    async def add_activity(self, sample: ActivitySample) -> None:
        sample = total = limited(sample)
        writes = 0
        for _ in range(_ACTIVITY_ROUNDS):
            before, after = (_SLOT_HEAD.pack(sample.slot, number) for number in (writes, writes + 1))
            arguments = (position_of(sample.slot), before, after + encode_sample(total))
            # Not retried: if the first try was applied, its counts would be added again.
            (stored,) = await self._driver.run(("add_activity", arguments))
            if not stored:
                return
            _, writes = _SLOT_HEAD.unpack_from(stored)
            total = merged(stored[_SLOT_HEAD.size :], sample)
        raise StoreUnavailableError(self._driver.url, "the activity changes again and again")

    async def activity(self, first: int, last: int) -> list[ActivitySample]:
        samples: list[ActivitySample] = []
        at = first
        while at <= last:
            reply = await self._run("activity", MAX_REPLY_BYTES, *map(position_of, range(at, last + 1)))
            samples += samples_in((data[_SLOT_HEAD.size :] for data in reply if data is not None), first, last)
            at += len(reply)
        return samples

    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        await self._run("watch_changes", incarnation, round(ttl * 1_000_000))

    def _descriptors_in(self, kind: str, data: bytes) -> Iterator[KindDescriptor]:
        what = f"a descriptor of kind {kind!r}"
        at = 0
        while at < len(data):
            head = at + _DESCRIPTOR.size
            _, digest, body_size, schema_size = _DESCRIPTOR.unpack_from(data, at) if head <= len(data) else _NO_HEAD
            middle, at = head + body_size, head + body_size + schema_size
            if at > len(data):
                # The next publication of the kind drops the rest.
                self._reports.left_out(what, f"{len(data)} bytes, {at} expected")
                return
            yield KindDescriptor(kind=kind, digest=digest, body=data[head:middle], schema=data[middle:at])
        self._reports.readable(what)


def _number(text: bytes) -> int:
    number = int(text)
    if not 0 <= number < 2**53:
        raise ValueError(f"{text[:20]!r} is no number from 0 to 2**53")
    return number


def _node(incarnation: bytes) -> str:
    return f"node {incarnation.decode(errors='backslashreplace')}"
