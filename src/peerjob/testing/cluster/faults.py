"""A layer over any store, on which calls fail, lose their answers, are late or are done twice when a test says so.

It knows nothing but the store contract, so it goes over stores in memory and over stores on real servers alike.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast, get_args

import msgspec

from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError, StoreUnavailableError
from peerjob.store.base import Elections, Liveness, Store

How = Literal["error", "lost answer", "late", "repeated"]
"""What becomes of a call.

"error": it is not done, and the caller gets StoreUnavailableError. "lost answer": it is done, and the caller gets
StoreUnavailableError. "late": it is done at once, and the answer comes later. "repeated": it reaches the store twice,
word for word, and the second answer counts.
"""
LATE: Duration = "2s"
ANY = "*"
"""Stands for every verb."""
WAITS = frozenset({"next_hints", "changed"})
"""Verbs that wait for news: they fail only when they are named."""


def _verbs() -> frozenset[str]:
    contracts: tuple[type[Any], ...] = (Store, Liveness, Elections)
    found = {name for one in contracts for name, member in vars(one).items() if inspect.iscoroutinefunction(member)}
    return frozenset(found - {"close"})


VERBS = _verbs()
"""The verbs of the store contract that can fail: of stores, of leases ("renew"), of elections ("campaign")."""


class _Rule(msgspec.Struct):
    """What happens to the next calls of a verb."""

    verb: str
    how: How
    node: str | None
    left: int | None
    seconds: float


class Faults:
    """What is to happen to calls from now on. The layers of several nodes may share one; it counts the calls."""

    def __init__(self, on_fault: Callable[[str], None] = lambda _: None) -> None:
        self._rules: list[_Rule] = []
        self._on_fault = on_fault
        self.calls: Counter[str] = Counter()
        """How often each verb was called."""
        self.happened: Counter[tuple[str, How]] = Counter()
        """How often each fault happened, by verb."""

    @property
    def planned(self) -> bool:
        """Whether any call may still meet a fault."""
        return bool(self._rules)

    def add(self, verb: str, how: How, *, times: int | None = 1, node: str | None = None, by: Duration = LATE) -> None:
        """Let the next calls of a verb meet a fault: so many of them (None: until `clear`), of one node or of all.

        "*" is every verb. "claim" and "commit" also mean the turns that claim and commit, since nodes do both in one
        `turn`. `by` is how late an answer is. Raises OptionError.
        """
        if verb not in VERBS and verb != ANY:
            raise OptionError("verb", verb, f"a verb of the store contract ({', '.join(sorted(VERBS))}) or '*'")
        if how not in get_args(How):
            raise OptionError("how", how, f"one of {', '.join(map(repr, get_args(How)))}")
        given = cast(Any, times)  # a test may pass anything
        if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
            raise OptionError("times", times, "a whole number of 1 or more, or None")
        self._rules.append(_Rule(verb, how, node, times, to_seconds(by, "by")))

    def clear(self, node: str | None = None) -> None:
        """Forget what is planned, for one node or for all."""
        self._rules = [rule for rule in self._rules if node is not None and rule.node != node]

    def over(self, store: Store, node: str = "", gate: Callable[[], Awaitable[None]] | None = None) -> Store:
        """A store whose calls meet these faults, as calls of a node; each call passes the gate first."""
        return cast(Store, _FaultyStore(self, store, node, gate))

    def over_elections(
        self, elections: Elections, url: str, node: str = "", gate: Callable[[], Awaitable[None]] | None = None
    ) -> Elections:
        """A client for the leadership whose calls meet these faults."""
        return cast(Elections, _Faulty(self, elections, url, node, gate))

    async def call(
        self, verb: str, node: str, url: str, call: Callable[..., Awaitable[Any]], args: Any, named: dict[str, Any]
    ) -> Any:
        """Do a call with what happens to it."""
        self.calls[verb] += 1
        rule = self._rule(verb, node, args) if self._rules else None
        if rule is None:
            return await call(*args, **named)
        self.happened[verb, rule.how] += 1
        self._on_fault(f"{verb} of {node or 'a node'}: {rule.how}")
        if rule.how == "error":
            raise StoreUnavailableError(url, f"the test lets {verb} fail")
        answer = await call(*args, **named)
        if rule.how == "lost answer":
            raise StoreUnavailableError(url, f"the test loses the answer to {verb}")
        if rule.how == "repeated":
            return await call(*args, **named)
        await asyncio.sleep(rule.seconds)
        return answer

    def _rule(self, verb: str, node: str, args: tuple[Any, ...]) -> _Rule | None:
        for rule in self._rules:
            if rule.node in (None, node) and _concerns(rule.verb, verb, args):
                if rule.left is not None:
                    rule.left -= 1
                    if not rule.left:
                        self._rules.remove(rule)
                return rule
        return None


def _concerns(meant: str, verb: str, args: tuple[Any, ...]) -> bool:
    if verb == "turn" and meant in ("claim", "commit"):
        _, outcomes, want = args
        return bool(outcomes) if meant == "commit" else want is not None
    return meant == verb or (meant == ANY and verb not in WAITS)


class _Faulty:
    """Passes each call on through the faults."""

    def __init__(
        self, faults: Faults, inner: Any, url: str, node: str, gate: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._faults = faults
        self._inner = inner
        self._url = url
        self._node = node
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in VERBS:
            return found
        faults, gate = self._faults, self._gate

        async def verb(*args: Any, **named: Any) -> Any:
            if gate is not None:
                await gate()
            return await faults.call(name, self._node, self._url, found, args, named)

        setattr(self, name, verb)  # found without a search from now on
        return verb


class _FaultyStore(_Faulty):
    """A store, and what it makes."""

    def __init__(self, faults: Faults, inner: Store, node: str, gate: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(faults, inner, inner.url, node, gate)

    def liveness(self) -> Liveness:
        """A client for the lease, with the same faults."""
        return cast(Liveness, _Faulty(self._faults, self._inner.liveness(), self._url, self._node, self._gate))

    def elections(self) -> Elections:
        """A client for the leadership, with the same faults."""
        return self._faults.over_elections(self._inner.elections(), self._url, self._node, self._gate)
