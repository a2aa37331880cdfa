"""Hints to nodes, and the wakeup of idle nodes.

A hint is a key under the incarnation's own prefix. Equal hints are one key, and a hint that no node reads ends with its
lease. To wake an idle node, a store deletes the registration of the node, so only one store wakes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError
from peerjob.store.kv.format.base import Compare, Delete, Entry, KeyValue, Op, Put, Transaction, apply_all
from peerjob.store.kv.format.keys import Keys, below, time_text
from peerjob.store.kv.format.rows import decode_idle, group_of, number_of
from peerjob.store.kv.index.queues import Queues

from .gates import Gate
from .limited_wakes import LimitedWakes
from .own_hints import OwnHints
from .transaction_plan import TransactionPlan
from .writer import ROUNDS, Writer, Written

_GROUP = "\0"
"""Marks the name of a group in a set of kinds: no kind begins with this character."""
_GROUPS_KEPT_US = 5_000_000
_MAX_GROUPED = 50_000
_MAX_ENTRIES = 1_000


class _AllKinds(frozenset[str]):
    """The kinds of a node whose registration cannot be read: any instance wakes the node, which then registers anew."""

    def isdisjoint(self, other: Iterable[Any], /) -> bool:
        return False


class Wakeups(msgspec.Struct):
    """The events of one verb that other nodes must hear of."""

    ready: dict[str, int] = {}
    """Kind → number of instances that became claimable."""
    delayed: list[tuple[int, str]] = []
    """Due time and kind of each instance that was added to a delayed queue."""
    any_of: tuple[str, ...] = ()
    """Kinds of the due instances that a full claim left; one idle node is woken for all of these kinds."""
    came: dict[Gate, set[str]] = {}
    """Limit keys to settle, each with the ids of the instances that came to it."""
    freed: dict[str, int] = {}
    """Shared limit → number of permits that were given back."""
    full: list[str] = []
    """Shared limits that were full before permits of them were given back."""
    opened: tuple[str, ...] = ()
    """Kinds whose limits were changed, so that more of their instances may go."""
    changed: list[str] = []
    cancelled: set[str] = set()
    """Incarnations that run an instance which was cancelled."""
    except_for: str = ""
    """The incarnation that the events do not wake, because the incarnation itself claims or ends."""

    def add_queued(self, plan: TransactionPlan) -> None:
        """Add the instances that a plan adds to queues."""
        for kind in plan.ready:
            self.ready[kind] = self.ready.get(kind, 0) + 1
        for gate, id in plan.came:
            self.came.setdefault(gate, set()).add(id)
        for name in plan.freed:
            self.freed[name] = self.freed.get(name, 0) + 1
        self.delayed += plan.delayed


class _Chosen:
    """The idle nodes that are chosen to be woken, each for one reason."""

    def __init__(self, waiting: Sequence[tuple[str, Entry, frozenset[str]]], groups: Mapping[str, str]) -> None:
        self._waiting = waiting
        """The others, with their kinds."""
        self._groups = groups
        self.nodes: list[tuple[str, Entry]] = []
        self.reasons: list[Set[str]] = []
        """The kinds for which each of the nodes was chosen."""

    def choose(self, kinds: Set[str], most: int) -> int:
        """Choose up to so many nodes that can run one of some kinds; returns how many there are."""
        names = {*kinds, *(self._groups[kind] for kind in kinds & self._groups.keys())}
        able: list[tuple[str, Entry, frozenset[str]]] = []
        others: list[tuple[str, Entry, frozenset[str]]] = []
        for node in self._waiting:
            (others if len(able) >= most or node[2].isdisjoint(names) else able).append(node)
        self._waiting = others
        self.nodes += [(key, entry) for key, entry, _ in able]
        self.reasons += [kinds] * len(able)
        return len(able)


class Hints:
    """Sends hints."""

    def __init__(
        self,
        kv: KeyValue,
        keys: Keys,
        clock: Clock,
        writer: Writer,
        queues: Queues,
        limited: LimitedWakes,
        own: OwnHints,
    ) -> None:
        self._kv = kv
        self._queues = queues
        self._keys = keys
        self._clock = clock
        self._writer = writer
        self._limited = limited
        self._own = own
        self.open_gates: Callable[[Mapping[Gate, Set[str]]], Awaitable[None]] | None = None
        """Lets instances pass the gates of limit keys."""
        self.follow_ends: Callable[[Sequence[str], str], Awaitable[None]] | None = None
        """Follows up the ends of instances."""
        self._idle_kinds: dict[bytes, frozenset[str]] = {}
        self._group_of: dict[str, str] = {}
        """Kind → group of the kind. If a remembered group is old, the wrong node is woken, and
        the right node finds the instance later."""
        self._groups_until_us = 0

    async def send(self, wakeups: Wakeups, written: Written, *, later: Wakeups | None = None) -> None:
        """Send hints about the events to the nodes that wait for them, according to the registrations in `written`.

        `later` gets what is claimable and the shared limits that were full: the caller claims first, then wakes nodes
        for what is left.
        Then the ends of children and of parents are settled.
        """
        if wakeups.came and self.open_gates is not None:
            await self.open_gates(wakeups.came)
        if wakeups.freed and written.idle:
            (later or wakeups).full.extend(await self._limited.were_full(wakeups.freed))
        if later is not None and written.idle:
            for kind, count in wakeups.ready.items():
                later.ready[kind] = later.ready.get(kind, 0) + count
            wakeups.ready = {}
        claimable = wakeups.ready or wakeups.delayed or wakeups.any_of or wakeups.full or wakeups.opened
        wakes = bool(written.idle and claimable)
        listeners = self._listeners(written.listeners) if wakeups.changed and written.listeners else []
        watchers = await self._watchers(written)
        if wakes or listeners or watchers or wakeups.cancelled:
            await self._tell(wakeups, listeners, watchers, written.idle if wakes else ())
        if written.settles:
            await self.settle(written.settles)

    async def settle(self, settles: Sequence[str], caller: str = "") -> None:
        """Settle the ends that some keys below `settle/` name; if some are left, tell the caller, or any live node."""
        if settles and self.follow_ends is not None:
            await self.follow_ends(settles, caller)

    async def _tell(
        self,
        wakeups: Wakeups,
        listeners: Sequence[str],
        watchers: Sequence[tuple[str, str]],
        idle: Sequence[tuple[str, Entry]],
    ) -> None:
        lease = await self._writer.short_lease()
        hints = {(owner, "cancel/") for owner in wakeups.cancelled}
        hints.update((watcher, f"final/{id}") for id, watcher in watchers)
        hints.update((listener, f"change/{id}") for listener in listeners for id in wakeups.changed)
        told = [hint for hint in sorted(hints) if not self._own.tell(*hint)]
        ops: list[Op] = [Put(self._keys.hint(incarnation) + hint, b"", lease) for incarnation, hint in told]
        ops.extend(Delete(self._keys.watch(id) + watcher) for id, watcher in watchers)
        await self._writer.plain(ops)
        if idle:
            await self._wake(wakeups, idle, lease)

    async def wake(self, wakeups: Wakeups) -> None:
        """Wake idle nodes that are registered now."""
        (idle,) = await self._kv.read([below(self._keys.idle)])
        await self.send(wakeups, Written([], idle=idle.items))

    async def renew(self, incarnation: str) -> None:
        """Tell an incarnation to renew its lease now, because it has a new instruction."""
        await self._tell(Wakeups(cancelled={incarnation}), (), (), ())

    async def _watchers(self, written: Written) -> list[tuple[str, str]]:
        """Pairs of an instance that ended and an incarnation that waits for the end of the instance."""
        if not any(answer.count for answer in written.watched):
            return []
        watched = written.watched
        if any(answer.more for answer in watched):
            watched = await self._kv.read([below(self._keys.watch(id), keys_only=True) for id in written.ended])
        ended, cut = set(written.ended), len(self._keys.watched)
        pairs = [key[cut:].split("/") for answer in watched for key, _ in answer.items]
        return [(id, watcher) for id, watcher in pairs if id in ended]

    def _listeners(self, entries: Sequence[tuple[str, Entry]]) -> list[str]:
        now_us, cut = self._clock.time_us(), len(self._keys.changes)
        return [key[cut:] for key, entry in entries if number_of(entry.value) > now_us]

    async def _wake(self, wakeups: Wakeups, idle: Sequence[tuple[str, Entry]], lease: int) -> None:
        """Wake idle nodes: one for each due instance, one for a full claim, one for a new earliest due time."""
        groups: Mapping[str, str] = {}
        if any(_GROUP in self._kinds(entry) for _, entry in idle):
            kinds = {*wakeups.ready, *wakeups.any_of, *wakeups.opened, *(kind for _, kind in wakeups.delayed)}
            groups = await self._groups(kinds | await self._limited.kinds_of(wakeups.full))
        chosen = self._waiting(idle, wakeups.except_for, groups)
        await self._limited.wake(wakeups.ready, wakeups.any_of, wakeups.full, wakeups.opened, idle, chosen.choose)
        if wakeups.delayed:
            due_us, kind = min(wakeups.delayed)
            if await self._is_earliest(due_us):
                chosen.choose({kind}, 1)
        for _ in range(ROUNDS):
            missed = await self._deregister(chosen.nodes, lease)
            if not any(missed):
                return
            short = [reason for reason, miss in zip(chosen.reasons, missed, strict=True) if miss]
            (answer,) = await self._kv.read([below(self._keys.idle)])
            chosen = self._waiting(answer.items, wakeups.except_for, groups)
            for reason in short:
                chosen.choose(reason, 1)

    def _waiting(self, idle: Sequence[tuple[str, Entry]], except_for: str, groups: Mapping[str, str]) -> _Chosen:
        """The nodes to choose from, in the order in which they became idle."""
        waiting = [
            (key, entry, self._kinds(entry))
            for key, entry in sorted(idle, key=lambda item: item[1].mod)
            if key[len(self._keys.idle) :] != except_for
        ]
        return _Chosen(waiting, groups)

    async def _is_earliest(self, due_us: int) -> bool:
        (answer,) = await self._kv.read([self._queues.delayed_heads()])
        return await self._queues.earliest(self._queues.heads(answer)) >= time_text(due_us)

    async def _deregister(self, chosen: Sequence[tuple[str, Entry]], lease: int) -> list[bool]:
        """Wake the chosen idle nodes; the answer says for each node whether its registration was changed or gone."""
        incarnations = [key[len(self._keys.idle) :] for key, _ in chosen]
        own = {incarnation for incarnation in incarnations if incarnation in self._own.watches}
        transactions: list[Transaction] = []
        for (key, entry), incarnation in zip(chosen, incarnations, strict=True):
            hint = [] if incarnation in own else [Put(self._keys.hint(incarnation) + "work/", b"", lease)]
            transactions.append(Transaction([Compare(key, mod=entry.mod)], [Delete(key), *hint]))
        with self._own.relied_on([(incarnation, "work/") for incarnation in own]):
            missed = [answer is None for answer in await apply_all(self._kv, transactions)]
        for incarnation, miss in zip(incarnations, missed, strict=True):
            self._own.is_woken(incarnation)
            if not miss and incarnation in own:
                self._own.keep(incarnation, "work/")
        return missed

    def _kinds(self, entry: Entry) -> frozenset[str]:
        known = self._idle_kinds.get(entry.value)
        if known is None:
            if len(self._idle_kinds) > _MAX_ENTRIES:
                self._idle_kinds.clear()
            known = self._idle_kinds[entry.value] = _kinds_of(entry.value)
        return known

    async def _groups(self, kinds: Iterable[str]) -> dict[str, str]:
        """Kind → group of the kind with the prefix `_GROUP`, as `_kinds_of` gives it; without kinds of no group."""
        now_us = self._clock.time_us()
        if now_us >= self._groups_until_us or len(self._group_of) > _MAX_GROUPED:
            self._group_of.clear()
            self._groups_until_us = now_us + _GROUPS_KEPT_US
        # a copy, because another call can clear the known groups while this call waits for the server
        known = {kind: self._group_of[kind] for kind in kinds if kind in self._group_of}
        if missing := [kind for kind in kinds if kind not in known]:
            entries = await self._kv.get([self._keys.group_of(kind) for kind in missing])
            entry_of_kind = zip(missing, entries, strict=True)
            read = {kind: group_of(entry.value) for kind, entry in entry_of_kind if entry is not None}
            known |= read
            self._group_of |= read
        return {kind: _GROUP + group for kind, group in known.items()}


def _kinds_of(idle: bytes) -> frozenset[str]:
    """The kinds of an idle node, and its groups with the prefix `_GROUP`; all kinds if the entry is unreadable."""
    try:
        node = decode_idle(idle)
    except DecodeError:
        return _AllKinds()
    groups = {_GROUP, *(_GROUP + group for group in node.groups)} if node.groups else set[str]()
    return frozenset((*node.kinds, *groups))
