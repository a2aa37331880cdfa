"""Commands of the queue: enqueue, claim, commit, commit with claim, cancel, and added log lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from peerjob.model.record import Ack, Action, Claimed, Enqueued, LogLine, NewInstance, Outcome, Want
from peerjob.model.state import State

from .codec import acks, check_id, claimed, enqueue_arguments, outcome_arguments, pack_line, plain_arguments
from .commands import check_batch, log_set_aside
from .kind_commands import LuaKindCommands, claim_arguments
from .script import Argument, Call, Reply

MAX_KINDS = 200
"""The maximum number of kinds in one script call that enqueues."""
_UNCONFIRMED = frozenset({Action.REPORT, Action.HAND_BACK})
"""Outcomes that need no confirmation, because a loss is repaired: the store takes back a claim that the node does not
know, and nodes report again."""


class LuaQueueCommands(LuaKindCommands):
    """Commands that move instances from state to state."""

    _use_cheap_script = True
    """Whether the last enqueue found no idle node and no watcher. If so, the next single enqueue tries the cheap script
    `enqueue_one`."""

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        check_batch(instances)
        if not instances:
            return []
        for one in instances:
            check_id(one.id)
        plain = plain_arguments(instances[0], node) if self._use_cheap_script and len(instances) == 1 else None
        if plain is not None and (await self._run_durably(("enqueue_one", plain)))[0]:
            return [Enqueued(instances[0].id, True)]
        answers: list[Enqueued] = []
        for part in _by_kinds(instances):
            (reply,) = await self._run_durably(("enqueue", enqueue_arguments(part, node)))
            self._use_cheap_script = reply == 1
            answers += _enqueued(part, reply)
        return answers

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        check_limit(want)
        return await self._claim(incarnation, "claim", request, want)

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        check_batch(outcomes)
        if not outcomes:
            return []
        (committed,) = await self._commit(outcomes, self._commit_arguments(incarnation, "commit", request, outcomes))
        return _acks(committed)

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        check_batch(outcomes)
        commit = self._commit_arguments(incarnation, "turn-commit", request, outcomes)
        if want is None:
            if not outcomes:
                return [], Claimed()
            (committed,) = await self._commit(outcomes, commit)
            return _acks(committed), Claimed()
        check_limit(want)
        if not outcomes:
            return [], await self._claim(incarnation, "turn-claim", request, want)
        set_name = await self._set_for(incarnation, want)
        claim = claim_arguments(incarnation, "turn-claim", request, set_name, want)
        committed, found = await self._commit(outcomes, commit, ("claim", claim))
        if self._knows_set(incarnation, found):
            return _acks(committed), _claimed(found)
        return _acks(committed), await self._claim(incarnation, "turn-claim", request, want)

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        check_batch(ids)
        if not ids:
            return []
        ((set_aside, *states),) = await self._run_durably(("cancel", (node, request, self._limits.retention_us, *ids)))
        log_set_aside(set_aside)
        return [State(state) if state else None for state in states]

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        check_batch(lines)
        limits = self._limits
        arguments: tuple[Argument, ...] = (
            id,
            limits.max_log_lines,
            limits.max_log_bytes,
            *[pack_line(line) for line in lines],
        )
        (added,) = await self._driver.run(("add_lines", arguments))
        return bool(added)

    async def _claim(self, incarnation: str, command: str, request: str, want: Want) -> Claimed:
        while True:
            set_name = await self._set_for(incarnation, want)
            found = await self._run("claim", *claim_arguments(incarnation, command, request, set_name, want))
            if self._knows_set(incarnation, found):
                return _claimed(found)

    async def _commit(self, outcomes: Sequence[Outcome], arguments: Sequence[Argument], *calls: Call) -> list[Reply]:
        """Commit outcomes, and run further calls after the commit in the same round trip."""
        if any(outcome.action not in _UNCONFIRMED for outcome in outcomes):
            return await self._run_durably(("commit", arguments), *calls)
        return await self._retry(lambda: self._driver.run(("commit", arguments), *calls))

    def _commit_arguments(
        self, incarnation: str, command: str, request: str, outcomes: Sequence[Outcome]
    ) -> list[Argument]:
        limits = self._limits
        return [
            incarnation,
            command,
            request,
            limits.retention_us,
            limits.max_final_per_kind,
            limits.max_log_lines,
            limits.max_log_bytes,
            len(outcomes),
            *outcome_arguments(outcomes),
        ]


def _by_kinds(instances: Sequence[NewInstance]) -> list[Sequence[NewInstance]]:
    """Return the batch, in halves if it has very many kinds: each kind has its own queue and indexes."""
    if len({one.kind for one in instances}) <= MAX_KINDS:
        return [instances]
    half = len(instances) // 2
    return [*_by_kinds(instances[:half]), *_by_kinds(instances[half:])]


def check_limit(want: Want) -> None:
    """Raise ValueError for a claim of more instances than one call may hold."""
    check_batch(range(want.limit))


def _enqueued(instances: Sequence[NewInstance], reply: Reply) -> list[Enqueued]:
    if isinstance(reply, int):
        return [Enqueued(one.id, True) for one in instances]
    return [
        Enqueued(one.id, True) if holder == 0 else Enqueued(cast("bytes", holder).decode(), False)
        for one, holder in zip(instances, reply, strict=True)
    ]


def _acks(reply: Reply) -> list[Ack]:
    log_set_aside(reply[1])
    return acks(reply)


def _claimed(reply: Reply) -> Claimed:
    if len(reply) > 1:
        log_set_aside(reply[3])
    return claimed(reply)
