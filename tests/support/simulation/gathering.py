# pyright: reportPrivateUsage=false
# this file alone reaches into a test cluster
"""Reads what a program left behind, once it is at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

from peerjob import Node, Query
from peerjob.model.definition import Definition, decode_definition
from peerjob.model.limit import limit_numbers
from peerjob.model.query import MAX_LIMIT
from peerjob.model.record import MAX_BATCH, LogLine, Record
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits
from peerjob.store.base import Store
from peerjob.store.kv.format.schedule_rows import decode_schedule
from peerjob.store.kv.store import KVStore
from peerjob.store.memory.data import MemoryData, MemoryWatch
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.testing import TestCluster
from peerjob.testing.cluster.cluster_nodes import NAMESPACE
from support.leaders import read_ledger
from support.leftovers import kinds_left, leftovers_of

from .bodies import Bodies
from .calls import Calls
from .durable import KINDS
from .durable_evidence import DurableEvidence
from .evidence import Evidence, Ledger
from .faults import Faults
from .program import Program
from .threads import Threads

T = TypeVar("T")
FORGOTTEN = "65m"
"""Virtual time after which answers for repeated requests have expired, and counters are compared with indexes."""
ROUNDS = 10
"""Calls in which counters are compared with indexes, and in which kinds are forgotten; each does some of the kinds."""


SEARCH_EVERY = "5m"
"""Virtual time after which a store looks for further kinds to forget."""


async def within(cluster: TestCluster, node: Node, work: Coroutine[Any, Any, T]) -> T:
    """Await work as a part of a node's process: it stands still and dies with it."""
    return await cluster._run_on(cluster._member(node), work)


def store_data(cluster: TestCluster) -> MemoryData:
    """The data of the store."""
    return cluster._data


def happened(cluster: TestCluster) -> Counter[tuple[str, str]]:
    """(verb of the store, fault) → calls that met the fault."""
    return Counter({(verb, how): times for (verb, how), times in cluster._faults.happened.items()})


async def heal(cluster: TestCluster, names: Sequence[str]) -> None:
    """End every fault but the absence of nodes that were killed or stopped."""
    await cluster.heal()
    for name in names:
        await cluster.skew(name, 0)
        if cluster._member(name).tasks.paused:
            await cluster.resume(name)


def watch_threads(cluster: TestCluster, evidence: DurableEvidence) -> Threads:
    """Watch what the store writes about durable bodies."""
    return Threads(cluster._data, NAMESPACE, evidence)


async def without_signal(cluster: TestCluster) -> list[tuple[str, str]]:
    """The instances that wait for a signal without a time, each with the name of one."""
    store = a_store(cluster)
    await store.open()
    waits = [(record.id, record.wait) async for record in records_of(store, state=State.SCHEDULED)]
    await store.close()
    return [(id, wait.signals[0]) for id, wait in waits if wait is not None and wait.signals and wait.until_us is None]


