"""Makes of an operation the call of a schedule, of a fire, or of the leadership."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from msgspec.structs import replace

from peerjob.model.firing import Candidate, Fire, FireOutcome, FireRecord, Overlap, SchedulePut, Term
from peerjob.model.record import NewInstance

from .known import Answers, Known, Made
from .names import Side

PERIOD_US = 60_000_000
MAKES_INSTANCE = ("fired", "backfilled", "triggered")

Given = Mapping[str, Any]


class ScheduleCalls:
    """The calls about schedules."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def instance(self, work: Given) -> NewInstance:
        """The instance that an operation describes."""
        raise NotImplementedError

    def nominal_us(self, number: int) -> int:
        """A nominal time of a program: so many minutes after an hour before its start, to the minute."""
        start_us = self._known.ids.start_us - 60 * PERIOD_US
        return (start_us // PERIOD_US + number) * PERIOD_US

    def _put_schedule(self, request: str, given: Given) -> Made:
        known, name = self._known, given["name"]
        row, places = known.schedules.get(name), known.rows.get(name, [])
        place = places[given.get("back", -1) % len(places)] if places and given.get("expected", True) else None
        first_us = self.nominal_us(0) if row is None else row.next_us or row.last_us + PERIOD_US
        account = self._account(given["account"], first_us, request) if row is not None and "account" in given else None
        if account is not None:
            first_us = max(account.nominal_us, account.until_us) + PERIOD_US
        next_us = None if given.get("next") is None else first_us + given["next"] * PERIOD_US
        expected_next_us = None if row is None else row.next_us
        if given.get("wrong_next"):
            expected_next_us = self.nominal_us(-7)

        def put(side: Side) -> SchedulePut:
            return SchedulePut(
                name=name,
                kind=given["kind"],
                definition=f"definition {given.get('definition', 0)}".encode(),
                next_us=next_us,
                paused=given.get("paused", False),
                note=given.get("note", ""),
                expected=0 if place is None else side.revision(place),
                expected_next_us=expected_next_us,
                trimmed_us=self.nominal_us(given["trimmed"]) if "trimmed" in given else 0,
                account=account,
            )

        def learn(answers: Answers) -> None:
            if all(answer is not None for answer in answers.values()):
                known.revised(name, answers)

        return Made("put_schedule", lambda side: side.store.put_schedule(put(side)), learn)

    def _account(self, given: Given, first_us: int, request: str) -> FireRecord:
        """The record of the nominal times that a put passes over: the next ones of the schedule."""
        count = given["count"]
        return FireRecord(
            nominal_us=first_us,
            outcome=FireOutcome(given["outcome"]),
            until_us=first_us + (count - 1) * PERIOD_US if count > 1 else 0,
            count=count,
            reason=given.get("reason", ""),
            request=request,
        )

    def _remove_schedule(self, request: str, given: Given) -> Made:
        known, name = self._known, given["name"]
        places = known.rows.get(name, [])
        place = places[given["back"] % len(places)] if places and "back" in given else None

        async def call(side: Side) -> bool:
            expected = side.revision(place) if place is not None else None
            return await side.store.remove_schedule(name, expected=expected, request=request)

        return Made("remove_schedule", call)

    def _fire(self, request: str, given: Given) -> Made:
        known = self._known
        upcoming = {name: row.next_us for name, row in known.schedules.items()}
        fires = [self._one_fire(one, f"{request}{number}", upcoming) for number, one in enumerate(given["fires"])]
        distinct = {(fire.schedule, fire.nominal_us): (fire, place) for fire, place in fires}
        term = Term(given["coordinator"], given["term"]) if "term" in given else None
        node = given.get("node", "")

        def sent(side: Side) -> list[Fire]:
            return [replace(fire, revision=side.revision(place)) for fire, place in distinct.values()]

        def learn(answers: Answers) -> None:
            for fire, _ in distinct.values():
                if fire.instance is not None:
                    known.added(fire.instance)

        return Made(
            "fire", lambda side: side.store.fire(sent(side), term=term, node=node), learn, moves=True, removes=True
        )

    def _one_fire(self, given: Given, request: str, upcoming: dict[str, int | None]) -> tuple[Fire, int | None]:
        """A fire without its revision, and the place of that. It moves the next time of its schedule in `upcoming`."""
        name, outcome = given["name"], FireOutcome(given["outcome"])
        places, next_us = self._known.rows.get(name, []), upcoming.get(name)
        place = places[given.get("back", -1) % len(places)] if places else None
        nominal_us = self.nominal_us(given.get("number", 0))
        if "number" not in given and next_us is not None:
            nominal_us = next_us + given.get("later", 0) * PERIOD_US
        if given.get("at_last") and next_us is not None:
            nominal_us = next_us - PERIOD_US
        elif outcome is FireOutcome.TRIGGERED:
            nominal_us += 7_000  # a trigger mostly has the time of its id, not that of a period
        count = given.get("count", 1)
        until_us = nominal_us + (count - 1) * PERIOD_US if count > 1 else 0
        instance = self.instance(cast("Given", given["work"])) if outcome.value in MAKES_INSTANCE else None
        fire = Fire(
            schedule=name,
            revision=0,
            nominal_us=nominal_us,
            outcome=outcome,
            request=request if instance is None else instance.id,
            next_us=None if given.get("last") else max(nominal_us, until_us) + PERIOD_US,
            until_us=until_us,
            count=count,
            instance=instance,
            overlap=Overlap(given.get("overlap", "allow")),
            queue_limit=given.get("queue_limit", 1),
            reason=given.get("reason", ""),
        )
        if outcome.advances and nominal_us == next_us:
            upcoming[name] = fire.next_us
        return fire, place

    def _campaign(self, request: str, given: Given) -> Made:
        candidate = Candidate(incarnation=self._known.incarnation(given["node"]), name=f"node-{given['node']}")

        async def call(side: Side) -> object:
            elections = await side.election()
            return await elections.campaign(candidate, ttl_us=600_000_000)

        return Made("campaign", call)

    def _resign(self, request: str, given: Given) -> Made:
        incarnation = self._known.incarnation(given["node"])

        async def call(side: Side) -> None:
            await (await side.election()).resign(incarnation)

        return Made("resign", call)
