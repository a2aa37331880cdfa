"""Runs one program against the reference and an engine in lockstep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

from peerjob.model.firing import ScheduleRow
from peerjob.model.record import Renewed

from .calls import Calls, Given
from .choices import chosen_by
from .compare import Comparison, Raised, plain
from .damage import Damaged, damage, stray
from .ends import end_instances
from .engines import Engine
from .fire_generator import KINDS, SCHEDULES
from .flow_calls import settle
from .known import Known, Made
from .leniency import alike, answer, answer_of
from .limit_calls import limits_of, unlimit
from .moments import Moments
from .names import Ids, Side
from .program import NOTHING, Op, Program
from .races import Race
from .readback import Reading
from .reference import Reference
from .repeats import REMEMBERED, UNLIKE_AGAIN, Repeats
from .sleepers import Sleepers
from .verdict import Blurred, Found, Verdict

GIVEN_UP_AFTER = 4
"""Steps of the event loop after which a call is given up, at most."""


class Lockstep:
    """One run."""

    def __init__(self, program: Program, engine: Engine, reference: Reference) -> None:
        self._engine = engine
        self._reference = reference
        self._theirs = Side("engine", engine.store)
        self._ours = Side("reference", reference.store)
        self._known = Known(Ids(program.seed, engine.clock.time_us()))
        self._calls = Calls(self._known, engine.clock.time_us)
        self._moments = Moments(engine, reference)
        self._repeats = Repeats()
        self._sleepers = Sleepers()
        self._damaged = Damaged()
        self._after_end: set[str] = set()
        """Incarnations that made a call after they left, or were marked as dead."""
        self._left: set[str] = set()
        self._gave_up = False
        """Whether a call was given up."""
        self._renewed: Renewed | None = None
        """The engine's answer to the last renewal."""
        self.verdict = Verdict(program, engine.name)

    async def run(self) -> Verdict:
        """Perform all operations, then remove everything; ends at the first difference."""
        verdict = self.verdict
        try:
            for number, op in enumerate(verdict.program.ops):
                verdict.at = number
                if op.verb != NOTHING:
                    await self._step_over()
                    await self._perform(number, op)
                    if wrong := self._reference.broken():
                        raise Found(wrong)
            verdict.at = len(verdict.program.ops)
            await self._step_over()
            await self._check({"seed": verdict.program.seed}, whole=True)
            await self._end()
        except Found as found:
            verdict.differences = found.texts
        except Blurred:
            verdict.blurred = True
        finally:
            await self._ours.close()
            await self._theirs.close()
        return verdict

    async def _step_over(self) -> None:
        if await self._moments.step_over(self.verdict.longest_us):
            self._reference.at(self._engine.clock.time_us())
            self._sleepers.wake_all()

    async def _perform(self, number: int, op: Op) -> None:
        oracle: dict[str, Callable[[Given], Any]] = {
            "check": self._check,
            "pass": self._pass,
            "again": self._again,
            "late": self._late,
            "damage": self._damage,
            "stray": self._stray,
            "race": self._race,
            "rounds": self._rounds,
            "idle": self._idle,
        }
        if op.verb in oracle:
            await oracle[op.verb](op.given)
            return
        await self._read_schedules()
        if op.given.get("holder") and not any(self._known.held.values()):
            claim = {"node": op.given["node"], "kinds": dict.fromkeys(KINDS, 2), "limit": 3}
            await self._exchange(self._calls.made(2_000_000 + number, "claim", claim))
        if op.given.get("ready"):
            await self._make_ready(number, op.given["fires"])
        made = self._calls.made(number, op.verb, op.given)
        if op.verb == "watch_final" and not self._known.instances:
            return
        await self._open_liveness(made)
        if op.verb in ("campaign", "resign"):
            await self._theirs.election()
        theirs = await self._exchange(made, op.how)
        reaped: Any = theirs
        while op.verb == "reap" and not isinstance(reaped, Raised) and len(reaped) == op.given["limit"]:
            # *Choice*: a reap that has reached its limit may leave other incarnations for the next one
            reaped = await self._exchange(made)
        self._repeats.note(made, self._engine.clock.elapsed(), theirs)

    async def _open_liveness(self, made: Made) -> None:
        if made.verb == "renew" and made.incarnation not in self._theirs.livenesses:
            await self._theirs.liveness(made.incarnation)
            await self._engine.know_clock()

    async def _make_ready(self, number: int, fires: Iterable[Given]) -> None:
        """Put the schedules of fires that have no next time, so that the fires can be done."""
        for name, outcome in {one["name"]: one["outcome"] for one in fires}.items():
            row = self._known.schedules.get(name)
            if row is None or row.next_us is None or (row.paused and outcome != "paused"):
                put = {"name": name, "kind": KINDS[0], "next": 0}
                await self._exchange(self._calls.made(4_000_000 + number, "put_schedule", put))
                await self._read_schedules()

    async def _read_schedules(self) -> None:
        rows = await self._ours.store.get_schedules(SCHEDULES)
        self._known.schedules = {row.name: row for row in rows if row is not None}

    # -- one call of both stores

    async def _exchange(self, made: Made, how: str = "", first: Any = None) -> Any:
        """Make a call, once or twice; returns the first answer of the engine."""
        if made.once or made.verb in UNLIKE_AGAIN:
            how = ""
        await self._engine.tick()
        self._note_late_callers([made])
        if how not in ("again", "late"):
            self._reference.note_empty(made)
        theirs = await self._both(made, how, first)
        if how == "repeated":
            await self._both(made, how)
        if made.over:
            await self._engine.end_lease(made.incarnation)
        return theirs

    async def _both(self, made: Made, how: str, first: Any = None) -> Any:
        """Make the call on the engine, then on the reference, and compare the answers."""
        self.verdict.calls[made.verb] += 1
        before_us = self._engine.clock.time_us()
        if how == "cancelled":
            self._gave_up = True
            await self._given_up(made)
            if self._known.flowing:
                # the call that was given up may have ended parents, and a repeated turn then claims before it settles
                await settle(self._engine.store)
        theirs = await answer(made.call, self._theirs)
        after_us = self._engine.clock.time_us()
        self._measure(before_us, after_us)
        slack_us = self.verdict.longest_us
        chosen = chosen_by(made.verb, theirs, (before_us - slack_us, after_us + slack_us))
        if made.verb == "expire":
            self._reference.at(after_us)
            chosen.gone = await self._gone(self._reference.removable())
        self._reference.follow(chosen)
        finals, ready = self._reference.finals(), self._reference.ready()
        may_be_linked = self._reference.linked(made.untold) or not self._known.durable.isdisjoint(made.untold)
        before = self._reference.copied() if may_be_linked else None
        ours = await answer(made.call, self._ours)
        if before is not None and chosen.objections:
            # *Choice*: a turn that does not tell that an instance is linked can claim before it writes its outcomes
            self._reference.adopt(before)
            chosen = chosen_by(made.verb, theirs)
            chosen.claims_first = True
            self._reference.follow(chosen)
            ours = await answer(made.call, self._ours)
        if made.removes:
            # *Choice*: each step that ends instances can remove others
            chosen.may_remove = max(chosen.may_remove, 2 * (self._reference.finals() - finals))
        if chosen.may_remove:
            # a step after the one that ended an instance can find that its retention is over
            self._reference.at(after_us)
            gone = await self._gone(self._reference.removable())
            self._reference.remove(gone)
            if len(gone) > chosen.may_remove:
                chosen.objections.append(f"removed {len(gone)} instances, and may remove {chosen.may_remove}")
        if isinstance(theirs, Renewed):
            self._renewed = theirs
        self._learn(made, {self._ours: ours, self._theirs: theirs}, how)
        if made.verb == "put_schedule" and (ours is None) != (theirs is None):
            # *Choice*: the same put again answers None or the row, and changes nothing
            side, written = (self._ours, theirs) if ours is None else (self._theirs, ours)
            (row,) = await side.store.get_schedules([cast("ScheduleRow", written).name])
            ours, theirs = ours or row, theirs or row
        found = chosen.objections + self._compare(made, ours, theirs, how, first)
        if found:
            raise Found(found)
        if made.moves:
            queued = self._reference.ready() - ready if made.verb == "enqueue" else ()
            await self._hear(made, how, self._reference.room_for(queued))
        return theirs

    def _compare(self, made: Made, ours: Any, theirs: Any, how: str = "", first: Any = None) -> list[str]:
        present = self._reference.instances()
        moments = self._reference.moments()
        ours, theirs = alike(
            made, ours, theirs, how, first=first, present=present, damaged=self._damaged, moments=moments
        )
        return self._comparison().differences(plain(ours, self._ours), plain(theirs, self._theirs), made.verb)

    def _comparison(self) -> Comparison:
        return Comparison(self.verdict.longest_us, self._engine.lease_slack_us)

    def _learn(self, made: Made, answers: Mapping[Side, Any], how: str) -> None:
        if not any(isinstance(answer, Raised) for answer in answers.values()):
            made.learn(answers)
            self._known.logged |= dict.fromkeys(made.logged)
            if made.want is not None:
                answer = answers[self._theirs]
                claimed = answer[1] if made.verb == "turn" else answer
                if how in ("again", "late"):
                    # a store that remembers the answer does not register the incarnation again
                    self._sleepers.may_be_idle(made.incarnation, made.want)
                else:
                    self._sleepers.note(made.incarnation, made.want, claimed)

    def _measure(self, before_us: int, after_us: int) -> None:
        """Keep how long a call took, and set the clock of the reference; ends the run if a time fell into the call."""
        self.verdict.longest_us = max(self.verdict.longest_us, after_us - before_us)
        if self._moments.fall_into(before_us, after_us, self.verdict.longest_us):
            raise Blurred
        self._reference.at((before_us + after_us) // 2)

    def _changed(self, since_us: int) -> bool:
        """Whether something can have changed by itself since a time."""
        return self._moments.fall_into(since_us, self._engine.clock.time_us(), self.verdict.longest_us)

    async def _gone(self, candidates: Collection[str]) -> frozenset[str]:
        """The instances that the engine does not have any more."""
        ids = sorted(candidates)
        records = await self._engine.store.get(ids) if ids else []
        return frozenset(id for id, record in zip(ids, records, strict=True) if record is None)

    async def _given_up(self, made: Made) -> None:
        """Begin a call of the engine, and cancel it while it is under way."""
        call = asyncio.ensure_future(answer(made.call, self._theirs))
        for _ in range(1 + sum(self.verdict.calls.values()) % GIVEN_UP_AFTER):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])

    # -- verbs of the oracle

    async def _check(self, given: Given, *, whole: bool = False) -> None:
        """Compare all that can be read."""
        self._reference.at(self._engine.clock.time_us())
        reading = Reading(self._known, SCHEDULES, KINDS, given["seed"], whole=whole)
        before_us = self._engine.clock.time_us()
        theirs = await reading.of(self._theirs)
        if self._changed(before_us):
            raise Blurred
        self.verdict.calls["check"] += 1
        ours = await reading.of(self._ours)
        for name in [name for name in theirs if name.split(" ", maxsplit=1)[0] == "due"]:
            theirs[name] = self._damaged.due(ours[name], theirs[name])
        if found := self._comparison().differences(ours, theirs, "read"):
            raise Found(found)
        if not self.verdict.calls["damage"] and (wrong := await self._engine.inconsistent(gave_up=self._gave_up)):
            raise Found([f"stored: {one}" for one in wrong])

    async def _pass(self, given: Given) -> None:
        if await self._engine.pass_time(given["seconds"]):
            self._reference.at(self._engine.clock.time_us())
            self._sleepers.wake_all()
            for node in self._known.nodes.values():
                node.forgotten |= given["seconds"] > REMEMBERED

    async def _again(self, given: Given) -> None:
        """Send an earlier call again."""
        made = self._repeats.again(given["back"], self._engine.clock.elapsed())
        # *Choice*: whether a store still knows the answers to an incarnation that has left
        if made is not None and made.incarnation not in self._left:
            await self._exchange(made, "again")

    async def _late(self, given: Given) -> None:
        """Deliver an earlier call late."""
        now, waits = self._engine.clock.elapsed(), self._engine.waits_on_server
        sent = self._repeats.late(given["pick"], now, set(self._known.ended), waits_on_server=waits)
        if sent is None:
            return
        made = sent.made
        reports = self._known.flowing and self._reference.running() & {*made.ids}
        if made.verb == "commit" and (made.logged or made.releases or reports):
            # *Choice*: an engine still knows an earlier commit that comes late, or does again what does not end a claim
            return
        await self._exchange(sent.made, "late", sent.answer)

    async def _damage(self, given: Given) -> None:
        """Damage the record of an instance; the engine finds that at the next read, and sets the instance aside."""
        ids = sorted(self._reference.instances())
        if not ids:
            return
        id = ids[given["pick"] % len(ids)]
        await self._engine.tick()
        await damage(self._engine.store, id)
        self.verdict.calls["damage"] += 1
        before_us = self._engine.clock.time_us()
        if await self._engine.store.get([id]) != [None]:
            raise Found([f"damage: the engine reads the damaged record of {id}"])
        self._measure(before_us, self._engine.clock.time_us())
        self._reference.set_aside(id, self._damaged)
        # *Choice*: the logs of the instance stay for an operator, or go with its record
        self._known.instances = [known for known in self._known.instances if known != id]
        # a parked instance can become due, of which a read wakes no node
        self._sleepers.wake_all()

    async def _stray(self, given: Given) -> None:
        """Fill a limit with what belongs to no instance; a check frees it, and wakes an idle node for what waits."""
        views = [view for view in await limits_of(self._ours.store, 100) if view.name and view.remaining]
        ready = {view.name: [kind for kind in view.kinds if self._reference.remaining(kind)] for view in views}
        if not (views := [view for view in views if view.concurrency and ready[view.name]]):
            return
        view, number = views[given["pick"] % len(views)], 3_000_000 + self.verdict.at
        kind = ready[view.name][given["pick"] % len(ready[view.name])]
        await self._perform(number, Op("join", {"node": given["node"], "kinds": [kind]}))
        await self._perform(number, Op("enqueue", {"works": [{"n": number, "kind": kind, "spec": 8}]}))
        (view,) = [one for one in await limits_of(self._ours.store, 100) if one.name == view.name]
        await stray(self._engine.store, view, kind)
        claim = self._calls.made(number, "claim", {"node": given["node"], "kinds": {kind: 5}, "limit": 1})
        claimed = await answer(claim.call, self._theirs)
        if claimed.claims:
            raise Found([f"stray: claimed {claimed.claims}, and limit {view.name!r} is full"])
        known = [*self._known.ended, *(node.incarnation for node in self._known.nodes.values())]
        # *Choice*: the hint can go to an idle incarnation whose lease is over, until it is reaped
        able = [incarnation for incarnation in known if not self._reference.has_ended(incarnation)]
        await self._sleepers.drain(self._engine.store, able)
        if claim.want is not None:
            self._sleepers.may_be_idle(claim.incarnation, claim.want)
        check = self._calls.made(number, "check_limits", {})
        freed, wanted = await answer(check.call, self._theirs), await answer(check.call, self._ours)
        if freed != wanted + view.remaining:
            raise Found([f"stray: the check freed {freed}, and {view.remaining} belonged to no instance"])
        self.verdict.calls["stray"] += 1
        if not await self._sleepers.hears(self._engine.store, able):
            raise Found([f"stray: no hint tells of the room that the check has freed for kind {kind!r}"])

    async def _race(self, given: Given) -> None:
        first = 100_000 + 100 * self.verdict.at
        if "node" in given:
            await self._occupy(first, given)
        await self._read_schedules()
        mades = [self._calls.made(first + number, verb, taken) for number, (verb, taken) in enumerate(given["ops"])]
        # an incarnation has one unanswered request of a verb at most
        mades = list({(made.verb, made.incarnation or number): made for number, made in enumerate(mades)}.values())
        for made in mades:
            await self._open_liveness(made)
        race = Race(mades, self._ours, self._theirs, self._known, self._reference)
        await self._engine.tick()
        before_us = self._engine.clock.time_us()
        await race.run(answer_of, self._engine.clock.time_us)
        if self._known.flowing:
            await settle(self._engine.store)
        self._measure(before_us, self._engine.clock.time_us())
        self.verdict.calls.update(f"{made.verb} in a race" for made in mades)
        gone = await self._gone(self._reference.instances())

        if found := await race.judge(answer_of, self._compare, gone, self._changed):
            raise Found(found)
        self._sleepers.wake_all()
        for made in mades:
            if made.want is not None:
                self._sleepers.may_be_idle(made.incarnation, made.want)
        self._repeats.note_race(mades, self._engine.clock.elapsed())
        self._note_late_callers(mades)

    async def _occupy(self, first: int, given: Given) -> None:
        """Give the node of a race claims, unless it has some, and perhaps let its lease end."""
        node, known = given["node"], self._known
        for number in (node, given["peer"]):
            if not self._reference.is_alive(known.incarnation(number)):
                await self._perform(first + 90 + number, Op("join", {"node": number, "kinds": [*KINDS]}))
        if not known.held.get(known.incarnation(node)):
            works = [{"n": 50 * first + place, "kind": KINDS[0], "spec": 8} for place in range(given["claims"])]
            await self._perform(first + 80, Op("enqueue", {"works": works}))
            claim = {"node": node, "kinds": dict.fromkeys(KINDS, 5), "limit": given["claims"]}
            await self._perform(first + 81, Op("claim", claim))
        if given["started"]:
            report = {"of": "held", "pick": 0, "action": "report", "started": True}
            await self._perform(first + 82, Op("commit", {"node": node, "outcomes": [report]}))
        if given["lapsed"]:
            over = {"node": node, "kinds": [*KINDS], "new": False, "over": True}
            await self._perform(first + 83, Op("join", over))

    async def _rounds(self, given: Given) -> None:
        """Claim the first instance and hand it back, again and again, so that its history becomes long."""
        node, first = given["node"], 1_000_000 + 100 * self.verdict.at
        claim = {"node": node, "kinds": dict.fromkeys(KINDS, 1), "limit": 1, "suspects": False}
        back = {"of": "held", "pick": -1, "action": "hand_back", "note": given["note"]}
        for number in range(given["times"]):
            await self._perform(first + 2 * number, Op("claim", claim))
            await self._perform(first + 2 * number + 1, Op("commit", {"node": node, "outcomes": [back]}))

    async def _idle(self, given: Given) -> None:
        """Compare what the renewals of all nodes say."""
        for number in sorted(self._known.nodes):
            await self._perform(0, Op("renew", {"node": number}))

    async def _hear(self, made: Made, how: str, queued: Mapping[str, int]) -> None:
        """Hold that an idle incarnation has a hint of due work; `queued` has the kinds that the call has queued.

        Its next renewal can tell instead if the caller gave the call up, or if the hint went to one that waits no more.
        An incarnation that leaves does not pass on the hints that it has not read.
        """
        for incarnation in list(self._sleepers.kinds):
            if not self._reference.is_alive(incarnation):
                self._sleepers.is_absent(incarnation)
        for incarnation in self._sleepers.absent:
            if self._reference.has_ended(incarnation):
                self._sleepers.has_ended(incarnation, may_be_told=made.verb in ("leave", "reap"))
        store, kinds = self._engine.store, self._reference.ready_kinds()
        unheard = await self._sleepers.unheard(store, kinds, queued)
        for kind, able in unheard.items():
            others = kinds[kind] if kind in queued else [kind]
            told = [await self._sleepers.is_told(store, other) for other in others]
            if not (how == "cancelled" or any(told)):
                raise Found([f"no hint tells any of {able} of due work of kind {kind!r}"])
            if any(told):
                self._sleepers.is_known(kind)
            if not await self._renewal_tells(able):
                raise Found([f"no hint and no renewal tells any of {able} of due work of kind {kind!r}"])

    async def _renewal_tells(self, able: list[str]) -> bool:
        """Whether a renewal of one of these incarnations says that work is due, or leaves that to the node."""
        numbers = [number for number, node in self._known.nodes.items() if node.incarnation in able]
        for number in numbers:
            await self._perform(0, Op("renew", {"node": number}))
            if self._renewed is None or self._renewed.work_due is not False:
                return True
        return len(numbers) < len(able)

    # -- the end

    async def _end(self) -> None:
        """Remove everything, let all nodes leave, and look for what is left."""
        store, known, ids = self._engine.store, self._known, sorted(self._reference.instances())
        is_damaged = self.verdict.calls["damage"] > 0
        if is_damaged:
            # *Choice*: which other verb removes what belongs to a damaged instance
            await store.clear()
        incarnations = [*known.ended, *(node.incarnation for node in known.nodes.values())]
        for incarnation in incarnations:
            await store.leave(incarnation)
        if not is_damaged:
            await end_instances(store, ids, known.ids.request(910_000))
            if stay := {*ids} - await self._gone(ids):
                raise Found([f"not removed at the end: {sorted(stay)}"])
        for name in SCHEDULES:
            await store.remove_schedule(name, request=known.ids.request(900_000))
        if known.limited:
            await unlimit(store, KINDS)
        for _ in range(8):
            await store.expire(1_000)
        await store.health()  # the read of the counters corrects them, if a call was given up
        left = await self._engine.leftovers(incarnations)
        left = [one for one in self._damaged.left(left) if not self._is_late_answer(one)]
        if left:
            raise Found([f"left over: {left}"])

    def _note_late_callers(self, mades: Iterable[Made]) -> None:
        for made in mades:
            if made.verb == "leave":
                self._left.add(made.incarnation)
            elif self._reference.has_ended(made.incarnation):
                self._after_end.add(made.incarnation)

    def _is_late_answer(self, entry: str) -> bool:
        """Whether an entry is the answer to a call of an incarnation that had ended: it expires."""
        part, _, rest = entry.partition("/")
        return part == "journal" and rest.partition("/")[0] in self._after_end
