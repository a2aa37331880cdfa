"""Makes of an operation the call of a durable body, and reads what the stores tell about steps and needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

from msgspec.structs import replace

from peerjob.model.durable import SIGNAL_MARK, Need, Step, Wait, When
from peerjob.model.record import Enqueued, Held, NewChild, NewInstance, Record
from peerjob.model.restored import Restored
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT, need_failed

from .known import Answers, Known, Made
from .names import Side

SECOND_US = 1_000_000
SETTLINGS = 100
"""Calls of `settle` after which one that still says that more is left counts as endless."""

_UNFINISHED: dict[str, Any] = {"state": State.SCHEDULED, "result": None, "error": None}
Given = Mapping[str, Any]


class FlowCalls:
    """The calls about durable bodies."""

    _known: Known
    _now_us: Callable[[], int]

    def instance(self, work: Given) -> NewInstance:
        """The instance that an operation describes."""
        raise NotImplementedError

    # -- parts of outcomes

    def durable(self, id: str, given: Given, *, alone: bool) -> dict[str, Any]:
        """The fields of an outcome of an instance that only durable bodies have.

        *Choice*: whether the needs of an outcome count that is lost because of an earlier one of its batch. So only the
        first outcome of an instance has needs.
        """
        wait = given.get("wait")
        return {
            "steps": tuple(Step(name, b"x" * size) for name, size in given.get("steps", {}).items()),
            "needs": self._needs(id, id, given.get("needs", ()) if alone else ()),
            "wait": None if wait is None else self._wait(wait),
            "linked": given.get("linked", id in self._known.linked),
        }

    def _wait(self, given: Given) -> Wait:
        until = given.get("until")
        return Wait(
            signals=tuple(given.get("signals", ())),
            until_us=None if until is None else self._now_us() + round(until * SECOND_US),
            needs=given.get("needs", False),
        )

    def _needs(self, dependant: str, parent: str, given: Sequence[Given]) -> tuple[Need, ...]:
        """Needs of children of a parent. A pair of instances has the same need in each call."""
        children = list(self._known.children.get(parent, ()))
        needs: dict[str, Need] = {}
        for one in given:
            pick = one["pick"]
            id = children[pick % len(children)] if one["of"] == "children" and children else self._known.instance(pick)
            when: When = "ended" if dependant == parent or crc32(f"{id} {dependant}".encode()) % 2 else "completed"
            if id != dependant:
                needs[id] = Need(id, when)
        return tuple(needs.values())

    # -- calls

    def _require_layout(self, request: str, given: Given) -> Made:
        def learn(answers: Answers) -> None:
            self._known.flowing = True

        return Made("require_layout", lambda side: side.store.require_layout(FLOWS_LAYOUT, "steps"), learn, once=True)

    def _spawn(self, request: str, given: Given) -> Made:
        known = self._known
        given = known.with_holder(given)
        parent, claim = known.claim(given["node"], given["of"], given["pick"])
        incarnation = known.incarnation(given["node"])
        before = known.children.get(parent, {})
        children: list[NewChild] = []
        earlier: dict[str, NewInstance] = dict(before)
        for one in given["children"]:
            if "work" in one:
                new = self.instance(one["work"])
            elif earlier:
                new = list(earlier.values())[one["known"] % len(earlier)]
            else:
                continue
            known.children[parent] = earlier  # the needs of a child name children of the same call, too
            needs = self._needs(new.id, parent, one["needs"])
            known.children[parent] = before
            children.append(NewChild(instance=new, needs=needs, more=one.get("more", False)))
            earlier = {**earlier, new.id: new}

        def learn(answers: Answers) -> None:
            if all(answer is not None for answer in answers.values()):
                known.children[parent] = earlier
                known.linked |= {parent, *earlier}
                for child in children:
                    known.added(child.instance)

        return Made(
            "spawn",
            lambda side: side.store.spawn(incarnation, Held(parent, side.fence(parent, claim)), children),
            learn,
            moves=True,
            incarnation=incarnation,
            ids=(parent,),
        )

    def _restore(self, request: str, given: Given) -> Made:
        known, restored = self._known, dict[str, Restored]()
        opened = list(known.open)
        for one in given["works"]:
            if "work" in one:
                new = self.instance(one["work"])
            elif opened:
                new = known.open[opened[one["known"] % len(opened)]]
            else:
                continue
            restored[new.id] = self._restored(new, one, opened)
        news = [one if one.parent not in restored else replace(one, parent="") for one in restored.values()]
        news = [one if one.parent or not one.state.is_final else replace(one, **_UNFINISHED) for one in news]

        def learn(answers: Answers) -> None:
            for one, answer in zip(news, next(iter(answers.values())), strict=True):
                id = one.instance.id
                if not answer.is_new:
                    continue
                if not answer.repeated or id in known.open:
                    known.added(one.instance)
                    known.linked.add(id)
                    known.durable.add(id)
                if one.parent and not answer.repeated:
                    known.children.setdefault(one.parent, {})[id] = one.instance
                if one.open and not answer.repeated:
                    known.open[id] = one.instance
                elif not one.open:
                    known.open.pop(id, None)
                if one.wait is not None:
                    known.suspended.add(id)

        return Made("restore", lambda side: side.store.restore(news), learn, moves=True)

    def _restored(self, new: NewInstance, given: Given, opened: list[str]) -> Restored:
        parent: str = ""
        if "under" in given:
            is_open, pick = given["under"]
            parent = opened[pick % len(opened)] if is_open and opened else self._known.instance(pick)
        is_final = bool(parent) and "state" in given and not given["open"]
        steps = tuple(Step(name, b"x" * size) for name, size in given.get("steps", {}).items())
        wait = None if given["open"] or is_final or "wait" not in given else self._wait(given["wait"])
        return Restored(
            instance=replace(new, key=None) if parent else new,
            parent="" if parent == new.id else parent,
            steps=() if is_final else steps,
            wait=wait,
            open=given["open"],
            state=State.parse(given["state"]) if is_final else State.SCHEDULED,
            result=b"r" * given["result"] if is_final else None,
            error=b"e" * given["error"] if is_final else None,
        )

    def _signal(self, request: str, given: Given) -> Made:
        known, name, value = self._known, given["name"], b"x" * given["size"]
        waiting = [id for id in known.instances if id in known.suspended] if given.get("waiting") else []
        id = waiting[given["pick"] % len(waiting)] if waiting else known.instance(given["pick"])
        return Made("signal", lambda side: side.store.signal(id, name, value), moves=True)

    def _settle(self, request: str, given: Given) -> Made:
        async def call(side: Side) -> None:
            await settle(side.store)

        return Made("settle", call, once=True, moves=True)


async def settle(store: Store) -> None:
    """Follow up all ends."""
    for _ in range(SETTLINGS):
        if not await store.settle():
            return
    raise AssertionError("settling does not end")


async def flows_of(store: Store, ids: Sequence[str]) -> dict[str, Any]:
    """The steps of instances, and how many needs they wait for."""
    found: dict[str, Any] = {"settling": (await store.health()).settling}
    found["mended"], after = await store.check_needs()
    while after is not None:
        mended, after = await store.check_needs(after)
        found["mended"] += mended
    for start in range(0, len(ids), 100):
        part = ids[start : start + 100]
        records = await store.get(part)
        for id, record, needs in zip(part, records, await store.open_needs(part), strict=True):
            # *Choice*: whether the needs of a wait are told whose time has come
            if record is None or record.wait is None or record.wait.until_us is None:
                found[f"needs {id}"] = needs
    for id in ids:
        steps: dict[str, bytes] = {}
        cursor: str | None = None
        while True:
            page = await store.steps(id, cursor=cursor)
            steps |= {step.name: step.value for step in page.steps}
            cursor = page.cursor
            if cursor is None:
                break
        found[f"steps {id}"] = {name.replace(SIGNAL_MARK, "signal "): len(value) for name, value in steps.items()}
    return found


def wrong_notes(stored: Mapping[str, Record]) -> list[str]:
    """The instances whose notes name a sibling as the need that failed, which did not end so."""
    wrong: list[str] = []
    for record in stored.values():
        named = stored.get(record.history[-1].note.removeprefix("needs ")[:36])
        if named is not None and named.parent == record.parent and record.history[-1].note.startswith("needs "):
            is_failure = named.state.is_final and named.state is not State.COMPLETED
            if not is_failure or record.history[-1].note != need_failed(named.id, named.state):
                wrong.append(f"{record.id}: {record.history[-1].note}")
    return wrong


def either(answers: Sequence[Enqueued] | None) -> Sequence[Enqueued] | None:
    """The answers to a spawn, without what depends on an earlier try."""
    return None if answers is None else [Enqueued(one.id, one.is_new) for one in answers]
