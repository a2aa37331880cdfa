"""The sets of kinds for which incarnations claim, each registered once under the hash of its kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Caps, StoreLimits, Want

from .commands import LuaCommands
from .driver import Driver
from .script import Argument, Reply

LOOKS_AT_ONCE = 1600
"""Counts and indexes that one script looks at: about 1 µs each."""
_PART = 500
_ATTEMPTS = 3
"""How often a set is sent of which the server loses parts."""
_SMALL = "s"


class LuaKindCommands(LuaCommands):
    """Registers sets of kinds, and says for which of them a claim is."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
        self._sets: dict[str, tuple[tuple[str, ...], str]] = {}
        """Incarnation → the kinds that it registered last, and the name of their set."""

    async def _set_for(self, incarnation: str, want: Want) -> str:
        """The name of the set that a claim is for, which is registered now; "" for a dead incarnation."""
        registered = self._sets.get(incarnation)
        if registered is None or not _are_same(registered[0], want.kinds):
            kinds = want.kinds.kinds if isinstance(want.kinds, Caps) else tuple(want.kinds)
            name = await self._register(incarnation, sorted(kinds))
            if not name:
                return ""
            registered = self._sets[incarnation] = (kinds, name)
        return registered[1]

    def _knows_set(self, incarnation: str, reply: Reply) -> bool:
        """Whether the store knew the set that a claim was for; else it is registered with the next one."""
        if reply[0] == b"ok":
            return True
        self._sets.pop(incarnation, None)
        return bool(reply[0] != b"set")

    async def _register(self, incarnation: str, kinds: Sequence[str]) -> str:
        digest = hashlib.sha256(b"".join(len(one).to_bytes(4, "big") + one for one in map(str.encode, kinds)))
        starts = range(0, max(1, len(kinds)), _PART)
        for start in [*starts] * _ATTEMPTS:
            part = kinds[start : start + _PART]
            is_last = start + _PART >= len(kinds)
            name, is_done = await self._run(
                self._scripts.register, incarnation, digest.hexdigest()[:16], len(kinds), int(is_last), *part
            )
            if is_done or not name:
                return str(name, "ascii")
        raise StoreUnavailableError(self._driver.url, "it lost parts of a set of kinds again and again")


def claim_arguments(incarnation: str, verb: str, request: str, set_name: str, want: Want) -> list[Argument]:
    """Arguments of claim.lua."""
    caps = want.kinds
    if set_name.startswith(_SMALL):
        default, others = 0, caps
    elif isinstance(caps, Caps):
        default, others = caps.default, caps.others
    else:
        default = next(iter(caps.values()), 0)
        others = {kind: most for kind, most in caps.items() if most != default}
    arguments: list[Argument] = [
        incarnation,
        verb,
        request,
        want.limit,
        int(want.suspects),
        int(want.idle),
        set_name,
        default,
    ]
    for kind, most in others.items():
        arguments += (kind, most)
    return arguments


def _are_same(kinds: tuple[str, ...], caps: Mapping[str, int]) -> bool:
    if isinstance(caps, Caps):
        return caps.kinds is kinds or caps.kinds == kinds
    return tuple(caps) == kinds
