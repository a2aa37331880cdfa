"""What the limits leave to a claim: how many instances, and which permits.

A permit is a key with a number. Only one claim can write a key that did not exist, so at most `concurrency` claims hold
permits below that number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice, takewhile

from peerjob.model.record import MAX_BATCH
from peerjob.model.stored_limit import MAX_CONCURRENCY, MAX_SHARED_LIMITS
from peerjob.store.kv.format.base import Compare, Found, Put, Range, Transaction, apply_all, mod_of
from peerjob.store.kv.format.limit_rows import Permit
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.write.context import KVContext
from peerjob.store.kv.write.limit_rules import LimitState, Rules, free_numbers
from peerjob.store.kv.write.transaction_plan import Change


class ClaimLimits:
    """The limits of the kinds that a claim wants, at one attempt."""

    def __init__(self, context: KVContext, rules: Rules, caps: Mapping[str, int], charged: dict[str, int]) -> None:
        self._context = context
        self.rules = rules
        wanted = [kind for kind in rules.kinds if caps.get(kind, 0) > 0]
        self.limits = {kind: names for kind in wanted if (names := rules.shared(kind))}
        """Kind → its shared limits, for the wanted kinds that have some."""
        self.closed = {kind for kind in wanted if rules.kinds[kind].paused}
        """The wanted kinds of which nothing may be claimed now."""
        self.timed: Set[str] = frozenset()
        """Those of them that only time opens."""
        self.free: dict[str, int] = {}
        """Shared limit → how many instances the claim may take."""
        self._shares: dict[str, int] = {}
        """Shared limit → how many instances are the share of the node, if it must stay away from those of others."""
        self._names = list(dict.fromkeys(name for names in self.limits.values() for name in names))
        self._states: dict[str, LimitState] = {}
        self._share = 0, 1
        self._numbers: dict[str, Iterator[int]] = {}
        self._charged = charged
        """Rate → claims that an earlier attempt of the call has charged and not given."""

    @property
    def reads(self) -> list[Range]:
        """The reads of the states of the limits."""
        reads, limits = self._context.limit_rules.reads, self.rules.limits
        # without a concurrency, any number will do: the permits are only counted
        whole = {name: limits[name].numbers.concurrency > 0 for name in self._names}
        return [read for name in self._names for read in reads(name, whole=whole[name])]

    def read(self, answers: Sequence[Found], now_us: int, own: int, nodes: int) -> None:
        """Take the answers to `reads`. Each of the live `nodes` prefers its own share of the permits."""
        self._states = self._context.limit_rules.states(self.rules, self._names, answers, now_us)
        self._share = own, nodes
        for name, state in self._states.items():
            charged = self._charged.get(name, 0) if now_us >= state.use.closed_us else 0
            self.free[name] = min(state.places, state.starts + charged)
            if nodes > 1 and self._context.limit_rules.contended and self._concurrency(name):
                self._shares[name] = min(self.free[name], self._own_places(name) or self.free[name])
        full = {kind for kind, names in self.limits.items() if any(self._states[name].places <= 0 for name in names)}
        used_up = {kind for kind, names in self.limits.items() if any(self.free[name] <= 0 for name in names)}
        self.timed = used_up - full - self.closed
        self.closed |= used_up

    def budget(self, spread: int) -> Budget | None:
        """What the shared limits leave, `spread` times; None if no wanted kind has one."""
        return Budget(self.limits, {name: free * spread for name, free in self.free.items()}) if self.limits else None

    def most(self, kinds: Iterable[str]) -> int | None:
        """How many instances of these kinds the node takes at most, by their shared limits; None if a kind has none."""
        names: set[str] = set()
        for kind in kinds:
            if kind not in self.limits:
                return None
            names.add(self.limits[kind][0])
        return sum(self._shares.get(name, self.free[name]) for name in names)

    def share(self) -> Budget:
        """The share of the node of what the shared limits leave."""
        return Budget(self.limits, {**self.free, **self._shares})

    # -- what is taken --------------------------------------------------------------------------------------------

    async def charge(self, kinds: Iterable[str]) -> bool:
        """Charge one claim of each of these kinds to its rates; False if another claim has changed a rate meanwhile."""
        counts: dict[str, int] = {}
        for name in (name for kind in kinds for name in self.limits.get(kind, ())):
            counts[name] = counts.get(name, 0) + 1
        writes: dict[str, int] = {}
        transactions: list[Transaction] = []
        for name, count in counts.items():
            state, more = self._states[name], count - self._charged.get(name, 0)
            if state.limit.numbers.period_us and more > 0:
                tat_us = state.limit.numbers.tat_after(state.use.tat_us, state.now_us, more)
                use, key = state.use.with_tat(tat_us), self._context.keys.rate_use(name)
                transactions.append(Transaction([Compare(key, mod=mod_of(state.entry))], [Put(key, encode(use))]))
                writes[name] = more
        if transactions:
            answers = await apply_all(self._context.kv, transactions, guards=[self.rules.stamp])
            done = [name for name, answer in zip(writes, answers, strict=True) if answer is not None]
            for name in done:
                self._charged[name] = self._charged.get(name, 0) + writes[name]
            return len(done) == len(writes)
        return True

    def still_open(self, changes: Sequence[Change], kinds: Sequence[str]) -> list[Compare]:
        """Compares that hold while no throttle has closed a limit since `read`; `kinds` has the kind of each change.

        The limits of many kinds are more than one request compares: then each change gets the compares of its kind.
        """
        compares = self._not_throttled(kinds)
        if len(compares) <= MAX_SHARED_LIMITS:
            return compares
        for change, kind in zip(changes, kinds, strict=True):
            change.compares = [*change.compares, *self._not_throttled([kind])]
        return []

    def _not_throttled(self, kinds: Iterable[str]) -> list[Compare]:
        """Compares of the limits without a rate: each claim of a rate writes the same key, and `charge` compares it."""
        names = dict.fromkeys(name for kind in kinds for name in self.limits.get(kind, ()))
        states = (self._states[name] for name in names)
        return [
            Compare(self._context.keys.rate_use(state.name), mod=mod_of(state.entry))
            for state in states
            if not state.limit.numbers.period_us
        ]

    def given(self, kind: str) -> None:
        """Remember that a claim of this kind was given: what was charged for it is used up."""
        for name in self.limits.get(kind, ()):
            if self._charged.get(name):
                self._charged[name] -= 1

    def permits(self, kind: str) -> list[Permit]:
        """Permits for one claim of a kind."""
        return [(name, next(self._free_numbers(name))) for name in self.limits.get(kind, ())]

    def _free_numbers(self, name: str) -> Iterator[int]:
        known = self._numbers.get(name)
        if known is None:
            start, concurrency = self._context.clock.random.getrandbits(32), self._concurrency(name)
            # without a concurrency, there are so many numbers that nodes choose different ones anyway
            share = self._share if concurrency else (0, 1)
            known = self._numbers[name] = free_numbers(self._held(name), concurrency or MAX_CONCURRENCY, start, *share)
        return known

    def _own_places(self, name: str) -> int:
        """How many permits of this node's share are free, of as many as a claim can take."""
        own, nodes = self._share
        numbers = free_numbers(self._held(name), self._concurrency(name), 0, own, nodes)
        return sum(1 for _ in islice(takewhile(lambda number: number % nodes == own, numbers), MAX_BATCH))

    def _concurrency(self, name: str) -> int:
        return self._states[name].limit.numbers.concurrency

    def _held(self, name: str) -> set[int]:
        cut = len(self._context.keys.permits(name))
        return {int(key[cut:]) for key, _ in self._states[name].permits.items}


class Budget:
    """What is left of shared limits while a claim selects."""

    def __init__(self, limits: Mapping[str, Sequence[str]], free: dict[str, int]) -> None:
        self._limits = limits
        self._free = free

    def allows(self, kind: str) -> bool:
        """Whether the limits of a kind allow one more instance."""
        for name in self._limits.get(kind, ()):  # noqa: SIM110 - a claim asks this for each of hundreds of instances
            if self._free[name] <= 0:
                return False
        return True

    def use(self, kind: str, count: int) -> None:
        """Count instances that are selected."""
        for name in self._limits.get(kind, ()):
            self._free[name] -= count

    def take(self, kind: str) -> bool:
        """Count an instance, if the limits of its kind allow one more."""
        if not self.allows(kind):
            return False
        self.use(kind, 1)
        return True
