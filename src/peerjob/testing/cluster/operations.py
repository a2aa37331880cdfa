"""What a test does to the nodes of a cluster, in the words of the signals and outages that it stands for."""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, OptionError
from peerjob.node.node import GRACE, Node

from .faults import LATE, How
from .members import ClusterMembers

Cut = Literal["store", "coordinator", "both"]


class ClusterOperations(ClusterMembers):
    """The part of a test cluster that does harm."""

    async def kill(self, node: Node | str) -> None:
        """End a node as SIGKILL does: nothing of it runs again, and its lease runs out.

        Its bodies stop where they are: no `except` and no `finally` of theirs is entered before the cluster closes.
        A sync body goes on in its thread, since nothing ends a thread; the cluster takes no answer from it.
        """
        member = self._need(node)
        self._note(f"kill {member.name}")
        own = self._lanes.is_in(member.lane)
        member.kill()
        if own:
            await asyncio.get_running_loop().create_future()

    async def stop(self, node: Node | str, grace: Duration = GRACE) -> None:
        """Stop a node in order, as SIGTERM does, and move time on until it has left."""
        member = self._need(node)
        if member.lane.paused:
            raise NodeStateError(f"node {member.name!r} is paused: resume it first")
        self._note(f"stop {member.name}")
        await self._run(self._in_lane(member, member.node.stop(grace)))

    async def restart(self, node: Node | str) -> Node:
        """Start a node that was killed or stopped anew, in a new process under the same name; returns the new Node.

        What was done to its machine stays: a wrong clock, and a partition, in which it cannot start.
        """
        member = self._member(node)
        if member.lives or member.starts:
            how = "runs: kill or stop it first" if member.lives else "starts already"
            raise NodeStateError(f"node {member.name!r} {how}")
        self._note(f"restart {member.name}")
        started = self._new_member(member.name)
        await self._run(self._start(started))
        return started.node

    async def pause(self, node: Node | str) -> None:
        """Let a node stand still as SIGSTOP does: no code of it runs, its timers are late, its clock goes on.

        Calls that a test makes through the node wait until `resume`. A sync body goes on in its thread.
        """
        member = self._need(node)
        if not member.lane.paused:
            self._note(f"pause {member.name}")
            member.pause()

    async def resume(self, node: Node | str) -> None:
        """Let a paused node go on, as SIGCONT does; it finds its timers overdue."""
        member = self._need(node)
        if member.lane.paused:
            self._note(f"resume {member.name}")
            member.resume()

    async def partition(self, node: Node | str, from_: Cut = "both") -> None:
        """Cut a node off, from the store with the jobs, from the coordinator that elects the leader, or from both.

        Calls fail until `heal`, and watches tell nothing. A node tries each call again for 30 s.
        """
        member = self._member(node)
        if from_ not in get_args(Cut):
            raise OptionError("from_", from_, f"one of {', '.join(map(repr, get_args(Cut)))}")
        self._note(f"partition {member.name} from {from_}")
        if from_ != "coordinator":
            member.store_link.cut = True
        if from_ != "store":
            member.coordinator_link.cut = True

    async def heal(self, node: Node | str | None = None) -> None:
        """End what `partition`, `store_fails` and `slow` do, to one node or (None) to all."""
        members = list(self._members.values()) if node is None else [self._member(node)]
        self._note(f"heal {'all' if node is None else members[0].name}")
        self._faults.clear(None if node is None else members[0].name)
        for member in members:
            self._heal(member)

    async def skew(self, node: Node | str, by: Duration) -> None:
        """Set a node's wall clock ahead of the right time, or behind it ("-30s"); "0s" puts it right."""
        member = self._member(node)
        self._note(f"skew {member.name} by {by}")
        member.clock.ahead_us = round(to_seconds(by, "by", negative=True) * 1_000_000)

    async def store_fails(
        self,
        verb: str,
        times: int | None = 1,
        how: How = "error",
        *,
        node: Node | str | None = None,
        by: Duration = LATE,
    ) -> None:
        """Let the next calls of a verb of the store fail: so many (None: until `heal`), of one node or (None) of all.

        "error": the call is not done. "lost answer": it is done, and the caller cannot tell. "late": it is done at
        once, and the answer takes `by`. "repeated": it is done twice, word for word. `verb` is one of the store
        contract, of leases and elections too ("enqueue", "turn", "renew", "campaign" …); "claim" and "commit" mean the
        turns of nodes that do so, "*" is every verb. Raises OptionError.
        """
        name = None if node is None else self._member(node).name
        self._faults.add(verb, how, times=times, node=name, by=by)
        self._note(f"{verb} of {name or 'all'} fails {times or 'many'} time(s): {how}")

    async def slow(self, verb: str, by: Duration, *, node: Node | str | None = None) -> None:
        """Let each answer to a verb take so long until `heal`, for one node or (None) for all."""
        await self.store_fails(verb, None, "late", node=node, by=by)
