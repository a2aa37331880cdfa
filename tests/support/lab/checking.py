"""Judges a run by the invariants of the random programs, and measures how long recoveries took."""

from __future__ import annotations

import json
import statistics
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peerjob.model.definition import decode_definition
from peerjob.store.base import Store
from support.leaders import read_ledger
from support.simulation.durable_evidence import DurableEvidence
from support.simulation.durable_rules import children, flows, steps
from support.simulation.evidence import Absence, Evidence, Ledger, Order, Run, Violation
from support.simulation.firing import one_fire
from support.simulation.gathering import records_of, steps_of
from support.simulation.histories import legal_history, retries
from support.simulation.owners import no_loss, one_owner
from support.stalls import Span

INVARIANTS = (no_loss, one_owner, legal_history, one_fire, retries, steps, children, flows)
SKEW_US = 1_000_000
"""How far a node may be mistaken about the time of the store while answers are slow."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One fault, from its begin to its end."""

    kind: str
    begin_us: int
    end_us: int
    node: str | None = None
    """The node that it hit, as the journal calls it; None for faults of servers and connections."""


def read_journal(path: Path) -> list[Run]:
    """The runs that the bodies wrote down."""
    runs: dict[tuple[str, int, str], Run] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        told: dict[str, Any] = json.loads(line)
        where = (told["id"], told["fence"], told["node"])
        if "step" in told or "child" in told or "awaited" in told:
            continue  # see `flowing`
        if "kind" in told:
            runs[where] = Run(
                id=told["id"],
                kind=told["kind"],
                node=told["node"],
                fence=told["fence"],
                attempt=told["attempt"],
                begin_us=told["at_us"],
                result=told["fence"],
            )
        else:
            run = runs[where]
            run.end_us, run.ending, run.asked = told["at_us"], told["ending"], told["asked"]
    return list(runs.values())


async def gather(
    store: Store,
    runs: Sequence[Run],
    orders: Mapping[str, Order],
    absences: Sequence[Absence],
    durable: DurableEvidence,
    *,
    ttl: float,
) -> Evidence:
    """The evidence of a set-up at rest."""
    ledgers = [ledger async for ledger in _ledgers(store)]
    records = {record.id: record async for record in records_of(store)}
    durable.steps = {id: await steps_of(store, id) for id, record in records.items() if record.has_steps}
    durable.written = durable.steps
    return Evidence(
        ttl_us=round(ttl * 1_000_000),
        orders=orders,
        records=records,
        runs=runs,
        absences=absences,
        ledgers=ledgers,
        skew_us=SKEW_US,
        durable=durable,
    )


def violations(evidence: Evidence) -> list[Violation]:
    return [violation for invariant in INVARIANTS for violation in invariant(evidence)]


def recoveries(
    strikes: Iterable[Strike], runs: Sequence[Run], shifts: Sequence[Span] = (), *, ttl: float = 0.0
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each recovery, by kind of fault; apart, those that include one of the shifts.

    Of a node: from the fault until each instance that ran there has begun elsewhere. Of a server or a connection: from
    the end of the fault until the next body begins. A shift is a failover of a server, or another leader of etcd: the
    leases of that moment last one TTL longer. So a recovery that begins within a TTL after a shift includes it.
    """
    ordered = sorted(runs, key=lambda run: run.begin_us)
    by_id: dict[str, list[Run]] = {}
    for run in ordered:
        by_id.setdefault(run.id, []).append(run)
    found: dict[str, list[float]] = {}
    shifted: dict[str, list[float]] = {}
    for strike in strikes:
        if strike.node is None:
            begun_us = [next((run.begin_us for run in ordered if run.begin_us >= strike.end_us), None)]
            since_us = strike.end_us
        else:
            since_us = strike.begin_us
            begun_us = [
                next((later.begin_us for later in by_id[run.id] if later.fence > run.fence), None)
                for run in ordered
                if run.node == strike.node and run.begin_us <= since_us and (run.end_us or since_us) >= since_us
            ]
        moments = [moment for moment in begun_us if moment is not None]
        if moments:
            over_us = max(moments)
            first_us = since_us - round(ttl * 1_000_000)
            moved = any(begin_us <= over_us and end_us >= first_us for begin_us, end_us in shifts)
            (shifted if moved else found).setdefault(strike.kind, []).append((over_us - since_us) / 1_000_000)
    return found, shifted


def summed_up(seconds: Sequence[float]) -> dict[str, float]:
    """How many, the median and the maximum."""
    if not seconds:
        return {}
    return {"count": len(seconds), "p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}


async def _ledgers(store: Store) -> AsyncIterator[Ledger]:
    for row in (await store.changed_schedules(0)).rows:
        if not row.removed:
            records = tuple(await read_ledger(store, row.name))
            yield Ledger(row=row, records=records, definitions=(decode_definition(row.definition),))
