"""The type of each key of a namespace, and a search for keys of another type."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from peerjob.store.lua.client.driver import Driver, prefix
from peerjob.store.lua.scripts.script import Argument

MAX_LOOKED_AT = 200_000
"""A search looks at about this many keys of the server."""
_BATCH = 1_000
_NAMES = {
    "hash": (
        "activity c dead descriptors g idle k kinds leader limit limits n node now own req revisions schedule sets "
        "slots terms watched"
    ),
    "list": "aside audit l wake",
    "set": "charged idle: r set unused users",
    "string": "a asides cancel confirmed flows gone i indexed layout limited removal watching",
    "zset": (
        "catalogue changes d delayed f fired gaps head leases m q removed s schedules settling shead slot t w "
        "2 4 8 16 32 64"
    ),
}
TYPES: Mapping[str, str] = {name: type for type, names in _NAMES.items() for name in names.split()}
"""The first part of a key → its type. Only `idle` has two: that of the key, and that of the keys `idle:…`."""


async def wrong_types(driver: Driver) -> dict[str, tuple[str, str]]:
    """Search keys of another type than their name says: key → its type and the expected type.

    The search ends early on a server with very many keys. A user without the rights `scan` and `type` gets no keys.
    """
    start = prefix(driver.namespace)
    pattern = start.replace("*", "\\*").replace("?", "\\?").replace("[", "\\[")
    wrong: dict[str, tuple[str, str]] = {}
    cursor: Argument = 0
    for _ in range(MAX_LOOKED_AT // _BATCH):
        scanned = await driver.ask(("SCAN", cursor, "MATCH", f"{pattern}*", "COUNT", _BATCH))
        if scanned is None:
            return {}
        cursor, keys = scanned[0][0], scanned[0][1]
        types = await driver.ask(*(("TYPE", key) for key in keys)) if keys else []
        for key, stored in zip(keys, types or [], strict=False):
            name = key.decode(errors="backslashreplace")
            first, colon, _ = name.removeprefix(start).partition(":")
            expected = TYPES.get(f"{first}{colon}") or TYPES.get(first)
            actual = stored.decode() if isinstance(stored, bytes) else str(stored)
            if expected is not None and actual not in (expected, "none"):
                wrong[name] = (actual, expected)
        if cursor in (b"0", 0):
            break
        await asyncio.sleep(0)
    return wrong
