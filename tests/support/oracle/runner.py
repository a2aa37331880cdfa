"""Runs one program against the reference and an engine in lockstep."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from peerjob.model.firing import ScheduleRow
from peerjob.model.record import Ack, Renewed
from peerjob.model.state import State

from .calls import Calls, Given
from .choices import chosen_by
from .compare import Comparison, Raised, plain
from .damage import damage
from .engines import Engine
from .fire_generator import KINDS, SCHEDULES
from .known import Known, Made, ignored
from .leniency import answer, answer_of, state_of, without_ended, without_times
from .names import Ids, Side
from .program import NOTHING, Op, Program
from .races import Race
from .readback import Reading
from .reference import Reference
from .sleepers import Sleepers

BLURRED = "blurred"
GIVEN_UP_AFTER = 4
"""Steps of the event loop after which a call is given up, at most."""
REMEMBERED = 60
"""Seconds for which each store remembers an answer, and an incarnation that has ended."""
KEPT = 40
"""Calls that can still arrive late."""
MAY_BE_LATE = {"claim_on_hint", "commit", "renew", "put_schedule", "remove_schedule", "cancel", "run_now"}
"""Verbs of which an earlier call can arrive after a later one: it waited on a connection that its caller has left."""
OF_DAMAGED = ("ready/", "due/", "expiry/", "unique/", "k:", "q:", "s:", "delayed", "slots", "counters")
"""Beginnings of keys whose entries a damaged record can leave behind."""
UNLIKE_AGAIN = {"leave"}
"""Verbs whose repeated call tells less than the first one."""


@dataclass
class Verdict:
    """What a run found."""

    program: Program
    engine: str
    differences: list[str] = field(default_factory=list[str])
    at: int = -1
    """The operation after which the first difference was found."""
    blurred: bool = False
    """Whether a time fell into a call, so that the run ended without a judgement of the rest."""
    calls: Counter[str] = field(default_factory=Counter[str])
    longest_us: int = 0


class Found(Exception):
    """A difference between the two stores."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__("; ".join(texts))
        self.texts = texts


class Blurred(Exception):
    """A time fell into a call of the engine: neither answer is wrong."""


