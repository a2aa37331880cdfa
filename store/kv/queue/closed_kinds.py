"""The kinds of which a limit allows a claim nothing, and when an idle node may claim them."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.store.kv.format.base import Found, Range
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.index.scan import Head
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.limit_rules import Alarms, LimitState

from .claim_call import ClaimCall
from .claim_limits import ClaimLimits
from .claim_select import Selection

_FIXED = 3
"""The reads before those of limits and queues: the layout, idle nodes, live nodes."""


def rest_of(head: Head) -> Range:
    """The read that tells whether a queue has an entry."""
    return Range(head.queue + head.start, prefix_end(head.queue), 1, True)


class ClosedKinds:
    """Tells when they may go, by their limits, their queues, and the moments that idle nodes were told.

    A paused kind may go only after the limits of the namespace have changed, and with them the revision of the layout.
    """

    def __init__(self, context: KVContext, call: ClaimCall, selection: Selection, by_limits: ClaimLimits) -> None:
        self._context = context
        self._stamp = call.stamp
        self._rules = rules = by_limits.rules
        self._incarnation = call.incarnation
        self._sides = ("n", "s") if call.want.suspects else ("n",)
        self._limits = {
            kind: by_limits.limits[kind]
            for kind in by_limits.closed
            if kind in by_limits.limits and not rules.kinds[kind].paused
        }
        self._names = list(dict.fromkeys(name for names in self._limits.values() for name in names))
        self._heads = [(kind, head) for kind, head in selection.heads_by_kind() if kind in self._limits]
        keys, reads = context.keys, context.limit_rules.reads
        self.reads = [Range(keys.layout, keys_only=True)]
        """What `may_go` needs."""
        if self._names:
            self.reads += [below(keys.idle), below(keys.live, keys_only=True)]
            self.reads += [read for name in self._names for read in reads(name)]
            self.reads += [below(keys.ready_heads(kind), keys_only=True) for kind in self._limits]
            self.reads += [rest_of(head) for _, head in self._heads]

    async def untold(self) -> dict[str, int]:
        """Limits for whose moments queued instances wait and no other live idle node does, with the moments."""
        if not self._names:
            return {}
        answers = await self._context.kv.read(self.reads)
        alarms = self._alarms(answers, but=self._incarnation)
        return {
            state.name: state.opens_us
            for states in self._queued(answers)
            if all(state.places > 0 for state in states)
            for state in states
            if state.starts <= 0 and not alarms.has(state)
        }

    def may_go(self, answers: Sequence[Found], *, waits: bool = True) -> bool:
        """Whether queued instances may go, or the node waits and no live idle node was told when they may go."""
        if [entry.mod for _, entry in answers[0].items] != [self._stamp.mod]:
            return True
        if not self._names:
            return False
        # the node itself gets its answer even if its lease is over
        alarms = self._alarms(answers, own=self._incarnation)
        return any(
            all(state.places > 0 and (state.starts > 0 or (waits and not alarms.has(state))) for state in states)
            for states in self._queued(answers)
        )

    def _alarms(self, answers: Sequence[Found], *, own: str = "", but: str = "") -> Alarms:
        return Alarms(self._context.keys, answers[1].items, answers[2], own=own, but=but)

    def _queued(self, answers: Sequence[Found]) -> list[list[LimitState]]:
        """The limits of each of the kinds that has queued instances."""
        rules, keys, now_us = self._context.limit_rules, self._context.keys, self._context.clock_skew.median_us()
        of_limits = answers[_FIXED : _FIXED + 2 * len(self._names)]
        of_kinds = answers[_FIXED + len(of_limits) :]
        states = rules.states(self._rules, self._names, of_limits, now_us)
        known = {head.queue for _, head in self._heads}
        queued = {
            kind for (kind, _), rest in zip(self._heads, of_kinds[len(self._limits) :], strict=True) if rest.count
        }
        for kind, heads in zip(self._limits, of_kinds, strict=False):
            queues = [keys.queue_of(key) for key, _ in heads.items]
            if any(queue not in known and keys.ready_parts(queue)[1] in self._sides for queue in queues):
                queued.add(kind)
        return [[states[name] for name in names] for kind, names in self._limits.items() if kind in queued]
