"""The sets of kinds for which incarnations claim, each registered under the hash of its kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Caps, StoreLimits, Want

from .commands import LuaCommands
from .driver import Driver
from .script import Argument, Reply

_PART_SIZE = 500
_MAX_ATTEMPTS = 3
"""The maximum number of times that a set is sent, if the server loses parts of the set."""
_SMALL = "s"


class LuaKindCommands(LuaCommands):
    """Registers sets of kinds, and finds the set of a claim."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
        self._sets: dict[str, tuple[tuple[str, ...], str]] = {}
        """Per incarnation, the kinds of the latest registration and the name of the set of the kinds."""

    async def _set_for(self, incarnation: str, want: Want) -> str:
        """Return the name of the set of kinds of a claim, and register the set if necessary.

        Return "" for a dead incarnation.
        """
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
        starts = range(0, max(1, len(kinds)), _PART_SIZE)
        for start in [*starts] * _MAX_ATTEMPTS:
            part = kinds[start : start + _PART_SIZE]
            is_last = start + _PART_SIZE >= len(kinds)
            name, is_done = await self._run(
                "register", incarnation, digest.hexdigest()[:16], len(kinds), int(is_last), *part
            )
            if is_done or not name:
                return str(name, "ascii")
        raise StoreUnavailableError(self._driver.url, f"it lost parts of a set of kinds {_MAX_ATTEMPTS} times")


def claim_arguments(incarnation: str, command: str, request: str, set_name: str, want: Want) -> list[Argument]:
    """Arguments of claim.lua."""
    caps = want.kinds
    if set_name.startswith(_SMALL):
        default, others = 0, caps
    elif isinstance(caps, Caps):
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
        default,
    ]
    for kind in others:
        arguments += (kind, others[kind])
    return arguments


def _are_same(kinds: tuple[str, ...], caps: Mapping[str, int]) -> bool:
    if isinstance(caps, Caps):
        return caps.kinds is kinds or caps.kinds == kinds
    return tuple(caps) == kinds