class Lockstep:
    """One run."""

    def __init__(self, program: Program, engine: Engine, reference: Reference) -> None:
        self._engine = engine
        self._reference = reference
        self._theirs = Side("engine", engine.store)
        self._ours = Side("reference", reference.store)
        self._known = Known(Ids(program.seed, engine.clock.time_us()))
        self._calls = Calls(self._known, engine.clock.time_us)
        self._done: list[tuple[Made, float]] = []
        """Calls that can be sent again, and when they were made."""
        self._sent: list[tuple[Made, float]] = []
        """The last calls that can arrive late, and when they were made."""
        self._sleepers = Sleepers()
        self._damaged: Counter[str] = Counter()
        """Kind → number of instances that were set aside."""
        self._aside = False
        """Whether an instance was set aside."""
        self._renewed: Renewed | None = None
        """The engine's answer to the last renewal."""
        self._reaped = 0
        """How many claims the last call took back."""
        self.verdict = Verdict(program, engine.name)

    async def run(self) -> Verdict:
        """Perform all operations, then remove everything; ends at the first difference."""
        verdict = self.verdict
        try:
            for number, op in enumerate(verdict.program.ops):
                verdict.at = number
                if op.verb != NOTHING:
                    await self._perform(number, op)
            verdict.at = len(verdict.program.ops)
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

    async def _perform(self, number: int, op: Op) -> None:
        oracle: dict[str, Callable[[Given], Any]] = {
            "check": self._check,
            "pass": self._pass,
            "again": self._again,
            "late": self._late,
            "damage": self._damage,
            "race": self._race,
            "idle": self._idle,
        }
        if op.verb in oracle:
            await oracle[op.verb](op.given)
            return
        await self._read_schedules()
        made = self._calls.made(number, op.verb, op.given)
        if op.verb == "watch_final" and not self._known.instances:
            return
        if op.verb == "renew" and made.incarnation not in self._theirs.livenesses:
            await self._theirs.liveness(made.incarnation)
            await self._engine.know_clock()
        if op.verb in ("campaign", "resign"):
            await self._theirs.election()
        await self._exchange(made, op.how)
        while op.verb == "reap" and self._reaped == op.given["limit"]:
            # *Choice*: a reap that has reached its limit may leave other incarnations for the next one
            await self._exchange(made)
        if not made.once and made.verb not in UNLIKE_AGAIN:
            self._done.append((made, self._engine.clock.elapsed()))
        if made.verb in MAY_BE_LATE:
            self._sent = [*self._sent, (made, self._engine.clock.elapsed())][-KEPT:]

    async def _read_schedules(self) -> None:
        rows = await self._ours.store.get_schedules(SCHEDULES)
        self._known.schedules = {row.name: row for row in rows if row is not None}

    # -- one call of both stores

    async def _exchange(self, made: Made, how: str = "") -> None:
        if made.once or made.verb in UNLIKE_AGAIN:
            how = ""
        await self._engine.tick()
        await self._both(made, how)
        if how == "repeated":
            await self._both(made, how)
        if made.over:
            await self._engine.end_lease(made.incarnation)

    async def _both(self, made: Made, how: str) -> None:
        """Make the call on the engine, then on the reference, and compare the answers."""
        self.verdict.calls[made.verb] += 1
        before_us = self._engine.clock.time_us()
        if how == "cancelled":
            await self._given_up(made)
        theirs = await answer(made.call, self._theirs)
        self._measure(before_us, self._engine.clock.time_us())
        chosen = chosen_by(made.verb, theirs)
        after_us = self._engine.clock.time_us()
        if made.verb == "expire":
            self._reference.at(after_us)
            chosen.gone = await self._gone(self._reference.removable())
        self._reference.follow(chosen)
        finals = self._reference.finals()
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
        self._reaped = len(chosen.reaped or ())
        self._learn(made, {self._ours: ours, self._theirs: theirs})
        if made.verb == "put_schedule" and (ours is None) != (theirs is None):
            # *Choice*: the same put again answers None or the row, and changes nothing
            side, written = (self._ours, theirs) if ours is None else (self._theirs, ours)
            (row,) = await side.store.get_schedules([cast("ScheduleRow", written).name])
            ours, theirs = ours or row, theirs or row
        found = chosen.objections + self._compare(made.verb, ours, theirs, how)
        if found:
            raise Found(found)
        if made.moves:
            await self._hear()

    def _compare(self, verb: str, ours: Any, theirs: Any, how: str) -> list[str]:
        if how == "late" and verb == "commit" and isinstance(theirs, list) and isinstance(ours, list):
            theirs = without_ended(cast("list[Ack]", ours), cast("list[Ack]", theirs))
        if how == "late" and verb == "cancel" and isinstance(theirs, list) and isinstance(ours, list):
            # *Choice*: the answer about an instance that was removed since is None, or the first one
            pairs = zip(cast("list[State | None]", ours), cast("list[State | None]", theirs), strict=True)
            theirs = [our if their is None else their for our, their in pairs]
        wanted, got = (
            plain(ours, self._ours),
            self._without_damaged(plain(ours, self._ours), plain(theirs, self._theirs)),
        )
        if verb == "enqueue" and how == "cancelled" and isinstance(wanted, list) and isinstance(got, list):
            wanted, got = ([{**one, "repeated": "either"} for one in side] for side in (wanted, got))
        if verb == "renew" and self._damaged and isinstance(wanted, dict) and isinstance(got, dict):
            # *Choice*: the claim of a damaged instance ends with its record, or with the outcome of the run
            wanted, got = ({**cast("dict[str, Any]", one), "held": None} for one in (wanted, got))
        if verb == "watch_final" and isinstance(wanted, list) and isinstance(got, list):
            wanted, got = ([state_of(one) for one in side] for side in (wanted, got))
        if how in ("repeated", "again") or self._damaged:
            # *Choice*: a claim that comes to the entries of damaged instances need not tell when the next one is due
            wanted, got = without_times(wanted), without_times(got)
        return self._comparison().differences(wanted, got, verb)

    def _comparison(self) -> Comparison:
        return Comparison(self.verdict.longest_us, self._engine.lease_slack_us)

    def _learn(self, made: Made, answers: Mapping[Side, Any]) -> None:
        if not any(isinstance(answer, Raised) for answer in answers.values()):
            made.learn(answers)
            if made.want is not None:
                answer = answers[self._theirs]
                claimed = answer[1] if made.verb == "turn" else answer
                self._sleepers.note(made.incarnation, made.want, claimed)

    def _measure(self, before_us: int, after_us: int) -> None:
        """Keep how long a call took, and set the clock of the reference; ends the run if a time fell into the call."""
        self.verdict.longest_us = max(self.verdict.longest_us, after_us - before_us)
        if before_us < after_us and any(before_us <= one <= after_us for one in self._reference.thresholds()):
            raise Blurred
        self._reference.at((before_us + after_us) // 2)

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
        after_us = self._engine.clock.time_us()
        if any(before_us <= one <= after_us for one in self._reference.thresholds() if before_us < after_us):
            raise Blurred
        self.verdict.calls["check"] += 1
        ours = await reading.of(self._ours)
        if found := self._comparison().differences(ours, self._without_damaged(ours, theirs), "read"):
            raise Found(found)

    async def _pass(self, given: Given) -> None:
        if await self._engine.pass_time(given["seconds"]):
            self._reference.at(self._engine.clock.time_us())
            self._sleepers.wake_all()
            for node in self._known.nodes.values():
                node.forgotten |= given["seconds"] > REMEMBERED

    async def _again(self, given: Given) -> None:
        """Send an earlier call again, if its caller has not sent a later one of that verb."""
        if len(self._done) < given["back"]:
            return
        made, at = self._done[-given["back"]]
        later = [one for one, _ in self._done[len(self._done) - given["back"] + 1 :]]
        same = [one for one in later if (one.verb, one.incarnation) == (made.verb, made.incarnation)]
        if same or self._engine.clock.elapsed() - at > REMEMBERED:
            return
        made = replace(made, learn=made.learn if made.want else ignored)
        await self._exchange(made, "again")

    async def _late(self, given: Given) -> None:
        """Deliver an earlier call whose caller has sent a later one of that verb, or has ended."""
        now, ended = self._engine.clock.elapsed(), set(self._known.ended)
        callers = [(made.verb, made.incarnation) for made, _ in self._sent]
        late = [
            made
            for number, (made, at) in enumerate(self._sent)
            if now - at <= REMEMBERED
            and (made.verb != "claim_on_hint" or self._engine.waits_on_server)
            and (made.incarnation in ended if made.verb == "renew" else callers[number] in callers[number + 1 :])
        ]
        if not late:
            return
        made = replace(late[given["pick"] % len(late)], learn=ignored, want=None)
        # the store remembers the answer to one request of a caller, so the present one cannot come again
        caller = (made.verb, made.incarnation)
        self._done = [one for one in self._done if (one[0].verb, one[0].incarnation) != caller]
        await self._exchange(made, "late")

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
        self._reference.set_aside(id)
        self._damaged[self._known.kinds[id]] += 1
        self._aside = True
        # *Choice*: the logs of the instance stay for an operator, or go with its record
        self._known.instances.remove(id)
        # a parked instance can become due, of which a read wakes no node
        self._sleepers.wake_all()

    def _without_damaged(self, ours: Any, theirs: Any) -> Any:
        """What the engine tells. *Choice*: `due` can count a damaged instance until a claim comes to its entry."""
        if not self._damaged or not isinstance(ours, dict) or not isinstance(theirs, dict):
            return theirs
        wanted, found = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
        for name in [name for name in found if name.split(" ", maxsplit=1)[0] == "due" and name in wanted]:
            counts = {
                kind: self._undamaged(kind, wanted[name].get(kind, 0), count) for kind, count in found[name].items()
            }
            found = {**found, name: {kind: count for kind, count in counts.items() if count}}
        return found

    def _undamaged(self, kind: str, wanted: int, found: int) -> int:
        return wanted if wanted <= found <= wanted + self._damaged[kind] else found

    async def _race(self, given: Given) -> None:
        await self._read_schedules()
        first = 100_000 + 100 * self.verdict.at
        mades = [self._calls.made(first + number, verb, taken) for number, (verb, taken) in enumerate(given["ops"])]
        # an incarnation has one unanswered request of a verb at most
        mades = list({(made.verb, made.incarnation or number): made for number, made in enumerate(mades)}.values())
        race = Race(mades, self._ours, self._theirs, self._known, self._reference)
        await self._engine.tick()
        before_us = self._engine.clock.time_us()
        await race.run(answer_of, self._engine.clock.time_us)
        self._measure(before_us, self._engine.clock.time_us())
        self.verdict.calls.update(f"{made.verb} in a race" for made in mades)
        gone = await self._gone(self._reference.instances())

        def compare(made: Made, ours: Any, theirs: Any) -> list[str]:
            return self._compare(made.verb, ours, theirs, "")

        if found := await race.judge(answer_of, compare, gone):
            raise Found(found)
        self._sleepers.wake_all()
        self._done += [(made, self._engine.clock.elapsed()) for made in mades if not made.once]

    async def _idle(self, given: Given) -> None:
        """Compare what the renewals of all nodes say."""
        for number in sorted(self._known.nodes):
            await self._perform(0, Op("renew", {"node": number}))

    async def _hear(self) -> None:
        """Hold that idle incarnations hear of due work, by a hint or by the next renewal of one of them."""
        for incarnation in list(self._sleepers.kinds):
            if not self._reference.is_alive(incarnation):
                self._sleepers.wake(incarnation)
        unheard = await self._sleepers.unheard(self._engine.store, self._reference.ready_kinds())
        for kind, able in unheard.items():
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
        store, known = self._engine.store, self._known
        await store.clear()
        incarnations = [*known.ended, *(node.incarnation for node in known.nodes.values())]
        for incarnation in incarnations:
            await store.leave(incarnation)
        for name in SCHEDULES:
            await store.remove_schedule(name, request=known.ids.request(900_000))
        for _ in range(8):
            await store.expire(1_000)
        await store.health()  # the read of the counters corrects them, if a call was given up
        left = await self._engine.leftovers(incarnations)
        # *Choice*: what a damaged record cannot tell stays until a claim or an enqueue comes to it
        left = [one for one in left if not self._aside or not one.startswith(OF_DAMAGED)]
        if left:
            raise Found([f"left over: {left}"])
