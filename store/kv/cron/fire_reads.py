"""Reads what fires depend on, in a few requests for a batch; the transactions of the fires compare what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Fire, FireAnswer, FireOutcome, FireRecord, Overlap, Term
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry, Put, Transaction, mod_of
from peerjob.store.kv.format.keys import LATEST_US, escaped, time_text, timed
from peerjob.store.kv.format.rows import Row, is_gone, number_of
from peerjob.store.kv.format.schedule_rows import NextFire, decode_fire, decode_next_fire
from peerjob.store.kv.queue.enqueue import arrival_of
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.gates import GatePlan
from peerjob.store.kv.write.transaction_plan import HeldSlot, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS

from .ledger import INSTANCE, TRIGGER, FireLedger, FirstRecords


class ScheduleFires(msgspec.Struct):
    """The transaction that the fires of one call make for one schedule."""

    name: str
    mod: int
    next_fire: NextFire
    plan: TransactionPlan
    answers: dict[int, FireAnswer] = {}
    changed: list[str] = []
    cancelled: set[str] = set()
    """Incarnations that run an instance which the transaction cancels; each of them gets a hint."""
    fresh_us: int = LATEST_US
    """The earliest nominal time of the ledger records that the transaction writes."""
    moved: bool = False
    """Whether the transaction changes the next time of the schedule without a new record in the ledger."""
    closed: bool = False
    """Whether the transaction takes no more fires, so that further fires of the schedule wait for a later one."""
    excess: tuple[str, ...] = ()
    """Parked instances that do not fit into the transaction of the replacing fire; they are cancelled before it."""
    excess_request: str = ""
    """The request id of the fire that replaces the instances in `excess`."""

    @property
    def held(self) -> HeldSlot:
        """The schedule's slot."""
        return self.plan.slots[self.name]


class FireReads(msgspec.Struct):
    """The stored state that some fires depend on."""

    now_us: int
    schedules: dict[str, ScheduleFires]
    """Name of a schedule → planned transaction of the schedule; without schedules that do not exist."""
    term_compare: Compare | None = None
    """A compare that holds while the term of the fires is the latest one; None without a term,
    or if a later term exists."""
    deposed: bool = False
    ledger: dict[str, FireRecord] = {}
    """Key of a ledger record → record, for the nominal times of the fires."""
    made: set[str] = set()
    """Ids of the fires' instances that already exist, even if the ledger no longer has a record of the fire."""
    uniques: dict[str, tuple[int, str]] = {}
    """Unique key that is taken → revision of the key and id of the instance; the id is "" if the instance is gone."""
    rows: dict[str, tuple[int, Row]] = {}
    """Id → revision and record of an instance that holds a slot or waits for a slot."""
    delayed: dict[str, int] = {}
    """Id → revision of the entry in a delayed queue, for each Scheduled instance that a fire replaces."""
    gates: GatePlan | None = None
    """The limit keys of the instances."""
    first_records: dict[int, FirstRecords] = {}
    used: set[str] = set()
    """Keys of instance records and unique keys that a planned transaction writes; no other transaction of
    the request can write them."""


def position_of(fire: Fire) -> str:
    """The position of a fire's record in the ledger. The position of a trigger contains the request, to be unique."""
    suffix = f"{TRIGGER}{escaped(fire.request)}" if fire.outcome is FireOutcome.TRIGGERED else INSTANCE
    return f"{time_text(fire.nominal_us)}{suffix}"


async def read_for_fires(
    context: KVContext, fires: Sequence[Fire], term: Term | None, term_compare: Compare | None
) -> FireReads:
    """Read what these fires depend on. `term_compare` is the last known one of this term."""
    kv, keys = context.kv, context.keys
    names = list(dict.fromkeys(fire.schedule for fire in fires))
    entries = await kv.get([*map(keys.next_fire, names), *map(keys.slot, names)])
    # the median of the nodes' clocks: the leader's wall clock may have been set since the leader found the fires due
    reads = FireReads(context.clock_skew.median_us(), {})
    for name, next_entry, slot_entry in zip(names, entries, entries[len(names) :], strict=False):
        next_fire = context.decoded(next_entry, keys.next_fire(name), decode_next_fire)
        if next_entry is not None and next_fire is not None:
            held = await context.slots.held(name, slot_entry)
            reads.schedules[name] = ScheduleFires(
                name, next_entry.mod, next_fire, TransactionPlan(context.keys, reads.now_us, {name: held})
            )
    if term is not None:
        reads.term_compare = term_compare or await _term_compare(context, term)
        reads.deposed = reads.term_compare is None
    known = [fire for fire in fires if fire.schedule in reads.schedules]
    await _read_entries(context, reads, known)
    await _read_rows(context, reads, known)
    await _read_gates(context, reads, known)
    counts = Counter(fire.schedule for fire in known)
    reads.first_records = await FireLedger(context).first_records(
        [(schedule.next_fire, counts[schedule.name]) for schedule in reads.schedules.values()], reads.now_us
    )
    return reads


