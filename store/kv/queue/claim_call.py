"""One call of `claim`: its wishes, what it has read and taken, and its answer if the request was answered before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from peerjob.model.caps import Caps
from peerjob.model.durable import FLOW_KIND
from peerjob.model.record import Claim, Claimed, Want
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Entry
from peerjob.store.kv.format.keys import timed
from peerjob.store.kv.format.limit_rows import limit_key_of
from peerjob.store.kv.format.rows import Row
from peerjob.store.kv.format.views import to_claim
from peerjob.store.kv.index.index_feed import IndexFeed
from peerjob.store.kv.index.scan import Head, Scan
from peerjob.store.kv.kinds.kind_groups import Groups
from peerjob.store.kv.write.answers import AnswerLog
from peerjob.store.kv.write.context import KVContext

from .claim_limits import ClaimLimits

FEW_KINDS = 32
"""A claim for at most this number of kinds reads the heads of all ready queues of each kind."""
_MAX_WINDOW = 1000
"""A claim reads at most this number of due instances to pick the share of the node, unless the claim wants more."""


class ClaimCall:
    """The state of one call of `claim`."""

    def __init__(
        self, incarnation: str, want: Want, answer_log: AnswerLog, passed_over: dict[str, int], *, may_wait: bool
    ) -> None:
        self.incarnation = incarnation
        self.may_wait = may_wait
        """Whether another run of the request may still wait for a hint: the first answer then ends the request."""
        self.want = want
        self.registered = want.kinds.kinds if isinstance(want.kinds, Caps) else tuple(want.kinds)
        self.answer_log = answer_log
        self.passed_over = passed_over
        """Instance → number of claims in which the incarnation left that instance and took later ones."""
        # for many kinds, the sum of the limits takes longer than the claim; the limit of each kind is checked in any
        # case
        self.has_few_kinds = len(want.kinds) <= FEW_KINDS
        most = sum(want.kinds.values()) if self.has_few_kinds else want.limit * any(want.kinds.values())
        self.limit = min(want.limit, most)
        self.taken: dict[str, int] = {}
        self.groups: Groups | None = None
        """The groups of the node's kinds; None while the claim reads the heads of all queues directly."""
        self.feed: IndexFeed | None = None
        self.by_limits: ClaimLimits | None = None
        """What the limits of the wanted kinds leave; None while no kind has limits."""
        self.limits_missing = False
        """See `Claimed`."""
        self.charged: dict[str, int] = {}
        """See `ClaimLimits`."""
        self.stamp = Compare("")
        """Holds while layout and limits of the namespace are those that the claim has read."""
        self.durable = False
        """Whether the namespace can have flows. Each node runs their kind, so otherwise no claim reads its queues."""
        self.node = Entry(b"", 0)
        self.name = ""
        self.live: list[str] = []
        """Incarnations that share the due instances; empty unless the store keeps the order within a window only."""
        self.heads: dict[str, list[Head]] = {}
        self.scans: dict[Head, Scan] = {}
        """The reads of queues that began together with the read of their heads."""
        self.records: dict[str, Entry | None] = {}
        """Records that were read together with the queues."""
        self.expected: Sequence[str] = ()
        """The instances that the next claim of the node takes, if no other node takes them."""
        self.delayed: list[Head] = []
        self.claims: list[Claim] = []
        self.positions: dict[str, str] = {}
        """Instance that was picked → its position in its queue."""
        self.numbers: set[int] = set()
        """Numbers under which this call has stored its claims in the answer log."""
        self.picked = 0
        self.waited = False
        self.answer_log.guarded = True

    @property
    def now_us(self) -> int:
        """The time at which this run of the request began."""
        return self.answer_log.now_us

    @property
    def spread(self) -> int:
        """How many times as many instances as wanted the claim reads, to find the share of its node among them."""
        return 2 * len(self.live) if len(self.live) > 1 else 1

    @property
    def window(self) -> int:
        """How many instances the claim picks, of which its node takes its share."""
        limit, has_all_heads = self.limit, self.feed is None
        if self.by_limits is not None and has_all_heads:
            most = self.by_limits.most(kind for kind, heads in self.heads.items() if heads)
            limit = limit if most is None else min(limit, max(1, most))
        return min(limit * self.spread, max(limit, _MAX_WINDOW))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which more instances may be claimed."""
        taken = self.taken
        return tuple([kind for kind, limit in self.want.kinds.items() if limit > taken.get(kind, 0)])

    @property
    def queued_kinds(self) -> tuple[str, ...]:
        """Those of `kinds` that the namespace can have."""
        kinds = self.kinds
        return kinds if self.durable else tuple([kind for kind in kinds if kind != FLOW_KIND])

    @property
    def closed(self) -> Set[str]:
        """The kinds of which a limit allows no instance."""
        return frozenset() if self.by_limits is None else self.by_limits.closed

    @property
    def open_kinds(self) -> tuple[str, ...]:
        """Those of `queued_kinds` of which limits allow more instances."""
        kinds, closed = self.queued_kinds, self.closed
        return tuple([kind for kind in kinds if kind not in closed]) if closed else kinds

    @property
    def may_idle(self) -> bool:
        """Whether the call replaces the registration of its node as idle if it finds nothing."""
        return self.want.idle and self.want.limit > 0

    @property
    def wants_all(self) -> bool:
        """Whether the claim takes instances of each registered kind, and also suspects."""
        caps = self.want.kinds
        limits = (caps.default, *caps.others.values()) if isinstance(caps, Caps) else caps.values()
        return self.want.suspects and all(limit > 0 for limit in limits)

    @property
    def answered(self) -> bool:
        """Whether the answer log has answers of an earlier run of the same request.

        One that found nothing is run again, since its own answer may be lost, unless another run may still wait.
        """
        others = self.answer_log.answers.keys() - self.numbers
        return bool(others or (self.may_wait and self.answer_log.parts and not self.numbers and not self.waited))

    def add(self, claim: Claim) -> None:
        """Add a claim to the answer."""
        self.claims.append(claim)
        if self.by_limits is not None:
            self.by_limits.given(claim.kind)
        self.taken[claim.kind] = self.taken.get(claim.kind, 0) + 1
        self.limit = 0 if claim.suspect else self.limit - 1


def in_order(claims: Iterable[Claim], positions: Mapping[str, str]) -> tuple[Claim, ...]:
    """Claims in the order of the queue: a later round of a claim can find an earlier instance."""
    return tuple(sorted(claims, key=lambda claim: (claim.priority, positions[claim.id])))


async def repeat_answer(context: KVContext, call: ClaimCall) -> Claimed | None:
    """The answer of the first run of a repeated request, without claims that were taken back since; or None."""
    if not call.answered:
        return None
    log = call.answer_log
    answers = [answer.split(" ") for _, answer in sorted(log.answers.items())]
    rows = await context.rows([id for _, id in answers])
    specs = await context.kv.get([context.keys.args + id for _, id in answers])
    claims: list[Claim] = []
    for (fence, id), entry in zip(answers, specs, strict=True):
        if id in rows:
            row = rows[id][1]
            spec = row.spec if entry is None else entry.value
            held = row.state is State.PROCESSING and row.owner == call.incarnation
            if held and row.fence == int(fence) and spec is not None:
                claims.append(to_claim(id, row, spec))
    positions = await _positions(context, {claim.id: rows[claim.id][1] for claim in claims})
    first = log.parts[0]
    return Claimed(claims=in_order(claims, positions), now_us=first.now_us, next_due_us=first.next_due_us)


async def _positions(context: KVContext, rows: Mapping[str, Row]) -> dict[str, str]:
    """The position that each claimed instance had in its queue. One that waited for its limit key came there late."""
    positions = {id: timed(row.due_us, id) for id, row in rows.items()}
    gates = {id: (row.kind, key[0]) for id, row in rows.items() if (key := limit_key_of(row)) is not None}
    if gates:
        states = await context.gates.read(sorted({*gates.values()}), await context.limit_rules.current())
        permits = ((id, states[gate].permit_of(id)) for id, gate in gates.items())
        positions |= {id: timed(permit[2].queued_us, id) for id, permit in permits if permit is not None}
    return positions
