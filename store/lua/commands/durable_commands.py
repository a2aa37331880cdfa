"""Commands of steps, signals and waits; and the commit, which has another script for instances with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from peerjob.model.durable import MAX_SETTLED, SignalAnswer, Step, StepPage
from peerjob.model.errors import StoreError
from peerjob.model.record import MAX_BATCH, Action, Enqueued, Held, NewChild, Outcome, any_durable, check_batch
from peerjob.model.restored import Restored
from peerjob.store.durable_checks import check_children, check_outcomes, check_restored, check_signal
from peerjob.store.lua.client.driver import MAX_REPLY_BYTES, log_set_aside
from peerjob.store.lua.scripts.script import Argument, Call, Reply
from peerjob.store.rules import FLOWS_LAYOUT, LAYOUT

from .arrivals import check_id, restore_arguments, spawn_arguments
from .codec import outcome_arguments
from .gate_commands import LuaGateCommands

_UNCONFIRMED = frozenset({Action.REPORT, Action.HAND_BACK})
"""Outcomes that need no confirmation, because a loss is repaired: the store takes back a claim that the node does not
know, and nodes report again. A step is confirmed."""
_MAX_SCRIPTS = 4
"""A commit runs at most this many scripts: the namespace can get or lose its layout meanwhile."""
_NO_CLAIMS = 6
"""The length of the reply to a claim that found nothing."""
_LINKED, _LAYOUT = b"linked", b"layout"
"""Replies of scripts that did nothing: the other script of the commit is needed, or a higher layout."""
_SIGNAL_ANSWERS = {
    b"A": SignalAnswer.ACCEPTED,
    b"S": SignalAnswer.SAME,
    b"O": SignalAnswer.OTHER,
    b"F": SignalAnswer.FINAL,
    b"N": SignalAnswer.FULL,
    b"U": SignalAnswer.UNKNOWN,
}
_NOT_HELD = b"lost"
_FOREIGN = 2
"""The answer for a child whose id another instance has."""
_WHAT = "steps and children"


class LuaDurableCommands(LuaGateCommands):
    """Commands of steps, signals and waits."""

    async def require_layout(self, layout: int, what: str) -> None:
        if self._layout >= layout:
            return
        (refusing,) = await self._run_durably(("require_layout", (layout,)))
        self._check_readers(refusing, layout, what)
        self._layout = max(self._layout, layout)

    async def spawn(self, incarnation: str, parent: Held, children: Sequence[NewChild]) -> list[Enqueued] | None:
        check_children(parent.id, children, self._layout)
        for child in children:
            check_id(child.instance.id)
        arguments = spawn_arguments(incarnation, parent, children, self._limits)
        kinds = [child.instance.kind for child in children if child.instance.limit_key]
        while True:
            answers, *rest = await self._run_with_gates("spawn", arguments, kinds)
            if answers != _LAYOUT:
                break
            await self._raise_again()
        if answers == _NOT_HELD:
            return None
        log_set_aside(rest[0])
        ids = [child.instance.id for child in children]
        spawned: list[Enqueued] = []
        for id, answer in zip(ids, answers, strict=True):
            if answer == _FOREIGN:
                raise ValueError(f"child {id} of {parent.id}: another instance has this id")
            spawned.append(Enqueued(id, True, repeated=bool(answer)))
        return spawned

    async def restore(self, instances: Sequence[Restored], *, node: str = "") -> list[Enqueued]:
        check_restored(instances, self._layout)
        for restored in instances:
            check_id(restored.instance.id)
        arguments = restore_arguments(instances, node)
        kinds = [restored.instance.kind for restored in instances if restored.instance.limit_key]
        while True:
            answers, *rest = await self._run_with_gates("restore", arguments, kinds)
            if answers != _LAYOUT:
                break
            await self._raise_again()
        log_set_aside(rest[0])
        ids = (restored.instance.id for restored in instances)
        return [
            Enqueued(answer.decode(), False) if isinstance(answer, bytes) else Enqueued(id, True, repeated=bool(answer))
            for id, answer in zip(ids, answers, strict=True)
        ]

    async def settle(self, limit: int = MAX_SETTLED) -> bool:
        is_left, set_aside = await self._run("settle", limit, self._limits.retention_us)
        log_set_aside(set_aside)
        return bool(is_left)

    async def open_needs(self, ids: Sequence[str]) -> list[int]:
        check_batch(len(ids))
        return [int(left) for left in await self._run("open_needs", *ids)] if ids else []

    async def signal(self, id: str, name: str, value: bytes) -> SignalAnswer:
        check_signal(name, value, self._layout)
        while True:
            ((letter, set_aside),) = await self._run_durably(("signal", (id, name, value)))
            log_set_aside(set_aside)
            if letter != _LAYOUT:
                return _SIGNAL_ANSWERS[letter]
            await self._raise_again()

    async def steps(self, id: str, *, cursor: str | None = None) -> StepPage:
        # If the values are larger than one reply, the names come first. A page has names after the cursor.
        steps, names = await self._read_steps(id, MAX_REPLY_BYTES if cursor is None else 0)
        if steps and cursor is None:
            return StepPage(tuple(steps))
        names = sorted(name for name in names if cursor is None or name > cursor)
        page = (await self._read_steps(id, MAX_REPLY_BYTES, *names[:MAX_BATCH]))[0] if names else []
        return StepPage(tuple(page), page[-1].name if page and page[-1].name != names[-1] else None)

    async def _read_steps(self, id: str, max_bytes: int, *names: str) -> tuple[list[Step], list[str]]:
        """Read steps and their names: the first of `names`, or all. All with more than `max_bytes`: only the names."""
        is_whole, *reply = cast("Sequence[bytes]", await self._run("steps", id, max_bytes, *names))
        if not is_whole:
            return [], [name.decode() for name in reply]
        steps = [Step(name.decode(), value) for name, value in zip(reply[::2], reply[1::2], strict=True)]
        return steps, [step.name for step in steps]

    async def _raise_again(self) -> None:
        """Raise the layout again: the server has lost it."""
        self._layout = LAYOUT
        await self.require_layout(FLOWS_LAYOUT, _WHAT)

    # -- the commit

    async def _commit(
        self, outcomes: Sequence[Outcome], arguments: Sequence[Argument], claim: Sequence[Argument] = ()
    ) -> list[Reply]:
        """Commit outcomes, and claim after the commit in the same round trip."""
        durable = any_durable(outcomes)
        if durable:
            check_outcomes(outcomes, self._layout)
        confirmed = any(outcome.action not in _UNCONFIRMED or outcome.steps for outcome in outcomes)
        script = "commit_linked" if durable or any(outcome.linked for outcome in outcomes) else "commit"
        calls: list[Call] = [("claim", claim)] if claim else []
        replies = await self._run_commit(confirmed, (script, arguments), *calls)
        for _ in range(_MAX_SCRIPTS):
            if replies[0][0] == _LINKED:
                script = "commit_linked"
            elif replies[0][0] != _LAYOUT:
                return replies
            elif durable:
                await self._raise_again()
            else:
                script = "commit"
            if claim and len(replies[1]) == _NO_CLAIMS:
                # The claim has run already, but the outcomes can let it find an instance.
                calls = [("claim", [claim[0], "turn-again", *claim[2:]])]
                replies = await self._run_commit(confirmed, (script, arguments), *calls)
            else:
                # The claim has run already, so the commit does what it leaves to a claim that follows.
                replies[:1] = await self._run_commit(confirmed, (script, [*arguments, "alone"]))
        raise StoreError(f"the layout of the namespace at {self._driver.url} does not fit its instances")

    async def _run_commit(self, confirmed: bool, *calls: Call) -> list[Reply]:
        if confirmed:
            return await self._run_durably(*calls)
        return await self._retry(lambda: self._driver.run(*calls))

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
