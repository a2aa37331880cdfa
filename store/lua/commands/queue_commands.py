"""Commands of the queue: enqueue, claim, commit, commit with claim, cancel, run now, added log lines, and hints."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from typing import cast

from msgspec.structs import replace

from peerjob.model.caps import Caps
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.model.record import (
    Ack,
    Claimed,
    Enqueued,
    Hint,
    LogLine,
    NewInstance,
    Outcome,
    StoreLimits,
    Want,
    check_batch,
)
from peerjob.model.run_now import STORED_ANSWERS, RunNowAnswer
from peerjob.model.state import State
from peerjob.store.lua.client.driver import Driver, log_set_aside, prefix
from peerjob.store.lua.scripts.script import Argument, Reply

from .arrivals import alike_arguments, check_id, enqueue_arguments, keyed_arguments, plain_arguments
from .codec import acks, claimed, pack_line
from .durable_commands import LuaDurableCommands

MAX_KINDS = 200
"""The maximum number of kinds in one script call that enqueues."""
MAX_HINTS = 500
_MAX_PART = 500
"""The maximum number of kinds in one call that registers a part of a set."""
_MAX_ATTEMPTS = 3
"""The maximum number of times that a set is sent, if the server loses parts of the set."""
CHEAP_SCRIPTS = {1: "enqueue_one", 2: "enqueue_waking", 3: "enqueue_indexed"}
"""The cheap scripts that enqueue, by the reply that recommends each for the next call."""
_BEFORE_ALIKE = {"enqueue_alike": (CHEAP_SCRIPTS[1], CHEAP_SCRIPTS[2]), "enqueue_alike_keyed": (CHEAP_SCRIPTS[1],)}
"""The cheap scripts for a batch, by the cheap scripts for a single instance that show that they do something."""
_SMALL = "s"
"""The first letter of the name of a small set. A claim names the kinds of a small set itself."""
_HINTS = {"w": "work", "c": "cancel", "f": "final", "g": "change", "s": "schedule", "l": "leader", "t": "settle"}


class LuaQueueCommands(LuaDurableCommands):
    """Commands that move instances from state to state."""

    def __init__(self, driver: Driver, *, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, clock=clock, limits=limits, retry_for=retry_for)
        self._sets: dict[str, tuple[tuple[str, ...], str]] = {}
        """Per incarnation, the kinds of the latest registration and the name of the set of the kinds."""
        self._cheap_script = CHEAP_SCRIPTS[1]
        """The script for a single plain instance; "" while a node watches all changes. The last enqueue tells which."""

    async def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        check_batch(len(instances))
        if not instances:
            return []
        for instance in instances:
            check_id(instance.id)
        answered = False
        try:
            script = "enqueue_alike_keyed" if instances[0].limit_key else "enqueue_alike"
            if len(instances) > 1 and self._cheap_script in _BEFORE_ALIKE[script]:
                alike = alike_arguments(instances, node)
                if alike is not None and (await self._run_durably((script, alike)))[0]:
                    return [Enqueued(instance.id, True) for instance in instances]
                answered = alike is not None
            plain = plain_arguments(instances[0], node) if len(instances) == 1 and self._cheap_script else None
            while plain is not None and (script := self._cheap_script):  # other threads change it, too
                (reply,) = await self._run_durably((script, plain))
                answered = True
                if reply:
                    self._cheap_script = CHEAP_SCRIPTS[abs(reply)]
                    return [Enqueued(instances[0].id, True, repeated=reply < 0)]
                self._cheap_script = "" if script == CHEAP_SCRIPTS[2] else CHEAP_SCRIPTS[2]
            keyed = (
                self._cheap_script == CHEAP_SCRIPTS[1] and len(instances) == 1 and keyed_arguments(instances[0], node)
            )
            if keyed and (await self._run_durably(("enqueue_keyed", keyed)))[0]:
                return [Enqueued(instances[0].id, True)]
            answered |= bool(keyed)
            answers: list[Enqueued] = []
            for part in _by_kinds(instances):
                kinds = [instance.kind for instance in part if instance.limit_key]
                reply = await self._run_with_gates("enqueue", enqueue_arguments(part, node), kinds)
                answered = True
                self._cheap_script = CHEAP_SCRIPTS.get(reply, "") if isinstance(reply, int) else ""
                answers += _enqueued(part, reply)
        except StoreError as error:
            # a script before this one stored a part, or did nothing because an attempt without an answer had stored all
            error.is_unsure |= answered
            raise
        return answers

    async def claim(self, incarnation: str, want: Want, *, request: str) -> Claimed:
        check_batch(want.limit)
        return await self._claim(incarnation, "claim", request, want)

    async def commit(self, incarnation: str, outcomes: Sequence[Outcome], *, request: str) -> list[Ack]:
        check_batch(len(outcomes))
        if not outcomes:
            return []
        (committed,) = await self._commit(outcomes, self._commit_arguments(incarnation, "commit", request, outcomes))
        return _acks(committed)

    async def turn(
        self, incarnation: str, outcomes: Sequence[Outcome], want: Want | None, *, request: str
    ) -> tuple[list[Ack], Claimed]:
        check_batch(len(outcomes))
        # a commit that a claim follows leaves it to the claim to wake nodes for the room in limits
        command = "turn-commit" if want is not None else "turn-end"
        commit = self._commit_arguments(incarnation, command, request, outcomes)
        if want is None:
            if not outcomes:
                return [], Claimed()
            (committed,) = await self._commit(outcomes, commit)
            return _acks(committed), Claimed()
        check_batch(want.limit)
        if not outcomes:
            return [], await self._claim(incarnation, "turn-claim", request, want)
        set_name = await self._set_for(incarnation, want)
        claim = claim_arguments(incarnation, "turn-claim", request, set_name, want)
        committed, claim_reply = await self._commit(outcomes, commit, claim)
        if self._knows_set(incarnation, claim_reply):
            return _acks(committed), _claimed(claim_reply)
        return _acks(committed), await self._claim(incarnation, "turn-claim", request, want)

    async def cancel(self, ids: Sequence[str], *, node: str = "", request: str) -> list[State | None]:
        check_batch(len(ids))
        if not ids:
            return []
        ((set_aside, *states),) = await self._run_durably(("cancel", (node, request, self._limits.retention_us, *ids)))
        log_set_aside(set_aside)
        return [State(state) if state else None for state in states]

    async def run_now(self, ids: Sequence[str], *, request: str) -> list[RunNowAnswer]:
        check_batch(len(ids))
        if not ids:
            return []
        ((set_aside, *answers),) = await self._run_durably(("run_now", (request, *ids)))
        log_set_aside(set_aside)
        return [STORED_ANSWERS[answer] for answer in answers]

    async def add_lines(self, id: str, lines: Sequence[LogLine]) -> bool:
        check_batch(len(lines))
        limits = self._limits
        arguments: tuple[Argument, ...] = (
            id,
            limits.max_log_lines,
            limits.max_log_bytes,
            *[pack_line(line) for line in lines],
        )
        (added,) = await self._driver.run(("add_lines", arguments))
        return bool(added)

    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        key = wake_list(self._driver.namespace, incarnation)
        return _hints(await self._retry(lambda: self._driver.pop(key, MAX_HINTS, timeout)))

    async def claim_on_hint(
        self, incarnation: str, want: Want, *, request: str, timeout: float
    ) -> tuple[list[Hint], Claimed | None]:
        check_batch(want.limit)
        key = wake_list(self._driver.namespace, incarnation)
        set_name = await self._set_for(incarnation, want)
        arguments = claim_arguments(incarnation, "hint-claim", request, set_name, want)
        calls = 0

        def attempt() -> Awaitable[tuple[list[bytes], Reply | Exception]]:
            nonlocal calls
            calls += 1
            return self._driver.pop_and_run(key, MAX_HINTS, timeout if calls == 1 else 0, ("claim", arguments))

        hint_reply, reply = await self._retry(attempt)
        # an error: as when the server has lost its scripts, which `_run` sends again
        if isinstance(reply, Exception):
            reply = await self._run("claim", *arguments)
        if self._knows_set(incarnation, reply):
            return _hints(hint_reply), _claimed(reply)
        if calls > 1:
            want = replace(want, limit=0)  # an earlier attempt can have claimed, before the node registered other kinds
        elif timeout > 0:
            return _hints(hint_reply), None
        return _hints(hint_reply), await self._claim(incarnation, "hint-claim", request, want)

    async def _claim(self, incarnation: str, command: str, request: str, want: Want) -> Claimed:
        while True:
            set_name = await self._set_for(incarnation, want)
            reply = await self._run("claim", *claim_arguments(incarnation, command, request, set_name, want))
            if self._knows_set(incarnation, reply):
                return _claimed(reply)

    # -- the kinds of claims: each set is registered under the hash of its kinds -------------------------------------

    async def _set_for(self, incarnation: str, want: Want) -> str:
        """Return the name of the set of kinds of a claim, and register the set if necessary.

        Return "" for a dead incarnation, and for a claim that takes nothing.
        """
        if not want.limit:
            return ""
        registered = self._sets.get(incarnation)
        if registered is None or not _are_same(registered[0], want.kinds):
            kinds = want.kinds.kinds if isinstance(want.kinds, Caps) else tuple(want.kinds)
            name = await self._register(incarnation, sorted(kinds))
            if not name:
                return ""
            registered = self._sets[incarnation] = (kinds, name)
        return registered[1]

    def _knows_set(self, incarnation: str, reply: Reply) -> bool:
        """Return whether the store knew the set of a claim. If the store did not, the next claim registers the set."""
        if reply[0] == b"ok":
            return True
        self._sets.pop(incarnation, None)
        return bool(reply[0] != b"set")

    async def _register(self, incarnation: str, kinds: Sequence[str]) -> str:
        digest = hashlib.sha256(b"".join(len(kind).to_bytes(4, "big") + kind for kind in map(str.encode, kinds)))
        starts = range(0, max(1, len(kinds)), _MAX_PART)
        for start in [*starts] * _MAX_ATTEMPTS:
            part = kinds[start : start + _MAX_PART]
            is_last = start + _MAX_PART >= len(kinds)
            name, is_done = await self._run(
                "register", incarnation, digest.hexdigest()[:16], len(kinds), int(is_last), *part
            )
            if is_done or not name:
                return str(name, "ascii")
        raise StoreUnavailableError(self._driver.url, f"it lost parts of a set of kinds {_MAX_ATTEMPTS} times")


def wake_list(namespace: str, incarnation: str) -> str:
    """The list from which an incarnation pops its hints."""
    return f"{prefix(namespace)}wake:{incarnation}"


def claim_arguments(incarnation: str, command: str, request: str, set_name: str, want: Want) -> list[Argument]:
    """Arguments of claim.lua."""
    caps, is_small = want.kinds, set_name.startswith(_SMALL)
    if isinstance(caps, Caps):
        default, others = caps.default, caps.others
    else:
        default = next(iter(caps.values()), 0)
        others = {kind: cap for kind, cap in caps.items() if cap != default}
    arguments: list[Argument] = [
        incarnation,
        command,
        request,
        want.limit,
        int(want.suspects),
        int(want.idle),
        set_name,
        0 if is_small else default,
    ]
    for pair in others.items():
        arguments += pair
    if is_small:
        # all kinds, after those that ran last: the script looks for the only due instance in this order
        for kind in caps:
            if kind not in others:
                arguments += (kind, default)
    return arguments


def _are_same(kinds: tuple[str, ...], caps: Mapping[str, int]) -> bool:
    if isinstance(caps, Caps):
        return caps.kinds is kinds or caps.kinds == kinds
    return tuple(caps) == kinds


def _by_kinds(instances: Sequence[NewInstance]) -> list[Sequence[NewInstance]]:
    """Return the batch, in halves if it has very many kinds: each kind has its own queue and indexes."""
    if len({instance.kind for instance in instances}) <= MAX_KINDS:
        return [instances]
    half = len(instances) // 2
    return [*_by_kinds(instances[:half]), *_by_kinds(instances[half:])]


def _enqueued(instances: Sequence[NewInstance], reply: Reply) -> list[Enqueued]:
    if isinstance(reply, int):
        return [Enqueued(instance.id, True) for instance in instances]
    answers: list[Enqueued] = []
    for instance, holder in zip(instances, reply, strict=True):
        id = instance.id if holder == 0 else cast("bytes", holder).decode()
        answers.append(Enqueued(id, id == instance.id, repeated=holder != 0 and id == instance.id))
    return answers


def _hints(texts: Sequence[bytes]) -> list[Hint]:
    """The hints that can be read. Hints only wake, so a damaged one is dropped: renewals tell about work, too."""
    readable = (text.decode(errors="replace") for text in texts)
    return [Hint(_HINTS[text[0]], text[1:]) for text in readable if text[:1] in _HINTS]


def _acks(reply: Reply) -> list[Ack]:
    log_set_aside(reply[1])
    return acks(reply)


def _claimed(reply: Reply) -> Claimed:
    if len(reply) > 1:
        log_set_aside(reply[3])
    return claimed(reply)
