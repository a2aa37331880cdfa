"""Makes of an operation the call of a queue command that both stores get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec.structs import replace

from peerjob.model.record import (
    FINAL_STATE,
    Ack,
    Action,
    Claimed,
    Instruction,
    LogLine,
    NewInstance,
    NodeInfo,
    Outcome,
    Want,
)
from peerjob.model.state import Level
from peerjob.store.base import Store
from peerjob.store.rules import READS_LAYOUT, digest

from .compare import Time
from .flow_calls import FlowCalls
from .known import Answers, Known, Made
from .limit_calls import LimitCalls
from .names import Side
from .query_calls import QueryCalls
from .reference import FollowedStore
from .schedule_calls import ScheduleCalls

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
OVER_US = 1
"""The ttl of a lease that is over when the next call comes."""
LONG_US = 600 * SECOND_US
SIGNS = "abcdefghijklmnopqrstuvwxyzäß€🜚 "

Given = Mapping[str, Any]


def text_of(size: int) -> str:
    """Text of so many characters."""
    return (SIGNS * (size // len(SIGNS) + 1))[:size]


def data_of(given: Given, name: str) -> bytes | None:
    """The bytes of an operation: None, or so many."""
    size = given.get(name)
    return None if size is None else f"{name} ".encode() * (size // (len(name) + 1)) + b"x" * (size % (len(name) + 1))


def lines_of(given: list[Given]) -> tuple[LogLine, ...]:
    """The log lines of an operation."""
    return tuple(
        LogLine(
            at_us=line.get("at", 1),
            level=line.get("level", Level.INFO),
            message=text_of(line.get("size", 5)),
            attempt=line.get("attempt", 0),
            node=line.get("node", ""),
            fields=line.get("fields"),
        )
        for line in given
    )


class Calls(FlowCalls, ScheduleCalls, QueryCalls, LimitCalls):
    """The calls of one run, by what is known when they are made."""

    def __init__(self, known: Known, now_us: Callable[[], int]) -> None:
        ScheduleCalls.__init__(self, known)
        self._now_us = now_us

    def made(self, number: int, verb: str, given: Given) -> Made:
        """The call of an operation. Its request id comes from the number of the operation."""
        maker: Callable[[str, Given], Made] = getattr(self, f"_{verb}")
        return maker(self._known.ids.request(number), given)

    # -- instances

    def instance(self, work: Given) -> NewInstance:
        """The instance that an operation describes."""
        known, due, kept = self._known, work.get("due"), work.get("kept")
        return NewInstance(
            id=known.ids.instance(work["n"], work.get("age", 0)),
            kind=work["kind"],
            spec=data_of(work, "spec") or b"",
            priority=work.get("priority", 5),
            due_us=None if due is None else known.ids.start_us + round(due * SECOND_US),
            delay_us=None if "delay" not in work else round(work["delay"] * SECOND_US),
            key=work.get("key"),
            tags=tuple(work.get("tags", ())),
            retention_us=None if kept is None else round(kept * SECOND_US),
            max_crashes=work.get("max_crashes", 3),
            attempts=work.get("attempts", 0),
            crashes=work.get("crashes", 0),
            losses=work.get("losses", 0),
            limit_key=work.get("limit_key", ""),
            key_concurrency=work.get("key_concurrency", 0),
        )

    def _enqueue(self, request: str, given: Given) -> Made:
        news = [self.instance(work) for work in given["works"]]
        node = given.get("node", "")

        def learn(answers: Answers) -> None:
            for new in news:
                self._known.added(new)

        return Made("enqueue", lambda side: side.store.enqueue(news, node=node), learn, moves=True)

    def _want(self, given: Given) -> Want:
        return Want(
            kinds=cast("dict[str, int]", given["kinds"]),
            limit=given["limit"],
            suspects=given.get("suspects", True),
            idle=given.get("idle", True),
        )

    def _claimed(self, incarnation: str, answers: Mapping[Side, Claimed]) -> None:
        self._known.took(incarnation, {side: answer.claims for side, answer in answers.items()})

    def _claim(self, request: str, given: Given) -> Made:
        incarnation, want = self._known.incarnation(given["node"]), self._want(given)

        async def call(side: Side) -> Claimed:
            return _told(want, await side.store.claim(incarnation, want, request=request))

        return Made(
            "claim",
            call,
            lambda answers: self._claimed(incarnation, answers),
            moves=True,
            incarnation=incarnation,
            want=want,
        )

    def _claim_on_hint(self, request: str, given: Given) -> Made:
        incarnation, want = self._known.incarnation(given["node"]), self._want(given)

        async def call(side: Side) -> Claimed | None:
            _, claimed = await side.store.claim_on_hint(incarnation, want, request=request, timeout=0)
            return claimed if claimed is None else _told(want, claimed)

        return Made(
            "claim_on_hint",
            call,
            lambda answers: self._claimed(incarnation, answers),
            moves=True,
            incarnation=incarnation,
            want=want,
        )

    def _outcomes(self, given: Given) -> list[tuple[Outcome, int]]:
        """The outcomes of an operation, each with the number of its claim."""
        found: list[tuple[Outcome, int]] = []
        for one in cast("list[Given]", given["outcomes"]):
            id, claim = self._known.claim(given["node"], one["of"], one["pick"])
            outcome = Outcome(
                id=id,
                fence=0,
                action=Action(one["action"]),
                result=data_of(one, "result"),
                error=data_of(one, "error"),
                progress=data_of(one, "progress"),
                started=one.get("started", False),
                delay_us=round(one.get("delay", 0) * SECOND_US),
                note=text_of(one.get("note", 0)),
                logs=lines_of(one.get("logs", [])),
                **self.durable(id, one, alone=all(outcome.id != id for outcome, _ in found)),
            )
            found.append((outcome, claim))
        return found

    @staticmethod
    def _reports(outcomes: list[tuple[Outcome, int]]) -> dict[int, Outcome]:
        """The reports by their places."""
        return {place: one for place, (one, _) in enumerate(outcomes) if one.action is Action.REPORT}

    @staticmethod
    def _for(side: Side, outcomes: list[tuple[Outcome, int]]) -> list[Outcome]:
        return [replace(outcome, fence=side.fence(outcome.id, claim)) for outcome, claim in outcomes]

    def _acknowledged(self, incarnation: str, outcomes: list[tuple[Outcome, int]], acks: list[Ack]) -> None:
        for (outcome, claim), ack in zip(outcomes, acks, strict=True):
            self._known.acknowledged(incarnation, outcome, claim, ack)

    def _commit(self, request: str, given: Given) -> Made:
        given = self._known.with_holder(given)
        incarnation, outcomes = self._known.incarnation(given["node"]), self._outcomes(given)

        def learn(answers: Answers) -> None:
            (acks, _) = answers.values()
            self._acknowledged(incarnation, outcomes, acks)

        return Made(
            "commit",
            lambda side: side.store.commit(incarnation, self._for(side, outcomes), request=request),
            learn,
            ids=tuple(outcome.id for outcome, _ in outcomes),
            logged=tuple(outcome.id for outcome, _ in outcomes if outcome.logs),
            releases=any(outcome.action is Action.RELEASE for outcome, _ in outcomes),
            reports=self._reports(outcomes),
            moves=True,
            removes=True,
            incarnation=incarnation,
        )

    def _turn(self, request: str, given: Given) -> Made:
        given = self._known.with_holder(given)
        incarnation, outcomes = self._known.incarnation(given["node"]), self._outcomes(given)
        want = self._want(given) if "limit" in given else None

        def learn(answers: Answers) -> None:
            (acks, _), _ = answers.values()
            self._acknowledged(incarnation, outcomes, acks)
            self._claimed(incarnation, {side: claimed for side, (_, claimed) in answers.items()})

        async def call(side: Side) -> tuple[list[Ack], Claimed]:
            acks, claimed = await side.store.turn(incarnation, self._for(side, outcomes), want, request=request)
            return acks, _told(want, claimed)

        return Made(
            "turn",
            call,
            learn,
            moves=True,
            removes=True,
            logged=tuple(outcome.id for outcome, _ in outcomes if outcome.logs),
            incarnation=incarnation,
            want=want,
            reports=self._reports(outcomes),
            untold=tuple(one.id for one, _ in outcomes if want and not one.linked and not one.is_durable),
            ends=all(one.action is Action.REPORT or one.action in FINAL_STATE for one, _ in outcomes),
            parts=self._parts(incarnation, outcomes, want, request),
        )

    def _parts(
        self, incarnation: str, outcomes: list[tuple[Outcome, int]], want: Want | None, request: str
    ) -> tuple[Made, ...]:
        """The commit and the claim of a turn."""

        async def commit(side: Side) -> list[Ack]:
            return await _followed(side).turn_commit(incarnation, self._for(side, outcomes), request=request)

        async def claim(side: Side) -> Claimed:
            assert want is not None
            return _told(want, await _followed(side).turn_claim(incarnation, want, request=request))

        def learn(answers: Answers) -> None:
            (acks, _) = answers.values()
            self._acknowledged(incarnation, outcomes, acks)

        committed = Made("commit", commit, learn, incarnation=incarnation, reports=self._reports(outcomes))
        if want is None:
            return (committed,)
        claimed = Made("claim", claim, lambda answers: self._claimed(incarnation, answers), incarnation=incarnation)
        return committed, claimed

    def _cancel(self, request: str, given: Given) -> Made:
        ids = list(dict.fromkeys(self._known.instance(pick) for pick in given["picks"]))
        node = given.get("by", "")
        return Made(
            "cancel",
            lambda side: side.store.cancel(ids, node=node, request=request),
            moves=True,
            removes=True,
            ids=tuple(ids),
        )

    def _run_now(self, request: str, given: Given) -> Made:
        ids = list(dict.fromkeys(self._known.instance(pick) for pick in given["picks"]))
        return Made("run_now", lambda side: side.store.run_now(ids, request=request), moves=True)

    def _add_lines(self, request: str, given: Given) -> Made:
        logged = list(self._known.logged) if given.get("logged") else []
        id = logged[given["pick"] % len(logged)] if logged else self._known.instance(given["pick"])
        lines = lines_of(given["logs"])
        return Made("add_lines", lambda side: side.store.add_lines(id, lines), once=True, logged=(id,))

    def _watch_final(self, request: str, given: Given) -> Made:
        incarnation = self._known.incarnation(given["node"])
        ids = list(dict.fromkeys(self._known.instance(pick) for pick in given["picks"]))
        return Made("watch_final", lambda side: side.store.watch_final(incarnation, ids), incarnation=incarnation)

    def _watch_changes(self, request: str, given: Given) -> Made:
        incarnation, ttl = self._known.incarnation(given["node"]), given["ttl"]
        return Made("watch_changes", lambda side: side.store.watch_changes(incarnation, ttl), incarnation=incarnation)

    # -- nodes

    def _join(self, request: str, given: Given) -> Made:
        kinds = tuple(given["kinds"])
        # *Choice*: for how long a store knows which crashes the end of an incarnation has charged
        remembered = not self._known.node(given["node"]).forgotten
        if given.get("new", True) or self._known.node(given["node"]).forgotten:
            node, last = self._known.reborn(given["node"], kinds)
        else:
            node, last = self._known.node(given["node"]), ""
            node.kinds = kinds
        info = NodeInfo(
            name=given.get("name", f"node-{given['node']}"),
            incarnation=node.incarnation,
            kinds=kinds,
            signatures=dict.fromkeys(kinds, str(given.get("hash", "hash"))),
            workers=given.get("workers", 4),
            host="host",
            pid=given["node"],
            version="1",
            started_us=self._known.ids.start_us,
            intake=given.get("intake", "active"),
            reads_layout=READS_LAYOUT,
        )
        ttl_us = OVER_US if given.get("over") else LONG_US
        previous = last if given.get("previous") and last and remembered else None

        async def call(side: Side) -> Time:
            return Time(await side.store.join(info, ttl_us=ttl_us, previous=previous))

        return Made(
            "join",
            call,
            over=ttl_us == OVER_US,
            incarnation=node.incarnation,
        )

    def _leave(self, request: str, given: Given) -> Made:
        incarnation = self._known.incarnation(given["node"])
        return Made(
            "leave", lambda side: side.store.leave(incarnation), moves=True, removes=True, incarnation=incarnation
        )

    def _renew(self, request: str, given: Given) -> Made:
        incarnation, held = self._known.incarnation(given["node"]), given.get("held", "known")
        claims = list(self._known.held.get(incarnation, {}).items())
        if held == "less":
            claims = claims[1:]

        async def call(side: Side) -> Any:
            liveness = await side.liveness(incarnation)
            fences = [side.fence(id, claim) for id, claim in claims]
            if held == "more":
                fences.append(side.fence("", 0))
            return await liveness.renew(
                incarnation, ttl_us=LONG_US, running=len(fences), count=len(fences), fences_digest=digest(fences)
            )

        return Made("renew", call, incarnation=incarnation, ids=tuple(id for id, _ in claims))

    def _reap(self, request: str, given: Given) -> Made:
        reaper, limit = self._known.incarnation(given["node"]), given["limit"]
        return Made(
            "reap",
            lambda side: side.store.reap(limit, reaper=reaper),
            once=True,
            moves=True,
            removes=True,
            incarnation=reaper,
        )

    def _instruct(self, request: str, given: Given) -> Made:
        incarnation = self._known.incarnation(given["node"])
        instruction = Instruction(request, given["drain"], given.get("workers", 0))
        return Made("instruct", lambda side: side.store.instruct(incarnation, instruction))

    # -- retention

    def _expire(self, request: str, given: Given) -> Made:
        limit = given["limit"]
        return Made("expire", lambda side: side.store.expire(limit), once=True, moves=True)

    def _clear_instances(self, request: str, given: Given) -> Made:
        chosen, limit = self.filter(given), given.get("limit", 500)

        async def call(side: Side) -> int:
            removed = 0
            while count := await side.store.clear_instances(chosen, limit=limit):
                removed += count
            return removed

        return Made("clear_instances", call, once=True, moves=True)

    def _clear_history(self, request: str, given: Given) -> Made:
        return self._cleared("clear_history", given, lambda store: store.clear_history)

    def _clear_logs(self, request: str, given: Given) -> Made:
        return self._cleared("clear_logs", given, lambda store: store.clear_logs)

    def _cleared(self, verb: str, given: Given, command: Callable[[Store], Any]) -> Made:
        chosen = self.filter(given)

        async def call(side: Side) -> None:
            clear, cursor = command(side.store), None
            while True:
                _, cursor = await clear(chosen, cursor=cursor)
                if cursor is None:
                    return

        return Made(verb, call, once=True)

    def _clear(self, request: str, given: Given) -> Made:
        return Made("clear", lambda side: side.store.clear(), once=True, moves=True)


def _told(want: Want | None, claimed: Claimed) -> Claimed:
    """The answer to a claim. One that asks for no instance need not tell when the next one is due."""
    if want is None:
        return Claimed()
    return replace(claimed, next_due_us=None) if want.limit == 0 else claimed


def _followed(side: Side) -> FollowedStore:
    assert isinstance(side.store, FollowedStore)
    return side.store
