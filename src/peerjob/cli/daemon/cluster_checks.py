"""Checks of a store and of the nodes that share it: speed, clocks, kinds, schedules, the leader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
from collections.abc import Iterable, Iterator, Sequence

from peerjob import Clock, PeerjobError, State, __version__
from peerjob.model.findings import Finding, Severity
from peerjob.model.firing import ScheduleRow
from peerjob.model.ids import IdSource
from peerjob.model.listed import MAX_LISTED, listed
from peerjob.model.record import NodeInfo, NodeView
from peerjob.store.base import Elections, Store
from peerjob.store.paging import all_schedules
from peerjob.store.rules import READS_LAYOUT

from .config_checks import OwnKinds

NAME = "jobd-check"
_SAMPLES = 5
_SLOW = 0.02
"""Seconds of a round trip to the store, above which the check warns that nodes will be slow."""
_TTL_US = 5_000_000
_LISTEN_SECONDS, _READ_PAUSE = 3.0, 0.5
"""Seconds to wait for the clocks of peers, and seconds between two reads, for a store without a clock."""
_OFF, _FAR_OFF = 0.1, 1.0
"""Seconds by which a clock is wrong: from the first on, the check warns; from the second on, nodes do not lead."""


async def check_speed(store: Store, clock: Clock) -> list[Finding]:
    """Measure how long the store takes to answer."""
    took: list[float] = []
    for _ in range(_SAMPLES):
        asked = clock.elapsed()
        await store.health()
        took.append(clock.elapsed() - asked)
    median = statistics.median(took)
    verdict = Severity.WARN if median > _SLOW else Severity.OK
    advice = "; every job waits for several answers" if verdict is Severity.WARN else ""
    return [Finding("speed", verdict, f"answers in {median * 1000:.1f} ms{advice}")]


async def check_clock(store: Store, clock: Clock, *, peers: int) -> list[Finding]:
    """Check that the store accepts writes, and measure the local clock. Joins for a moment, without workers."""
    incarnation = IdSource(clock).one()
    await store.join(
        NodeInfo(
            name=NAME,
            incarnation=incarnation,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_us=clock.time_us(),
            reads_layout=READS_LAYOUT,
        ),
        ttl_us=_TTL_US,
    )
    try:
        ahead = await _ahead(store, clock, incarnation, _LISTEN_SECONDS if peers else 0.0) / 1_000_000
    finally:
        with contextlib.suppress(PeerjobError):  # if the check cannot leave, its lease expires later
            await store.leave(incarnation)
    others = "the server's" if store.capabilities.clock == "server" else "the nodes'"
    if store.capabilities.clock == "nodes" and peers < 2 and abs(ahead) < _OFF:
        return [
            Finding("clock", Severity.OK, "the nodes' clocks decide, and there are no two other nodes to compare with")
        ]
    if abs(ahead) < _OFF:
        return [Finding("clock", Severity.OK, f"within {abs(ahead) * 1000:.0f} ms of {others}")]
    text = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} {others}"
    bad = abs(ahead) >= _FAR_OFF and store.capabilities.clock == "nodes"
    return [Finding("clock", Severity.FAIL if bad else Severity.WARN, f"{text}; synchronise it (NTP)")]


async def _ahead(store: Store, clock: Clock, incarnation: str, listening: float) -> int:
    liveness = store.liveness()
    await liveness.open()
    try:
        until, looks = clock.elapsed() + listening, 0
        by_server = store.capabilities.clock == "server"
        while True:
            reply = await liveness.renew(incarnation, ttl_us=_TTL_US, running=0, count=0, fences_digest=0)
            looks += 1
            # a slow answer distorts the comparison of clocks, so the check takes several, of which the fastest counts
            if looks >= _SAMPLES if by_server else reply.ahead_us or clock.elapsed() > until:
                return reply.ahead_us
            await asyncio.sleep(0.0 if by_server else _READ_PAUSE)
    finally:
        await liveness.close()


async def check_cluster(store: Store, own: OwnKinds, nodes: Sequence[NodeView]) -> list[Finding]:
    """Check the nodes, kinds without a node, and schedules without a node."""
    health = await store.health()
    served = {kind for view in nodes for kind in view.info.kinds}
    findings = [*_nodes(nodes), *_signatures(nodes, own)]
    waiting = {kind: states.get(State.SCHEDULED, 0) for kind, states in health.counts.items()}
    findings += _unserved({kind: count for kind, count in waiting.items() if count and kind not in served}, own)
    findings += _schedules(await all_schedules(store), served, own)
    if health.undecodable:
        text = f"{health.undecodable} record(s) could not be read and are set aside; see the nodes' logs"
        findings.append(Finding("records", Severity.WARN, text))
    return findings


def _nodes(nodes: Sequence[NodeView]) -> Iterator[Finding]:
    if not nodes:
        yield Finding("nodes", Severity.OK, "none runs in this namespace")
        return
    workers = sum(view.info.workers for view in nodes)
    yield Finding("nodes", Severity.OK, f"{listed(view.name for view in nodes)}; {workers} worker(s)")
    other = sorted({view.info.version for view in nodes} - {__version__})
    if other:
        text = f"some run peerjob {', '.join(other)}, this is {__version__}; normal only during a deployment"
        yield Finding("versions", Severity.WARN, text)
    names = [view.name for view in nodes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield Finding("nodes", Severity.WARN, f"several nodes have the name {listed(twice)}; give each its own --name")


def _signatures(nodes: Sequence[NodeView], own: OwnKinds) -> Iterator[Finding]:
    differing = sorted(
        kind
        for kind, signature in own.signatures.items()
        if any(view.info.signatures.get(kind, signature) != signature for view in nodes)
    )
    if differing:
        text = f"nodes have other signatures of {listed(differing)} than these modules; normal only during a deployment"
        yield Finding("signatures", Severity.WARN, text)


def _unserved(waiting: dict[str, int], own: OwnKinds) -> Iterator[Finding]:
    mine = [kind for kind in sorted(waiting) if kind in own.signatures]
    lost = [kind for kind in sorted(waiting) if kind not in own.signatures]
    yield from _first(
        Finding("kinds", Severity.OK, f"{kind}: {waiting[kind]} wait for a node with these modules") for kind in mine
    )
    yield from _first(
        Finding("kinds", Severity.WARN, f"{kind}: {waiting[kind]} wait, and no node runs this kind") for kind in lost
    )
    if not waiting:
        yield Finding("kinds", Severity.OK, "a node runs every kind that waits")


def _schedules(rows: Sequence[ScheduleRow], served: set[str], own: OwnKinds) -> Iterator[Finding]:
    unserved = [row for row in rows if row.kind not in served and row.kind not in own.signatures and not row.paused]
    advice = "so it does not fire; start one, or remove or pause it"
    yield from _first(
        Finding("schedules", Severity.WARN, f"{row.name}: no node runs its kind {row.kind}, {advice}")
        for row in unserved
    )
    if not unserved:
        paused = sum(row.paused for row in rows)
        yield Finding("schedules", Severity.OK, f"{len(rows)}, {paused} of them paused")


def _first(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first ten findings of one kind, and how many more there are."""
    every = list(findings)
    yield from every[:MAX_LISTED]
    if len(every) > MAX_LISTED:
        yield every[0]._replace(text=f"and {len(every) - MAX_LISTED:,} more")


async def check_leader(elections: Elections, *, nodes_run: bool) -> list[Finding]:
    """Check that a node leads."""
    leader = await elections.leader()
    if leader is not None:
        return [Finding("leader", Severity.OK, f"{leader.name}, term {leader.term.number}")]
    if nodes_run:
        text = (
            "no node leads, so no schedule fires: an election is in progress, or the nodes have another --coordinator"
        )
        return [Finding("leader", Severity.WARN, text)]
    return [Finding("leader", Severity.OK, "none, since no node runs")]


async def nodes_of(store: Store) -> list[NodeView]:
    """The live nodes, without other runs of this check."""
    return [view for view in await store.nodes() if view.name != NAME]
