"""The health of a Redis or Valkey server as a store of jobs, from its INFO and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from peerjob.model.findings import Finding, Severity

from .address import parse_address
from .capabilities import capabilities_of, durability_of, eviction_risk, missing_replicas, persistence_settings
from .durability import Durability, obstacle, online_replicas
from .redis_driver import RedisDriver

_WARN_SHARE, _FAIL_SHARE = 0.8, 0.95
"""If at least these shares of the memory or of the connections are in use, the diagnosis warns or fails."""


async def diagnose_lua(url: str, namespace: str) -> list[Finding]:
    """See `peerjob.store.drivers.diagnose`."""
    address = parse_address(url)
    driver = RedisDriver(address, namespace=namespace)
    try:
        await driver.open()
        info, settings = await driver.info(), await persistence_settings(driver)
        capabilities = await capabilities_of(driver, replace(address, durability=None))
    finally:
        await driver.close()
    if not info:
        found = [Finding("server", Severity.WARN, warning) for warning in capabilities.warnings]
        return [*found, *_durability(address.durability, info, settings)]
    return [
        Finding("server", Severity.OK, _version(info)),
        *_role(info),
        *_persistence(info, settings),
        *_durability(address.durability, info, settings),
        _eviction(info),
        *_shares(info),
    ]


def _version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info.get('redis_version', 'of an unknown version')}"


def _role(info: Mapping[str, str]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield Finding("server", Severity.FAIL, "it is a replica, which takes no writes; use the address of its primary")


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    durability, warnings = durability_of(info, settings)
    for warning in warnings:
        yield Finding("persistence", Severity.WARN, warning)
    if not warnings:
        kept = {
            "fsync": "every write is on disk before it is answered",
            "everysec": "at most the last second is lost when the server's machine crashes",
            "replicated": "kept in memory, here and on replicas",
        }
        yield Finding("persistence", Severity.OK, kept.get(durability, durability))
    for field, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(field, "ok") != "ok":
            yield Finding("persistence", Severity.FAIL, f"the last write of the {what} failed; see the server's log")


def _durability(wanted: Durability | None, info: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[Finding]:
    if wanted is None:
        return
    if (reason := obstacle(wanted, info, settings) or (missing_replicas(wanted, info) if info else None)) is not None:
        yield Finding("durability", Severity.FAIL, reason)
        return
    present = f", of {online_replicas(info)} connected" if wanted.replicas and info else ""
    yield Finding(
        "durability", Severity.OK, f"each step waits up to {wanted.timeout:g} s for {wanted.confirmer}{present}"
    )


def _eviction(info: Mapping[str, str]) -> Finding:
    risk = eviction_risk(info)
    if risk is None:
        policy = info.get("maxmemory_policy", "noeviction")
        spared = "" if policy == "noeviction" else ", which removes only keys that expire; no key of a job does"
        return Finding("eviction", Severity.OK, f"{policy}{spared}")
    limited = int(info.get("maxmemory", "0")) > 0
    return Finding("eviction", Severity.FAIL if limited else Severity.WARN, risk)


def _shares(info: Mapping[str, str]) -> Iterator[Finding]:
    for subject, used, setting in (
        ("memory", "used_memory", "maxmemory"),
        ("connections", "connected_clients", "maxclients"),
    ):
        limit = int(info.get(setting, "0"))
        if not limit:
            yield Finding(subject, Severity.OK, f"{int(info.get(used, '0')):,} in use, the server sets no limit")
            continue
        share = int(info.get(used, "0")) / limit
        severity = Severity.FAIL if share >= _FAIL_SHARE else Severity.WARN if share >= _WARN_SHARE else Severity.OK
        advice = "" if severity is Severity.OK else f"; raise {setting}"
        yield Finding(subject, severity, f"{share:.0%} of {limit:,} in use{advice}")
