"""The Lua scripts: read from their files, put together with what they use, and known by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

from peerjob.record import HISTORY_LIMIT, SUSPECT_AFTER

_ALWAYS = ("base", "keys")
_USES = "-- uses: "


@dataclass(frozen=True, slots=True)
class Script:
    """One command; its header tells the arguments and the reply."""

    name: str
    source: str
    sha: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scripts:
    """Every command of the engine."""

    open: Script
    enqueue: Script
    claim: Script
    commit: Script
    join: Script
    renew: Script
    leave: Script
    reap: Script
    forgive: Script
    nodes: Script
    cancel: Script
    watch_final: Script
    watch_changes: Script
    read: Script
    lookup: Script
    logs: Script
    health: Script
    set_aside: Script
    expire: Script
    clear_final: Script
    clear: Script

    def all(self) -> Iterable[Script]:
        """Each of them, to be loaded into a server that does not know them."""
        return [getattr(self, field.name) for field in fields(self)]


@cache
def load_scripts() -> Scripts:
    """Read every script from the package; the files never change while a process runs."""
    return Scripts(**{field.name: _load(field.name) for field in fields(Scripts)})


def _load(name: str) -> Script:
    folder = files("peerjob.store.lua") / "scripts"
    shebang, *lines = (folder / f"{name}.lua").read_text().splitlines()
    uses = [line.removeprefix(_USES).split() for line in lines if line.startswith(_USES)]
    parts = [*_ALWAYS, *(part for line in uses for part in line)]
    source = "\n".join(
        [
            shebang,
            f"local HISTORY_LIMIT, SUSPECT_AFTER = {HISTORY_LIMIT}, {SUSPECT_AFTER}",
            *((folder / "lib" / f"{part}.lua").read_text() for part in parts),
            *lines,
        ]
    )
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
