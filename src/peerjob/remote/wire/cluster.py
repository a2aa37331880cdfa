"""Nodes, the leader, workers and statistics, on the wire."""

from __future__ import annotations

from peerjob.handles.stats import Stats
from peerjob.model.audit import AuditRecord
from peerjob.model.firing import Leader, Term
from peerjob.model.record import NodeInfo, NodeView
from peerjob.model.state import State
from peerjob.model.worker import Worker
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import optional_stamp, span, span_us, stamp, stamp_us, state_number

OLD_LAYOUT = 2
"""What a node reads that does not tell it."""


def node_message(view: NodeView) -> pb.Node:
    """The message of a node."""
    info = view.info
    return pb.Node(
        name=info.name,
        incarnation=info.incarnation,
        kinds=info.kinds,
        signatures=info.signatures,
        workers=info.workers,
        host=info.host,
        pid=info.pid,
        version=info.version,
        started_at=optional_stamp(info.started_us),
        running=view.running,
        renewed_at=optional_stamp(view.renewed_us),
        expires_at=optional_stamp(view.expires_us),
        age=span(view.age_us),
        intake=info.intake,
        descriptors=info.descriptors,
        ahead_us=info.ahead_us,
        reads_layout=info.reads_layout,
    )


def node_of(message: pb.Node) -> NodeView:
    """The inverse of `node_message`."""
    return NodeView(
        info=NodeInfo(
            name=message.name,
            incarnation=message.incarnation,
            kinds=tuple(message.kinds),
            signatures=dict(message.signatures),
            workers=message.workers,
            host=message.host,
            pid=message.pid,
            version=message.version,
            started_us=stamp_us(message.started_at),
            intake=message.intake,
            descriptors=message.descriptors,
            ahead_us=message.ahead_us,
            reads_layout=message.reads_layout or OLD_LAYOUT,
        ),
        running=message.running,
        renewed_us=stamp_us(message.renewed_at),
        expires_us=stamp_us(message.expires_at),
        age_us=span_us(message.age),
    )


def leader_message(leader: Leader) -> pb.Leader:
    """The message of the leader."""
    return pb.Leader(
        incarnation=leader.incarnation,
        name=leader.name,
        coordinator=leader.term.coordinator,
        term=leader.term.number,
        since=optional_stamp(leader.since_us),
    )


def leader_of(message: pb.Leader) -> Leader:
    """The inverse of `leader_message`."""
    return Leader(
        incarnation=message.incarnation,
        name=message.name,
        term=Term(message.coordinator, message.term),
        since_us=stamp_us(message.since),
    )


def audit_message(record: AuditRecord) -> pb.AuditRecord:
    """The message of a record of the audit log."""
    return pb.AuditRecord(
        id=record.id,
        at=stamp(record.at_us),
        principal=record.principal,
        address=record.address,
        verb=record.verb,
        criteria=record.criteria,
        count=record.count,
        calls=record.calls,
        result=record.result,
        node=record.node,
    )


def audit_of(message: pb.AuditRecord) -> AuditRecord:
    """The inverse of `audit_message`."""
    return AuditRecord(
        id=message.id,
        at_us=stamp_us(message.at),
        principal=message.principal,
        address=message.address,
        verb=message.verb,
        criteria=message.criteria,
        count=message.count if message.HasField("count") else None,
        calls=message.calls,
        result=message.result,
        node=message.node,
    )


def worker_message(worker: Worker) -> pb.Worker:
    """The message of a worker, without its node."""
    return pb.Worker(number=worker.number, instance=worker.instance, kind=worker.kind, stuck=worker.stuck)


def worker_of(message: pb.Worker, node: str) -> Worker:
    """The inverse of `worker_message`."""
    return Worker(
        number=message.number,
        node=node,
        instance=message.instance if message.HasField("instance") else None,
        kind=message.kind if message.HasField("kind") else None,
        stuck=message.stuck,
    )


def stats_message(stats: Stats) -> pb.GetStatsResponse:
    """The message of the statistics of a namespace."""
    return pb.GetStatsResponse(
        counts=[
            pb.StateCount(kind=kind, state=state_number(state), count=count)
            for kind, states in stats.counts.items()
            for state, count in states.items()
        ],
        delayed=stats.delayed,
        nodes=stats.nodes,
        undecodable=stats.undecodable,
        settling=stats.settling,
        unserved=stats.unserved,
    )


def stats_of(message: pb.GetStatsResponse) -> Stats:
    """The inverse of `stats_message`."""
    counts: dict[str, dict[State, int]] = {}
    for count in message.counts:
        counts.setdefault(count.kind, {})[State(count.state)] = count.count
    return Stats(
        counts=counts,
        delayed=message.delayed,
        nodes=message.nodes,
        undecodable=message.undecodable,
        settling=message.settling,
        unserved=dict(message.unserved),
    )
