"""The heads of the queues that a claim reads first, in one request with the record of its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.latest import Latest
from peerjob.store.kv.format.base import Found, Range
from peerjob.store.kv.format.keys import below, time_text
from peerjob.store.kv.format.rows import live_of
from peerjob.store.kv.index.index_feed import IndexFeed
from peerjob.store.kv.index.scan import Head, Scan
from peerjob.store.kv.kinds.kind_groups import Grouping, Groups
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.writer import ROUNDS

from .claim_call import ClaimCall
from .claim_limits import ClaimLimits
from .claim_select import Selection

_MAX_HEADS = 64
"""A claim for few kinds reads at most this number of heads. A claim with more heads or more
kinds reads the indexes of `kind_groups`."""
_MAX_READS = 100
"""A claim reads records together with the heads as long as the request has at most so many reads."""
_MAX_SCANS = 8
"""A claim begins to read at most this number of queues together with their heads."""
MAX_INCARNATIONS = 1000
"""A store remembers the claims of at most this number of incarnations: a coordinator serves one after another."""


class ClaimHeads:
    """Reads the heads of the queues for claims."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._grouping = Grouping(context)
        self._groups = Latest[str, Groups](MAX_INCARNATIONS)
        """Incarnation → groups of the incarnation's kinds, for nodes with many kinds or queues."""
        self._last = Latest[str, tuple[Mapping[str, Sequence[Head]], int]](MAX_INCARNATIONS)
        """Incarnation → the heads that its last claim read, and how many entries that claim wanted."""
        self._expected = Latest[str, Sequence[str]](MAX_INCARNATIONS)
        """Incarnation → `ClaimCall.expected` of its last claim."""
        self._took_all = Latest[str, ClaimCall](MAX_INCARNATIONS)
        """Incarnation → its last claim, if that one took all that was due."""

    async def read(self, call: ClaimCall) -> bool:
        """Read the node and the heads; False if the node is not alive."""
        context = self._context
        node, lives = Range(context.keys.node + call.incarnation), context.keys.live
        windowed = [below(lives)] if context.kv.capabilities.order == "windowed" else []
        known = self._groups.get(call.incarnation)
        if known is not None and (known.kinds is call.registered or known.kinds == call.registered):
            call.groups = known
        elif not call.has_few_kinds:
            call.groups = await self._read_groups(call)
        for _ in range(ROUNDS):
            rules = await context.limit_rules.current()
            call.durable = context.kv.durable
            by_limits = ClaimLimits(context, rules, call.want.kinds, call.charged) if rules.kinds else None
            limits = [] if by_limits is None else by_limits.reads
            scans, wanted = self._begin_scans(call)
            heads = self.of_kinds(call.queued_kinds) if call.groups is None else self.of_groups(call.groups)
            reads = [node, *windowed, context.queues.delayed_heads(), *heads, *limits]
            windows = [scan.window(wanted) for scan in scans]
            expected = self._expected.pop(call.incarnation, ())[: max(0, _MAX_READS - len(reads) - len(windows))]
            records = [Range(context.keys.state + id) for id in expected]
            now_us = context.clock_skew.median_us()
            nodes, *answers = await context.kv.read([*reads, *windows, *records])
            stored = answers[len(reads) - 1 + len(scans) :]
            call.records = {
                id: record.items[0][1] if record.items else None for id, record in zip(expected, stored, strict=True)
            }
            for scan, answer in zip(scans, answers[len(reads) - 1 :], strict=False):
                scan.take(answer, wanted)
            del answers[len(reads) - 1 :]
            call.scans = {scan.head: scan for scan in scans}
            call.by_limits, call.stamp = by_limits, rules.stamp
            call.limits_missing = any(kind in call.want.kinds for kind in rules.lacking)
            if windowed:
                call.live = [
                    incarnation
                    for incarnation, entry in ((key[len(lives) :], entry) for key, entry in answers.pop(0).items)
                    if incarnation == call.incarnation or live_of(entry).claims
                ]
            if by_limits is not None:
                own = call.live.index(call.incarnation) if call.incarnation in call.live else 0
                by_limits.read(answers[len(answers) - len(limits) :], now_us, own, max(1, len(call.live)))
                del answers[len(answers) - len(limits) :]
            delayed, *ready = answers
            call.name, alive = context.name(call.incarnation, nodes.items[0][1] if nodes.items else None)
            if not alive:
                return False
            call.node, call.delayed = nodes.items[0][1], context.queues.heads(delayed)
            if await self._set_heads(call, ready):
                # with limits, the window of a claim differs from that of the next one: a window that is too large costs
                # less than a second read
                wanted = max(call.window + 1, self._last.get(call.incarnation, ({}, 0))[1] * 15 // 16)
                self._last[call.incarnation] = call.heads, wanted
                return True
        raise StoreUnavailableError(context.url, "too many nodes register kinds at once")

    def expect(self, call: ClaimCall) -> None:
        """Remember which instances the next claim of the node takes, so that it reads them together with the queues."""
        self._expected[call.incarnation] = call.expected

    def took(self, call: ClaimCall, selection: Selection) -> None:
        """Remember a claim that has taken all that was due: the next one probably finds nothing."""
        plain = call.groups is None and call.by_limits is None and not call.limits_missing
        if plain and not selection.left_kinds and len(selection.picks) < call.window:
            self._took_all[call.incarnation] = call

    def expect_nothing(self, call: ClaimCall) -> bool:
        """Whether the claim probably finds nothing, because the one before took all; it then has what that one read.

        The registration as idle reads the queues anyway, and compares the node and the limits. So if something is due,
        the claim learns it there.
        """
        last, log = self._took_all.pop(call.incarnation, None), call.answer_log
        if last is None or log.parts or call.want.kinds.keys() != last.want.kinds.keys():
            return False
        now = time_text(call.now_us + 1)
        if not (call.want.idle and call.limit > 0 and call.want.suspects == last.want.suspects):
            return False
        if self._context.kv.stamp != last.stamp or any(head.start < now for head in last.delayed):
            return False
        call.node, call.name, call.live, call.stamp = last.node, last.name, last.live, last.stamp
        call.heads, call.delayed, call.durable = last.heads, last.delayed, last.durable
        return True

    def _begin_scans(self, call: ClaimCall) -> tuple[list[Scan], int]:
        """Begin to read the queues where the last claim did: in most claims, their heads have not moved."""
        heads, wanted = self._last.get(call.incarnation, ({}, 0))
        if call.groups is not None:
            return [], 0
        expected = [head for kind in call.queued_kinds for head in heads.get(kind, ())]
        now_us = self._context.clock.time_us()
        return [self._context.queues.scan(head, now_us=now_us) for head in expected[:_MAX_SCANS]], wanted

    def of_kinds(self, kinds: Sequence[str]) -> list[Range]:
        """The reads that find the heads of the ready queues of these kinds."""
        return [below(self._context.keys.ready_heads(kind), _MAX_HEADS + 1) for kind in kinds]

    def of_groups(self, groups: Groups) -> list[Range]:
        """The reads that find the markers of these groups and the heads of their indexes."""
        keys = self._context.keys
        return [*self._grouping.marks(groups), *(below(keys.order_heads(group)) for group in groups.marks)]

    async def _set_heads(self, call: ClaimCall, ready: Sequence[Found]) -> bool:
        """Store the heads that were read; False if heads are too many or groups changed, so the caller reads again."""
        queues = self._context.queues
        if call.groups is None:
            if sum(answer.count for answer in ready) > _MAX_HEADS:
                call.groups = await self._read_groups(call)
                return False
            call.heads = {kind: queues.heads(answer) for kind, answer in zip(call.queued_kinds, ready, strict=True)}
            return True
        marks, heads = ready[: len(call.groups.marks)], ready[len(call.groups.marks) :]
        if not call.groups.hold(marks):
            call.groups = await self._read_groups(call)
            return False
        indexes = [head for answer in heads for head in queues.heads(answer)]
        # an earlier attempt of the claim may have read the same heads without indexes, and each queue must count once
        call.heads = {}
        call.feed = IndexFeed(queues, self._context.keys, indexes, call.groups.names, call.now_us)
        return True

    async def _read_groups(self, call: ClaimCall) -> Groups:
        groups = self._groups[call.incarnation] = await self._grouping.stable(call.registered)
        return groups
