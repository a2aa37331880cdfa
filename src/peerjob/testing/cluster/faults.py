"""A layer over any store, on which calls fail, lose their answers, are late or run twice when a test asks for it.

The layer uses only the store contract, so it works on stores in memory and on real servers.
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

FaultKind = Literal["error", "lost answer", "late", "repeated"]
"""Kinds of faults of a store call.

"error": the call has no effect, and raises StoreUnavailableError. "lost answer": the call takes effect, and raises
StoreUnavailableError. "late": the call takes effect without delay, and its answer arrives late. "repeated": the same
call reaches the store twice, and the caller gets the second answer.
"""
LATE: Duration = "2s"
ANY = "*"
"""Stands for every verb of the store, except those in WAITING_VERBS."""
WAITING_VERBS = frozenset({"next_hints", "claim_on_hint", "changed"})
"""Verbs that wait for changes. The verb "*" does not include these verbs."""


def _verbs() -> frozenset[str]:
    contracts: tuple[type[Any], ...] = (Store, Liveness, Elections)
    verbs = {name for part in contracts for name, _ in inspect.getmembers(part, inspect.iscoroutinefunction)}
    return frozenset(verbs - {"close"})


VERBS = _verbs()
"""Verbs of the store contract that can fail, including those of leases ("renew") and elections ("campaign")."""


class _Rule(msgspec.Struct):
    """A planned fault of the next calls of a verb."""

    verb: str
    how: FaultKind
    node: str | None
    left: int | None
    seconds: float


class Faults:
    """Planned faults, and counts of calls and faults. The layers of several nodes can share one object."""

    def __init__(self, on_fault: Callable[[str], None] = lambda _: None) -> None:
        self._rules: list[_Rule] = []
        self._on_fault = on_fault
        self.calls: Counter[str] = Counter()
        """Number of calls by verb."""
        self.happened: Counter[tuple[str, FaultKind]] = Counter()
        """Number of faults that happened, by verb and kind of fault."""

    @property
    def planned(self) -> bool:
        """Whether any fault is still planned."""
        return bool(self._rules)

    def add(
        self, verb: str, how: FaultKind, *, times: int | None = 1, node: str | None = None, by: Duration = LATE
    ) -> None:
        """Plan a fault for the next `times` calls of a verb (None: until `clear`), of one node or (None) of all.

        "*" is every verb. "claim" and "commit" also mean the turns that claim or commit, since nodes do both in one
        `turn`. `by` is the delay of a late answer. Raises OptionError.
        """
        if verb not in VERBS and verb != ANY:
            raise OptionError("verb", verb, f"a verb of the store contract ({', '.join(sorted(VERBS))}) or '*'")
        if how not in get_args(FaultKind):
            raise OptionError("how", how, f"one of {', '.join(map(repr, get_args(FaultKind)))}")
        # the check below rejects wrong types, which tests may pass; the cast lets type checkers accept the check
        given = cast(Any, times)
        if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
            raise OptionError("times", times, "a whole number of 1 or more, or None")
        self._rules.append(_Rule(verb, how, node, times, to_seconds(by, "by")))

    def clear(self, node: str | None = None) -> None:
        """Remove the planned faults, of one node or (None) of all."""
        self._rules = [rule for rule in self._rules if node is not None and rule.node != node]

    def over(self, store: Store, node: str = "", gate: Callable[[], Awaitable[None]] | None = None) -> Store:
        """Wrap a store, so that its calls meet these faults as calls of `node`. Each call awaits `gate` first."""
        return cast(Store, _FaultyStore(self, store, node, gate))

    def over_elections(
        self, elections: Elections, url: str, node: str = "", gate: Callable[[], Awaitable[None]] | None = None
    ) -> Elections:
        """Wrap a client for elections, so that its calls meet these faults."""
        return cast(Elections, _Faulty(self, elections, url, node, gate))

    async def call(
        self, verb: str, node: str, url: str, call: Callable[..., Awaitable[Any]], args: Any, named: dict[str, Any]
    ) -> Any:
        """Do a call, with its fault if one is planned."""
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
    return meant == verb or (meant == ANY and verb not in WAITING_VERBS)


class _Faulty:
    """A proxy that applies the faults to each call."""

    def __init__(
        self, faults: Faults, inner: Any, url: str, node: str, gate: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._faults = faults
        self._inner = inner
        self._url = url
        self._node = node
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name not in VERBS:
            return member
        faults, gate = self._faults, self._gate

        async def verb(*args: Any, **named: Any) -> Any:
            if gate is not None:
                await gate()
            return await faults.call(name, self._node, self._url, member, args, named)

        # store the wrapped verb as an attribute, so that the next use of the verb skips `__getattr__`
        setattr(self, name, verb)
        return verb


class _FaultyStore(_Faulty):
    """A proxy for a store; its clients for leases and elections meet the same faults."""

    def __init__(self, faults: Faults, inner: Store, node: str, gate: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(faults, inner, inner.url, node, gate)

    def liveness(self) -> Liveness:
        """Make a client for leases, with the same faults."""
        return cast(Liveness, _Faulty(self._faults, self._inner.liveness(), self._url, self._node, self._gate))

    def direct_calls(self) -> None:
        return None  # each call of a thread goes through the event loop, and meets its fault

    def elections(self) -> Elections:
        """Make a client for elections, with the same faults."""
        return self._faults.over_elections(self._inner.elections(), self._url, self._node, self._gate)