async def gather(
    cluster: TestCluster,
    bodies: Bodies,
    durable: DurableEvidence,
    calls: Calls,
    faults: Faults,
    definitions: Definitions,
    program: Program,
) -> Evidence:
    """All evidence of a cluster that is at rest. Stops its nodes, and removes every instance, to see what is left."""
    store, ttl = a_store(cluster), program.ttl
    await store.open()
    records: dict[str, Record] = {record.id: record async for record in records_of(store)}
    logs = {id: await _lines(store, id) for id in records}
    if program.durable:
        durable.steps = {id: await steps_of(store, id) for id in records}
    ledgers = [ledger async for ledger in _ledgers(store, definitions)]
    known = cluster._journal.rows()
    cleared = frozenset(id for id, row in known.items() if id not in records and row.final)
    evidence = Evidence(
        ttl_us=round(ttl * 1_000_000),
        ended_us=cluster.clock.time_us(),
        orders=bodies.orders,
        records=records,
        cleared=cleared if calls.removes else frozenset(),
        snapshots=calls.snapshots,
        folded=calls.folds,
        logs=logs,
        runs=bodies.runs,
        absences=faults.absences,
        ledgers=ledgers,
        skew_us=faults.skew_us,
        latency=program.latency,
        strict=cluster.nodes[0].capabilities.order == "strict",
        limit=limit_numbers(program.concurrency or None, program.rate or None, None),
        key_concurrency=program.key_concurrency,
        starts=_starts(cluster, faults),
        durable=durable,
    )
    await cluster.advance(2 * ttl + 3)  # the nodes that were killed last are taken for dead
    for node in cluster.nodes:
        await cluster.stop(node)
    for _ in range(ROUNDS):
        await store.expire(1000)
    short = [id for id, record in records.items() if record.retention_us is not None and record.parent]
    for at in range(0, len(short), MAX_BATCH):
        durable.unexpired += [one.id for one in await store.get(short[at : at + MAX_BATCH]) if one is not None]
    await store.clear()
    kinds = [f"k{number}" for number in range(program.kinds)] + [f"d{number}" for number in range(KINDS)]
    for at in range(0, len(kinds), MAX_BATCH):
        await store.publish_limits([KindLimits(kind=kind) for kind in kinds[at : at + MAX_BATCH]])
    await cluster.advance(FORGOTTEN)
    for _ in range(ROUNDS):
        await store.health()
    for _ in range(ROUNDS):
        await store.expire(1000)
        await cluster.advance(SEARCH_EVERY)
    evidence.leftovers = [*await leftovers_of(store), *await kinds_left(store)]
    await store.close()
    return evidence


def a_store(cluster: TestCluster) -> KVStore:
    """A store on a cluster's data that no fault reaches."""
    kv = MemoryKeyValue(cluster._data, cluster.clock)
    return KVStore(
        kv, url="memory://", namespace=NAMESPACE, clock=cluster.clock, limits=cluster._store_limits, local={}
    )


def _starts(cluster: TestCluster, faults: Faults) -> Counter[str]:
    """How many incarnations each node had, at most: one that was away may begin a new one."""
    restarted = (event.text.removeprefix("restart ") for event in cluster.trace if event.text.startswith("restart "))
    return Counter([*cluster._members, *restarted, *(absence.node for absence in faults.absences)])


async def records_of(store: Store, state: State = State.ALL) -> AsyncIterator[Record]:
    query = Query(limit=MAX_LIMIT, state=state)
    while True:
        page = await store.lookup(query)
        for record in page.records:
            yield record
        if page.cursor is None:
            return
        query = query.at(page.cursor)


async def _lines(store: KVStore, id: str) -> Sequence[LogLine]:
    return (await store.logs(id, limit=10_000)).lines


async def steps_of(store: Store, id: str) -> dict[str, bytes]:
    """The steps and signals of an instance."""
    found: dict[str, bytes] = {}
    cursor: str | None = None
    while True:
        page = await store.steps(id, cursor=cursor)
        found |= {step.name: step.value for step in page.steps}
        cursor = page.cursor
        if cursor is None:
            return found


async def _ledgers(store: KVStore, definitions: Definitions) -> AsyncIterator[Ledger]:
    page = await store.changed_schedules(0)
    for row in page.rows:
        if not row.removed:
            records = tuple(await read_ledger(store, row.name))
            yield Ledger(row=row, records=records, definitions=definitions.of(row.name))


class Definitions(MemoryWatch):
    """Every definition that each schedule has had since it was made."""

    def __init__(self, cluster: TestCluster) -> None:
        self._prefix = f"{NAMESPACE}/schedule/"
        self._found: dict[str, tuple[int, list[Definition]]] = {}
        super().__init__(cluster._data, (self._prefix,))

    def tell(self, key: str, value: bytes) -> None:
        """Record a key that was put; the store reports keys that any watch needs."""
        if not key.startswith(self._prefix):
            return
        schedule, name = decode_schedule(value), unquote(key[len(self._prefix) :])
        epoch, known = self._found.get(name, (0, []))
        if epoch != schedule.epoch:
            known = []
        definition = decode_definition(schedule.definition)
        if definition not in known:
            known = [*known, definition]
        self._found[name] = schedule.epoch, known

    def of(self, name: str) -> tuple[Definition, ...]:
        """Those of a schedule since it was made anew last."""
        return tuple(self._found[name][1])
