"""What the server promises, from what it tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from peerjob.model.errors import StoreError
from peerjob.model.record import Capabilities

from .address import Address
from .driver import Driver
from .durability import Durability as Wanted
from .durability import online_replicas, unfit

Durability = Literal["fsync", "everysec", "replicated", "none"]
MIN_VERSION = {"redis": (7, 2), "valkey": (8, 0)}


async def inspect(driver: Driver, address: Address) -> Capabilities:
    """Ask the server; raises StoreError for one that is too old."""
    info, config = await driver.info(), await persistence_settings(driver)
    wanted = address.durability
    if wanted is not None and (reason := unfit(wanted, info, config)) is not None:
        raise StoreError(f"the store at {address.url} cannot do durability={wanted.text}: {reason}")
    if not info:
        unknown = "the server does not say how it keeps data, as this user may not ask it for INFO"
        return _promise(wanted, Capabilities(engine=address.scheme, durability="none", warnings=(unknown,)))
    engine = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "0")
    oldest = MIN_VERSION[engine]
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        needed = ".".join(map(str, oldest))
        raise StoreError(f"the store at {address.url} is {engine} {version}, {needed} or newer is needed")
    durability, warnings = durability_of(info, config)
    if (risk := eviction_risk(info)) is not None:
        warnings.append(risk)
    if wanted is not None and (short := too_few(wanted, info)) is not None:
        warnings.append(short)
    return _promise(
        wanted,
        Capabilities(engine=engine, durability=durability, max_payload=_payload(info), warnings=tuple(warnings)),
    )


def too_few(wanted: Wanted, info: Mapping[str, str]) -> str | None:
    """What is to be said when the replicas that are to confirm are not there now."""
    online = online_replicas(info)
    if online >= wanted.replicas:
        return None
    return (
        f"{wanted.who} must confirm each step, and {online} of them are connected: until then, nothing is acknowledged"
    )


def _promise(wanted: Wanted | None, found: Capabilities) -> Capabilities:
    """What the server promises by itself, and what is waited for on top."""
    if wanted is None:
        return found
    durability = "replicated" if wanted.replicas and found.durability != "fsync" else "fsync"
    return msgspec.structs.replace(found, durability=durability, confirmed_by=wanted.text)


async def persistence_settings(driver: Driver) -> Mapping[str, str]:
    """The settings that decide what is kept on disk; none where we may not ask."""
    return {**await driver.config("appendfsync"), **await driver.config("save")}


def eviction_risk(info: Mapping[str, str]) -> str | None:
    """What is to be said about what the server does when its memory is full."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return f"with maxmemory-policy {policy}, the server may remove jobs when its memory is full; set noeviction"


def durability_of(info: Mapping[str, str], config: Mapping[str, str]) -> tuple[Durability, list[str]]:
    """What survives the server's own death, and what is to be said about that."""
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
    """Values may have 512 MiB, but not more than fits into memory some times over."""
    limit = int(info.get("maxmemory", "0"))
    return min(512 << 20, limit // 4) if limit else 512 << 20
