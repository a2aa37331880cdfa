"""Campaigns for the leadership, and says which node leads and whether this node may act as the leader now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from peerjob.model.child_tasks import end
from peerjob.model.clock import Clock
from peerjob.model.errors import LayoutError, StoreError
from peerjob.model.firing import Candidate, Leader, Term
from peerjob.store.base import Elections

from .answer_limit import AnswerLimit
from .role import BackgroundRole

logger = logging.getLogger("peerjob.cluster")

OPEN_TIMEOUT = 5.0
"""Most seconds to connect to the coordinator."""
MAX_STOP = 5.0
"""Most seconds for which a stopping node tries to resign. After that, its leadership expires."""
MAX_CLOSE = 1.0
MIN_WAIT = 0.02
"""Least seconds between two campaigns, however often the coordinator reports a change of the leader."""
MAX_FOLLOWING = 2.0
"""Most TTLs between two campaigns of a node that does not lead, if the coordinator reports no change of the leader."""
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0
"""Seconds before the next campaign, after the store refused the terms of this node twice in a row.

Each further refusal doubles the seconds, up to MAX_PAUSE.
"""
REFUSAL_WINDOW = 60.0
"""Seconds after which a refusal of a term no longer counts as one of several in a row."""


class Election(BackgroundRole):
    """Campaigns on the event loop of the node. The leader campaigns about each second, or five times in each `ttl`.

    Another node campaigns when the coordinator reports that the leader may have changed (`Elections.changed`), and at
    least once in two TTLs.
    `candidate` is called for each campaign, since the incarnation may change. `eligible` says whether this node may
    lead: it trusts its lease, and its clock is right. Otherwise the node resigns. `ttl` is in seconds.
    """

    name = "election"

    def __init__(
        self,
        *,
        clock: Clock,
        elections: Callable[[], Elections],
        candidate: Callable[[], Candidate],
        ttl: float,
        eligible: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(clock)
        self._make = elections
        self._candidate = candidate
        self._ttl = ttl
        self._eligible = eligible
        self.interval = min(1.0, ttl / 5)
        self._margin = min(1.0, ttl / 5)
        self._answer_limit = AnswerLimit(clock, ttl, lambda: clock.elapsed() < self._trusted_until)
        self._client: Elections | None = None
        self._request_lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self._elected = asyncio.Event()
        self._stopping = False
        self._candidacy = ""
        """The incarnation under which this node possibly holds the leadership; "" for none."""
        self._is_resigning = False
        """Whether a resignation of the candidacy has no answer. The coordinator can still serve it, so the node resigns
        again before it campaigns. Otherwise, a peer could take the leadership while this node acts on its campaign."""
        self._leader: Leader | None = None
        self._answered_at = 0.0
        """When the last campaign that was answered was sent, in elapsed time."""
        self._known_until = 0.0
        self._asked_to_lead = False
        """Whether the last answer came to a campaign, and not to a mere question who leads."""
        self._term: Term | None = None
        self._trusted_until = 0.0
        self._refused: Term | None = None
        self._refused_at = -REFUSAL_WINDOW
        self._refusals = 0
        self._campaign_from = 0.0

    # -- for the node ----------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Leader | None:
        """The leader by the last answer; None for no leader, or if the last answer is too old."""
        return self._leader if self.clock.elapsed() < self._known_until else None

    @property
    def _follows(self) -> bool:
        """Whether a peer leads, by the last answer, and this node would take the leadership if it were free."""
        return self.leader is not None and self._term is None and self._asked_to_lead

    @property
    def term(self) -> Term | None:
        """The term in which this node may act as the leader now; None if it may not."""
        if self.clock.elapsed() >= self._trusted_until or not self._eligible():
            return None
        return self._term

    @property
    def is_leader(self) -> bool:
        """Whether this node may act as the leader now."""
        return self.term is not None

    async def acting(self) -> Term:
        """Wait until this node may act as the leader, and return the term."""
        while (term := self.term) is None:
            self._elected.clear()
            await self._elected.wait()
        return term

    def soon(self) -> None:
        """Campaign now: after a hint, or under a new incarnation."""
        self._woken.set()

    def depose(self, term: Term) -> None:
        """Give up a term that the store refused. Campaign again: first without a pause, then after a growing pause."""
        if term != self._term:
            return
        now = self.clock.elapsed()
        first = now - self._refused_at >= REFUSAL_WINDOW
        self._refused, self._refused_at = term, now
        self._refusals = 0 if first else self._refusals + 1
        pause = 0.0 if first else min(FIRST_PAUSE * 2.0 ** (self._refusals - 1), MAX_PAUSE)
        self._campaign_from = now + pause
        logger.log(
            logging.WARNING if first else logging.DEBUG,
            "the store has seen a later term of %s than term %d, in which this node led; next campaign in %.0f s",
            term.coordinator,
            term.number,
            pause,
        )
        self._distrust()
        self.soon()

    def start(self, on_layout_change: Callable[[LayoutError], None] | None = None) -> None:
        self._stopping = False
        super().start(on_layout_change)

    async def stop(self) -> None:
        """Resign, so that a peer can lead immediately, and stop. Takes half a TTL or 5 s at most; idempotent."""
        self._stopping = True
        self._distrust()
        try:
            # resign after the answer to a running campaign: otherwise the coordinator could serve the campaign later
            async with asyncio.timeout(min(self._ttl / 2, MAX_STOP)), self._request_lock:
                await self._resign()
        except (StoreError, TimeoutError) as error:
            logger.info("could not resign, the leadership expires: %s", str(error) or "no answer")
        await super().stop()
        await self.disconnect()
        self._candidacy, self._is_resigning, self._leader = "", False, None

    async def disconnect(self) -> None:
        """Close the connection of the election; the next campaign opens another."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(min(self._ttl / 5, MAX_CLOSE)):
                    await client.close()

    # -- campaigns -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                async with self._request_lock:
                    await self._round()
                self.last_error = None
            except LayoutError:
                await self.disconnect()
                raise
            except (StoreError, TimeoutError) as error:
                if repr(error) != repr(self.last_error):
                    told = str(error) or "no answer"
                    logger.warning("election: %s; the node campaigns again when the coordinator answers", told)
                self.last_error = error
                self._known_until = min(self._known_until, self._answered_at + self._ttl)
                await self.disconnect()
            except Exception:
                await self.disconnect()
                raise
            await self._wait()

    async def _round(self) -> None:
        if self._stopping:
            return
        client = await self._connected()
        candidate = self._candidate()
        eligible = self._eligible() and self.clock.elapsed() >= self._campaign_from
        is_other = self._candidacy != candidate.incarnation
        if self._candidacy and (not eligible or is_other or self._refused is not None or self._is_resigning):
            await self._resign()
        leader: Leader | None
        asked_at = self.clock.elapsed()
        async with self._answer_limit.applied():
            if eligible:
                # the candidacy is set first: if the answer is lost, this node can be the leader without knowing
                self._candidacy = candidate.incarnation
                leader = await client.campaign(candidate, ttl_us=round(self._ttl * 1_000_000))
            else:
                leader = await client.leader()
        self._asked_to_lead = eligible
        self._take_answer(leader, candidate.incarnation, asked_at)

    def _take_answer(self, leader: Leader | None, incarnation: str, asked_at: float) -> None:
        self._leader, self._answered_at, self._known_until = leader, asked_at, asked_at + self._ttl
        if leader is None or leader.incarnation != incarnation:
            self._candidacy = ""
            self._distrust()
            # the next campaign may come only after MAX_FOLLOWING TTLs, and its answer takes most of another one at most
            self._known_until += MAX_FOLLOWING * self._ttl if self._asked_to_lead else 0.0
        elif not self._stopping:
            self._candidacy = incarnation
            if leader.term != self._term:
                logger.info("node %r leads in term %d (%s)", leader.name, leader.term.number, leader.term.coordinator)
            self._term, self._trusted_until = leader.term, asked_at + self._ttl - self._margin
            self._elected.set()

    async def _resign(self) -> None:
        """Resign for the incarnation that possibly holds the leadership."""
        self._distrust()
        if self._candidacy:
            client = await self._connected()
            self._is_resigning = True
            async with self._answer_limit.applied():
                await client.resign(self._candidacy, refused=self._refused)
        self._candidacy, self._is_resigning = "", False
        self._refused = None
        self._leader = None

    def _distrust(self) -> None:
        self._trusted_until = 0.0
        self._term = None

    async def _connected(self) -> Elections:
        if self._client is None:
            client = self._make()
            async with asyncio.timeout(OPEN_TIMEOUT):
                await client.open()
            self._client = client
        return self._client

    async def _wait(self) -> None:
        """Wait until the next campaign is due, `soon` is called, or the coordinator reports a change of the leader."""
        began = self.clock.elapsed()
        pace = self.interval * self.clock.random.uniform(0.75, 1.0)
        seconds = MAX_FOLLOWING * self._ttl if self._follows and self._client is not None else pace
        until = began + seconds
        signs: set[asyncio.Task[bool]] = {asyncio.create_task(self._woken.wait())}
        if self._client is not None:
            signs.add(asyncio.create_task(self._client.changed(seconds)))
        waiting = signs
        try:
            while waiting and (left := until - self.clock.elapsed()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None and task.result() for task in done):
                    break
                if done:  # the coordinator does not report changes now, so the node asks
                    until = min(until, began + pace)
        finally:
            await end(signs)
        await asyncio.sleep(max(0.0, min(MIN_WAIT, until - self.clock.elapsed())))
