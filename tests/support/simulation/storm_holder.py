"""The peers of a random program against the store contract: they claim, hold and commit; now and then one dies."""

from __future__ import annotations

import asyncio
from typing import Any

from peerjob.model.codec import encode_value
from peerjob.model.record import FINAL_STATE, Ack, Action, Claim, Claimed, LogLine, Outcome
from peerjob.model.spec import decode_spec
from peerjob.model.state import Level
from peerjob.testing.factories import LONG_TTL_US, Peer

from .evidence import Absence, Run
from .remains import SPOKEN
from .storm import KINDS, Storm
from .storm_durable import accepted, durable, spawn


class Holder:
    """One peer: claims, holds, commits; now and then it dies or leaves, and joins anew."""

    def __init__(self, storm: Storm, number: int) -> None:
        self._storm = storm
        self._chance = storm.chance_of(f"holder {number}")
        self._name = f"peer-{number}"
        self._held: list[tuple[Claim, Run]] = []
        self._peer: Peer
        self._ttl_us = 0

    async def work(self, rounds: int) -> None:
        """Do so many things."""
        await self._join(LONG_TTL_US)
        dies = self._chance.randrange(rounds)
        for number in range(rounds):
            if number == dies:
                await self._die()
            elif self._chance.random() < 0.02:
                await self._leave()
            await self._step()
            if self._chance.random() < 0.3:
                await asyncio.sleep(self._chance.random() / 500)

    async def finish(self) -> None:
        """Commit what is held, and do one more round."""
        await self._claim([])
        await self._commit(self._all())
        # as a node does with claims that it does not know: their answer was lost, or they were cancelled before it came
        held = (await self._peer.renew()).held or ()
        stranded = [Outcome(id=one.id, fence=one.fence, action=Action.HAND_BACK) for one in held]
        if stranded:
            await self._storm.quiet.commit(self._peer.incarnation, stranded, request=self._storm.make.request())

    async def leave(self) -> None:
        """Leave in order."""
        await self._peer.close()
        await self._storm.quiet.leave(self._peer.incarnation)

    async def reap(self) -> None:
        """Take back what dead peers held."""
        store, peer = self._storm.store, self._peer
        await self._storm.ask(self._chance, lambda: store.reap(10, reaper=peer.incarnation))

    async def _step(self) -> None:
        verb = self._chance.random()
        if self._storm.is_durable and self._held and self._chance.random() < 0.15:
            await spawn(self._storm, self._chance, self._peer, self._chance.choice(self._held)[0])
        elif verb < 0.35:
            await self._claim([])
        elif verb < 0.6:
            await self._claim(self._some())
        elif verb < 0.8:
            await self._commit(self._some())
        elif verb < 0.9:
            await self._report()
        else:
            await self.reap()

    async def _join(self, ttl_us: int, previous: str | None = None) -> None:
        storm = self._storm
        info = storm.make.node(self._name, KINDS)
        self._peer, self._ttl_us = Peer(store=storm.store, info=info, make=storm.make), ttl_us
        await storm.ask(self._chance, lambda: storm.store.join(info, ttl_us=ttl_us, previous=previous))

    async def _leave(self) -> None:
        storm, peer = self._storm, self._peer
        for _, run in self._held:
            run.end_us, run.ending = storm.clock.time_us(), "cancelled"
        self._held = []
        await storm.ask(self._chance, lambda: storm.store.leave(peer.incarnation))
        await self._join(LONG_TTL_US)

    async def _die(self) -> None:
        """Fall silent with claims until a peer has taken them back, then commit them all the same."""
        storm = self._storm
        await self._commit(self._all())
        await storm.quiet.leave(self._peer.incarnation)
        await self._join(storm.short_ttl_us)
        await self._claim([])
        from_us = storm.clock.time_us()
        await asyncio.sleep(storm.short_ttl_us * 2.5 / 1_000_000)
        storm.absences.append(
            Absence(node=self._peer.incarnation, why="paused", from_us=from_us, until_us=storm.clock.time_us())
        )
        await self._commit(self._all())
        await self._join(LONG_TTL_US, previous=self._peer.incarnation)

    async def _claim(self, outcomes: list[tuple[Outcome, Run]]) -> Claimed:
        """Commit outcomes and claim, in one turn."""
        storm, peer, request = self._storm, self._peer, self._storm.make.request()
        asked_us = storm.clock.time_us()
        want = peer.want(self._chance.choice((1, 2, 5, 20)), suspects=self._chance.random() < 0.8)
        if outcomes:
            given = [outcome for outcome, _ in outcomes]
            acks, claimed = await storm.ask(
                self._chance, lambda: storm.store.turn(peer.incarnation, given, want, request=request)
            )
            self._acked(outcomes, acks)
        else:
            claimed = await storm.ask(self._chance, lambda: storm.store.claim(peer.incarnation, want, request=request))
        if storm.clock.time_us() - asked_us < self._ttl_us:  # else the lease may be over: a node trusts it no more
            for claim in claimed.claims:
                self._held.append((claim, self._begun(claim)))
        return claimed

    def _begun(self, claim: Claim) -> Run:
        run = Run(
            id=claim.id,
            kind=claim.kind,
            node=self._peer.incarnation,
            fence=claim.fence,
            attempt=claim.attempts,
            tags=claim.tags,
            key=claim.key,
            begin_us=self._storm.clock.time_us(),
            token=decode_spec(claim.spec).arguments()[0][0],
        )
        self._storm.runs.append(run)
        return run

    def _some(self) -> list[tuple[Outcome, Run]]:
        chosen = [held for held in self._held if self._chance.random() < 0.7]
        return [self._outcome(*held) for held in chosen]

    def _all(self) -> list[tuple[Outcome, Run]]:
        return [self._outcome(*held) for held in self._held]

    async def _commit(self, outcomes: list[tuple[Outcome, Run]]) -> None:
        if not outcomes:
            return
        storm, peer, request = self._storm, self._peer, self._storm.make.request()
        given = [outcome for outcome, _ in outcomes]
        acks = await storm.ask(self._chance, lambda: storm.store.commit(peer.incarnation, given, request=request))
        self._acked(outcomes, acks)

    async def _report(self) -> None:
        storm, peer, request = self._storm, self._peer, self._storm.make.request()
        given = [
            Outcome(
                id=claim.id,
                fence=claim.fence,
                action=Action.REPORT,
                started=True,
                logs=(LogLine(1, Level.INFO, f"{SPOKEN}{run.token} goes on", claim.attempts, self._name),),
            )
            for claim, run in self._held
        ]
        if given:
            await storm.ask(self._chance, lambda: storm.store.commit(peer.incarnation, given, request=request))

    def _outcome(self, claim: Claim, run: Run) -> tuple[Outcome, Run]:
        """A random outcome; the body has ended with it."""
        self._held = [held for held in self._held if held[1] is not run]
        options: dict[str, Any] = {}
        action = self._chance.choices(
            (Action.COMPLETE, Action.RETRY, Action.TERMINATE, Action.SNOOZE, Action.HAND_BACK, Action.TIME_OUT),
            (60, 15, 5, 5, 10, 5),
        )[0]
        if action is Action.RETRY and claim.attempts > 2:
            action = Action.TERMINATE
        if self._storm.calm:
            action = Action.COMPLETE
        run.end_us = self._storm.clock.time_us()
        run.ending = "returned" if action is Action.COMPLETE else "raised"
        if action is Action.COMPLETE:
            run.result = [run.token, run.fence]
            options["result"] = encode_value(run.result)
        if action in (Action.RETRY, Action.SNOOZE):
            options["delay_us"] = self._chance.choice((0, 0, 5_000))
            options["note"] = f"retry {claim.attempts}" if action is Action.RETRY else "snoozed"
        if self._storm.is_durable:
            options |= durable(self._storm, self._chance, claim, action)
            action = options.pop("action", action)
            run.ending = "suspended" if action is Action.SUSPEND else run.ending
        if self._chance.random() < 0.3:
            options["logs"] = (LogLine(1, Level.INFO, f"{SPOKEN}{run.token} ended", claim.attempts, self._name),)
        return Outcome(id=claim.id, fence=claim.fence, action=action, **options), run

    def _acked(self, outcomes: list[tuple[Outcome, Run]], acks: list[Ack]) -> None:
        storm = self._storm
        for (outcome, _), ack in zip(outcomes, acks, strict=True):
            state = FINAL_STATE.get(outcome.action)
            if ack is Ack.DONE:
                accepted(storm, outcome)
            if ack is Ack.DONE and state is not None:
                if outcome.id in storm.ended:
                    storm.surprises.append(
                        f"{outcome.id} was accepted twice: {storm.ended[outcome.id]}, {outcome.fence}"
                    )
                storm.ended[outcome.id] = state, outcome.fence