async def _term_compare(context: KVContext, term: Term) -> Compare | None:
    """A compare that holds while a term is the latest one; None if there is a later term."""
    key = context.keys.term(term.coordinator)
    for _ in range(ROUNDS):
        (entry,) = await context.kv.get([key])
        latest = -1 if entry is None else number_of(entry.value)
        if entry is not None and latest == term.number:
            return Compare(key, mod=entry.mod)
        if latest > term.number:
            return None
        put = Put(key, str(term.number).encode())
        applied = await context.kv.txn([Transaction([Compare(key, mod=mod_of(entry))], [put])])
        if applied.answers[0] is not None:
            return Compare(key, mod=applied.revision)
    raise StoreUnavailableError(context.url, "too many writers at once")


async def _read_entries(context: KVContext, reads: FireReads, fires: Iterable[Fire]) -> None:
    """Read the ledger records of the fires' nominal times, and the instances that have the fires' unique keys."""
    keys = context.keys
    records: list[str] = []
    states: list[str] = []
    uniques: list[str] = []
    for fire in fires:
        if fire.instance is None:
            continue
        next_fire = reads.schedules[fire.schedule].next_fire
        if (
            fire.outcome is not FireOutcome.FIRED
            or fire.nominal_us != next_fire.next_us
            or fire.nominal_us <= next_fire.last_us
        ):
            records.append(keys.ledger(next_fire.epoch) + position_of(fire))
            states.append(keys.state + fire.instance.id)
        if fire.instance.key is not None:
            uniques.append(keys.unique(fire.instance.kind, fire.instance.key))
    if not records and not uniques:
        return
    entries = await context.kv.get([*records, *states, *uniques])
    for key, entry in _present(records, entries):
        record = context.decoded(entry, key, decode_fire)
        if record is not None:
            reads.ledger[key] = record
    reads.made = {key[len(keys.state) :] for key, _ in _present(states, entries[len(records) :])}
    taken = dict(_present(uniques, entries[2 * len(records) :]))
    owners = [entry.value.decode(errors="replace") for entry in taken.values()]
    present = dict(zip(owners, await context.kv.get([keys.state + id for id in owners]), strict=True)) if owners else {}
    for key, entry in taken.items():
        owner = entry.value.decode(errors="replace")
        reads.uniques[key] = (entry.mod, "" if is_gone(present[owner]) else owner)


async def _read_rows(context: KVContext, reads: FireReads, fires: Iterable[Fire]) -> None:
    """Read the records of the instances that hold the schedules' slots or wait for the slots."""
    ids: list[str] = []
    replaced: list[str] = []
    for fire in fires:
        slot = reads.schedules[fire.schedule].held.slot
        if fire.instance is None or fire.overlap is Overlap.ALLOW or not slot.holder:
            continue
        ids.append(slot.holder)
        if fire.overlap is Overlap.REPLACE:
            replaced += (slot.holder, *(parked.id for parked in slot.parked))
    if not ids:
        return
    reads.rows = await context.rows([*ids, *replaced])
    positions = {
        id: context.keys.delayed(id) + timed(reads.rows[id][1].due_us, id)
        for id in replaced
        if id in reads.rows and reads.rows[id][1].state is State.SCHEDULED
    }
    entries = await context.kv.get(list(positions.values())) if positions else []
    reads.delayed = {id: mod_of(entry) for id, entry in zip(positions, entries, strict=True)}


async def _read_gates(context: KVContext, reads: FireReads, fires: Sequence[Fire]) -> None:
    """Read the limit keys of new instances, of those that are replaced, and of those that may get a slot."""
    new = [fire.instance for fire in fires if fire.instance is not None]
    rows = [(id, row) for id, (_, row) in reads.rows.items()]
    slots = [schedule.held.slot for schedule in reads.schedules.values()]
    arrivals = [arrival for instance in new if (arrival := arrival_of(instance, reads.now_us)) is not None]
    gates = await context.gates.plan_of(rows, slots, [arrival.gate for arrival in arrivals])
    if gates is not None:
        gates.expect(arrivals)
        reads.gates = gates
        for schedule in reads.schedules.values():
            schedule.plan.gates = gates


def _present(keys: Sequence[str], entries: Sequence[Entry | None]) -> list[tuple[str, Entry]]:
    return [(key, entry) for key, entry in zip(keys, entries, strict=False) if entry is not None]
