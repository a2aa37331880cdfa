"""A store between a node and the real one that fails, stalls, answers twice or loses answers on request."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from peerjob import Store, StoreUnavailableError

Verb = Callable[..., Coroutine[Any, Any, Any]]


@dataclass(eq=False)
class Fault:
    """What happens to calls of some verbs, for as many calls as are `left` (None: until `heal`)."""

    verbs: frozenset[str]
    what: str
    left: int | None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    met: asyncio.Event = field(default_factory=asyncio.Event)
    change: Callable[[Any], Any] | None = None
    error: Exception | None = None
    when: Callable[..., bool] | None = None
    seconds: float = 0

    def release(self) -> None:
        """Let stalled calls go on, and stall no more."""
        self.left = 0
        self.gate.set()


class FlakyStore:
    """Every verb goes to the inner store, through the faults that were asked for.

    Leases and elections have theirs too ("renew", "campaign" …). Closing never fails.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        """How often each verb was called."""
        self._faults: list[Fault] = []

    @property
    def store(self) -> Store:
        """This store, as what it stands for."""
        return cast(Store, self)

    # -- faults; no verb named means every verb

    def fail(self, *verbs: str, times: int | None = None) -> Fault:
        """The server is away: calls raise before they reach it."""
        return self._add(verbs, "fail", times)

    def lose_answers(self, *verbs: str, times: int | None = 1) -> Fault:
        """Calls are done, but their answers never come: they raise after it."""
        return self._add(verbs, "lose answer", times)

    def repeat(self, *verbs: str, times: int | None = None) -> Fault:
        """Calls reach the server twice, word for word; the second answer is given."""
        return self._add(verbs, "repeat", times)

    def stall(self, *verbs: str, times: int | None = None) -> Fault:
        """Calls wait before they reach the server, until the fault's `release`; `met` is set when a call waits."""
        return self._add(verbs, "stall", times)

    def stall_answers(self, *verbs: str, times: int | None = None) -> Fault:
        """Calls are done at once, but their answers wait until the fault's `release`."""
        return self._add(verbs, "stall answer", times)

    def change_answers(self, change: Callable[[Any], Any], *verbs: str, times: int | None = 1) -> Fault:
        """Calls are done, and answer something else."""
        fault = self._add(verbs, "change answer", times)
        fault.change = change
        return fault

    def lose_hints(self) -> None:
        """Hints are lost. Claims that come with a hint are not."""
        self.change_answers(lambda _: [], "next_hints", times=None)
        self.change_answers(lambda answer: ([], answer[1]), "claim_on_hint", times=None)

    def refuse(
        self, error: Exception, *verbs: str, when: Callable[..., bool] | None = None, times: int | None = None
    ) -> Fault:
        """Calls raise an error of the test's choice before they reach the server, if `when(*arguments)` holds."""
        fault = self._add(verbs, "refuse", times)
        fault.error, fault.when = error, when
        return fault

    def slow(self, seconds: float, *verbs: str, times: int | None = None) -> Fault:
        """Calls are done at once, but their answers take so long."""
        fault = self._add(verbs, "slow", times)
        fault.seconds = seconds
        return fault

    def heal(self) -> None:
        """No more faults; what stalls goes on."""
        faults, self._faults = self._faults, []
        for fault in faults:
            fault.release()

    def _add(self, verbs: tuple[str, ...], what: str, times: int | None) -> Fault:
        fault = Fault(frozenset(verbs), what, times)
        self._faults.append(fault)
        return fault

    # -- verbs

    def liveness(self) -> "FlakyLiveness":
        return FlakyLiveness(self)

    def direct_calls(self) -> None:
        return None

    def elections(self) -> "FlakyElections":
        return FlakyElections(self)

    def __getattr__(self, name: str) -> Any:
        found: Any = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return self.count_close(found) if name == "close" else self.wrap(name, found)

    def count_close(self, close: Verb) -> Verb:
        """A close, which has no faults."""

        async def call() -> None:
            self.calls["close"] += 1
            await close()

        return call

    def wrap(self, verb: str, target: Verb) -> Verb:
        """The verb with today's faults."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[verb] += 1
            fault = self._fault_of(verb, args)
            if fault is None:
                return await target(*args, **kwargs)
            fault.met.set()
            match fault.what:
                case "fail":
                    raise StoreUnavailableError(self.inner.url, f"{verb} was told to fail")
                case "refuse" if fault.error is not None:
                    raise fault.error
                case "slow":
                    answer = await target(*args, **kwargs)
                    await asyncio.sleep(fault.seconds)
                    return answer
                case "lose answer":
                    await target(*args, **kwargs)
                    raise StoreUnavailableError(self.inner.url, f"the answer to {verb} was told to get lost")
                case "repeat":
                    await target(*args, **kwargs)
                    return await target(*args, **kwargs)
                case "stall":
                    await fault.gate.wait()
                    return await target(*args, **kwargs)
                case "stall answer":
                    answer = await target(*args, **kwargs)
                    await fault.gate.wait()
                    return answer
                case _:
                    answer = await target(*args, **kwargs)
                    return answer if fault.change is None else fault.change(answer)

        return call

    def _fault_of(self, verb: str, said: tuple[Any, ...]) -> Fault | None:
        for fault in self._faults:
            concerned = (not fault.verbs or verb in fault.verbs) and (fault.when is None or fault.when(*said))
            if concerned and fault.left != 0:
                if fault.left is not None:
                    fault.left -= 1
                return fault
        return None


class FlakyLiveness:
    """The lease's connection, with the faults of its store."""

    def __init__(self, store: FlakyStore) -> None:
        self._inner = store.inner.liveness()
        self.open = store.wrap("open", self._inner.open)
        self.renew = store.wrap("renew", self._inner.renew)
        self.withdraw = store.wrap("withdraw", self._inner.withdraw)
        self.close = store.count_close(self._inner.close)


class FlakyElections:
    """The connection of the leadership, with the faults of its store."""

    def __init__(self, store: FlakyStore) -> None:
        self._inner = store.inner.elections()
        self.open = store.wrap("open", self._inner.open)
        self.campaign = store.wrap("campaign", self._inner.campaign)
        self.resign = store.wrap("resign", self._inner.resign)
        self.leader = store.wrap("leader", self._inner.leader)
        self.changed = store.wrap("changed", self._inner.changed)
        self.close = store.count_close(self._inner.close)
