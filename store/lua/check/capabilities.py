"""The capabilities of a server, from its INFO and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from peerjob.model.capabilities import Capabilities
from peerjob.model.errors import StoreError
from peerjob.store.lua.client.address import Address
from peerjob.store.lua.client.driver import Driver
from peerjob.store.lua.client.durability import Durability as Wanted
from peerjob.store.lua.client.durability import obstacle, online_replicas

Durability = Literal["fsync", "everysec", "replicated", "none"]
MIN_VERSION = {"redis": (7, 2), "valkey": (8, 0)}


async def capabilities_of(driver: Driver, address: Address) -> Capabilities:
    """Ask the server; raises StoreError if it is too old or cannot give the durability of the URL."""
    info, config = await driver.info(), await persistence_settings(driver)
    wanted = address.durability
    if wanted is not None and (reason := obstacle(wanted, info, config)) is not None:
        raise StoreError(f"the store at {address.url} cannot do durability={wanted.text}: {reason}")
    if not info:
        unknown = "the server does not say how it keeps data: this user may not ask it for INFO"
        return with_confirmation(wanted, Capabilities(engine=address.scheme, durability="none", warnings=(unknown,)))
    engine = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "0")
    needed = MIN_VERSION[engine]
    if tuple(int(part) for part in version.split(".")[:2]) < needed:
        raise StoreError(
            f"the store at {address.url} is {engine} {version}; it needs {'.'.join(map(str, needed))} or later"
        )
    durability, warnings = durability_of(info, config)
    if (risk := eviction_risk(info)) is not None:
        warnings.append(risk)
    if wanted is not None and (short := missing_replicas(wanted, info)) is not None:
        warnings.append(short)
    return with_confirmation(
        wanted, Capabilities(engine=engine, durability=durability, max_payload=_payload(info), warnings=tuple(warnings))
    )


def missing_replicas(wanted: Wanted, info: Mapping[str, str]) -> str | None:
    """The warning if fewer replicas are connected than must confirm."""
    online = online_replicas(info)
    if online >= wanted.replicas:
        return None
    replicas = f"{online} of them are connected: until then, nothing is acknowledged"
    return f"{wanted.confirmer} must confirm each step, and {replicas}"


def with_confirmation(wanted: Wanted | None, capabilities: Capabilities) -> Capabilities:
    """Return the capabilities; the confirmation that each call waits for raises the durability of the server."""
    if wanted is None:
        return capabilities
    durability = "replicated" if wanted.replicas and capabilities.durability != "fsync" else "fsync"
    return msgspec.structs.replace(capabilities, durability=durability, confirmed_by=wanted.text)


async def persistence_settings(driver: Driver) -> Mapping[str, str]:
    """The settings that decide what is kept on disk; empty if the user may not ask."""
    return {**await driver.config("appendfsync"), **await driver.config("save")}


def eviction_risk(info: Mapping[str, str]) -> str | None:
    """The warning if the server may remove jobs when its memory is full.

    The policies volatile-* are no risk: they remove only keys that expire, and no key of a job does.
    """
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or policy.startswith("volatile-"):
        return None
    return f"with maxmemory-policy {policy}, the server may remove jobs when its memory is full; set noeviction"


def durability_of(info: Mapping[str, str], config: Mapping[str, str]) -> tuple[Durability, list[str]]:
    """The data that survives a crash of the server, and warnings about it."""
    if info.get("aof_enabled") == "1":
        policy = config.get("appendfsync", "everysec")
        if policy == "no":
            return "none", [
                "with appendfsync no, the last half minute of work is lost when the server's machine crashes"
            ]
        return ("fsync" if policy == "always" else "everysec"), []
    if int(info.get("connected_slaves", "0")) > 0:
        return "replicated", []
    if config.get("save"):
        return "none", [
            "the server saves snapshots only: what came after the last one is lost when it restarts; set appendonly yes"
        ]
    return "none", ["the server keeps nothing on disk: every job is lost when it restarts; set appendonly yes"]


def _payload(info: Mapping[str, str]) -> int:
    """Return the largest payload in bytes: 512 MiB, the limit of the server, but at most a quarter of its memory."""
    limit = int(info.get("maxmemory", "0"))
    return min(512 << 20, limit // 4) if limit else 512 << 20
