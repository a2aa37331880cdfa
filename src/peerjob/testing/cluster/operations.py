"""Faults that a test can cause in a cluster: each stands for a signal or an outage in production."""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, OptionError
from peerjob.node.node import GRACE, Node

from .cluster_nodes import ClusterMembers
from .faults import LATE, FaultKind

Cut = Literal["store", "coordinator", "both"]


class ClusterOperations(ClusterMembers):
    """The part of a test cluster that causes faults."""

    async def kill(self, node: Node | str) -> None:
        """End a node as SIGKILL does: no code of it runs again, and its lease expires.

        Its bodies stop where they are: they enter no `except` and no `finally` before the cluster closes. A sync body
        continues in its thread, since Python cannot end a thread; the cluster ignores its answer.
        """
        member = self._need(node)
        self._log_operation(f"kill {member.name}")
        own = self._task_sorter.is_in(member.tasks)
        member.kill()
        if own:
            await asyncio.get_running_loop().create_future()

    async def stop(self, node: Node | str, grace: Duration = GRACE) -> None:
        """Stop a node in order, as SIGTERM does, and move time on until the node has left."""
        member = self._need(node)
        if member.tasks.paused:
            raise NodeStateError(f"node {member.name!r} is paused: resume it first")
        self._log_operation(f"stop {member.name}")
        await self._run(self._run_on(member, member.node.stop(grace)))

    async def restart(self, node: Node | str) -> Node:
        """Start a killed or stopped node again, as a new process with the same name; returns the new Node.

        A wrong clock and a partition stay in effect; in a partition the node cannot start.
        """
        member = self._member(node)
        if member.lives or member.starts:
            how = "runs: kill or stop it first" if member.lives else "starts already"
            raise NodeStateError(f"node {member.name!r} {how}")
        self._log_operation(f"restart {member.name}")
        started = self._new_member(member.name)
        await self._run(self._start(started))
        return started.node

    async def pause(self, node: Node | str) -> None:
        """Pause a node as SIGSTOP does: its code stands still, its timers are late, its clock moves on.

        Calls that a test makes through the node wait until `resume`. A sync body continues in its thread.
        """
        member = self._need(node)
        if not member.tasks.paused:
            self._log_operation(f"pause {member.name}")
            member.pause()

    async def resume(self, node: Node | str) -> None:
        """Resume a paused node, as SIGCONT does. Its timers are then overdue."""
        member = self._need(node)
        if member.tasks.paused:
            self._log_operation(f"resume {member.name}")
            member.resume()

    async def partition(self, node: Node | str, from_: Cut = "both") -> None:
        """Cut a node off from the store, from the coordinator that elects the leader, or from both.

        Calls fail and watches are silent until `heal`. A node retries each call for 30 s.
        """
        member = self._member(node)
        if from_ not in get_args(Cut):
            raise OptionError("from_", from_, f"one of {', '.join(map(repr, get_args(Cut)))}")
        self._log_operation(f"partition {member.name} from {from_}")
        if from_ != "coordinator":
            member.store_link.cut = True
        if from_ != "store":
            member.coordinator_link.cut = True

    async def heal(self, node: Node | str | None = None) -> None:
        """End the effects of `partition`, `store_fails` and `slow`, for one node or (None) for all."""
        members = list(self._members.values()) if node is None else [self._member(node)]
        self._log_operation(f"heal {'all' if node is None else members[0].name}")
        self._faults.clear(None if node is None else members[0].name)
        for member in members:
            self._heal(member)

    async def skew(self, node: Node | str, by: Duration) -> None:
        """Set a node's wall clock ahead of the right time, or behind ("-30s"); "0s" corrects it."""
        member = self._member(node)
        self._log_operation(f"skew {member.name} by {by}")
        member.clock.ahead_us = round(to_seconds(by, "by", negative=True) * 1_000_000)

    async def store_fails(
        self,
        verb: str,
        times: int | None = 1,
        how: FaultKind = "error",
        *,
        node: Node | str | None = None,
        by: Duration = LATE,
    ) -> None:
        """Let the next `times` calls of a store verb fail (None: until `heal`), for one node or (None) for all.

        "error": the call has no effect. "lost answer": the call takes effect, and the caller gets an error. "late": the
        call takes effect at once, and the answer takes `by`. "repeated": the same call takes effect twice.

        `verb` is a verb of the store contract, leases and elections included: "enqueue", "turn", "renew", "campaign"
        and so on. "claim" and "commit" mean the turns that claim or commit; "*" is every verb. Raises OptionError.
        """
        name = None if node is None else self._member(node).name
        self._faults.add(verb, how, times=times, node=name, by=by)
        self._log_operation(f"{verb} of {name or 'all'} fails {times or 'many'} time(s): {how}")

    async def slow(self, verb: str, by: Duration, *, node: Node | str | None = None) -> None:
        """Delay each answer to a verb by this time until `heal`, for one node or (None) for all."""
        await self.store_fails(verb, None, "late", node=node, by=by)
