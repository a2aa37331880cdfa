"""The health of a Redis or Valkey server as a store of jobs, from its INFO, its settings and its SLOWLOG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peerjob.model.findings import Finding, Severity
from peerjob.store.lua.client.address import Address, parse_address
from peerjob.store.lua.client.cluster_search import key_slot
from peerjob.store.lua.client.driver import SlowCall, prefix
from peerjob.store.lua.client.durability import Durability, obstacle, online_replicas
from peerjob.store.lua.client.redis_driver import RedisDriver
from peerjob.store.lua.client.sentinel import Sentinels
from peerjob.store.url import Host

from .capabilities import capabilities_of, durability_of, eviction_risk, missing_replicas, persistence_settings
from .key_types import wrong_types

_WARN_SHARE, _FAIL_SHARE = 0.8, 0.95
"""If at least these shares of the memory or of the connections are in use, the diagnosis warns or fails."""

_SLOW, _RECENT = 0.1, 3600
"""A call that took at least this many seconds on the server, in so many seconds until now, is slow."""
_SHOWN = 5
"""Most names of slow calls in a finding."""


async def diagnose_lua(url: str, namespace: str) -> list[Finding]:
    """See `peerjob.store.drivers.diagnose`."""
    address = parse_address(url)
    driver = RedisDriver(address, namespace=namespace)
    try:
        await driver.open()
        shard = _shard(address, driver.server, namespace)
        info, settings = await driver.info(), await persistence_settings(driver)
        slow = await driver.slow_calls()
        watched = await _sentinels(driver.sentinels, address.durability, await driver.config("min-replicas-to-write"))
        capabilities = await capabilities_of(driver, replace(address, durability=None))
        foreign = _foreign_keys(await wrong_types(driver))
    finally:
        await driver.close()
    if not info:
        # valkey-glide asks for INFO when it connects
        verdict = Severity.FAIL if address.library == "glide" else Severity.WARN
        findings = [Finding("server", verdict, warning) for warning in capabilities.warnings]
        return [*findings, *shard, *watched, *foreign, *_durability(address.durability, info, settings)]
    return [
        Finding("server", Severity.OK, _version(info)),
        *shard,
        *watched,
        *foreign,
        *_role(info),
        *_persistence(info, settings),
        *_durability(address.durability, info, settings),
        _eviction(info),
        *_shares(info),
        *_slow_calls(slow, round(int(info.get("server_time_usec", "0")) / 1_000_000)),
    ]


def _shard(address: Address, server: Host | None, namespace: str) -> list[Finding]:
    """Return which shard of a cluster serves the namespace: namespaces on different shards do not share a thread."""
    if not address.cluster:
        return []
    slot = key_slot(prefix(namespace))
    return [Finding("shard", Severity.OK, f"slot {slot} has the namespace; its primary is {server}")]


async def _sentinels(
    sentinels: Sentinels | None, durability: Durability | None, settings: Mapping[str, str]
) -> list[Finding]:
    """Return whether the sentinels can replace the primary, and what a failover would lose."""
    if sentinels is None:
        return []
    total = len(sentinels.hosts)
    answers = await sentinels.ask(enough=total)
    newest = answers.newest
    assert newest is not None, "the driver is connected to this primary"
    known = f"{len(answers.known)} of {total} answer; the primary is {newest.host}, with {newest.replicas} replica(s)"
    missing = f": {'; '.join(answers.problems)}" if answers.problems else ""
    able = len(answers.known) >= newest.quorum and 2 * len(answers.known) > total and newest.replicas > 0
    verdict = Severity.FAIL if not able else Severity.WARN if missing else Severity.OK
    needed = "" if able else f"; a failover needs a replica, a majority of the sentinels and {newest.quorum} of them"
    findings = [Finding("sentinels", verdict, f"{known}{missing}{needed}")]
    if (durability is None or not durability.replicas) and settings.get("min-replicas-to-write") == "0":
        text = (
            "a failover loses the latest acknowledged writes: set durability=replicas:1 in the URL, or limit the loss "
            "with min-replicas-to-write on the servers"
        )
        findings.append(Finding("failover", Severity.WARN, text))
    return findings


def _slow_calls(calls: Sequence[SlowCall] | None, now: int) -> Iterator[Finding]:
    """Yield the slow calls of the last hour, by name. Calls of other programs count: the server runs one at a time."""
    if calls is None:
        return
    worst: dict[str, list[float]] = {}
    for call in calls:
        if call.seconds >= _SLOW and call.at >= now - _RECENT:
            worst.setdefault(call.name, []).append(call.seconds)
    limit = f"{_SLOW * 1000:g} ms in the last hour"
    if not worst:
        yield Finding("slow calls", Severity.OK, f"none over {limit}")
        return
    shown = sorted(worst.items(), key=lambda item: -max(item[1]))[:_SHOWN]
    listed = ", ".join(f"{name} {len(times)}x (up to {max(times) * 1000:.0f} ms)" for name, times in shown)
    yield Finding("slow calls", Severity.WARN, f"over {limit}: {listed}; capitals are commands of other programs")


def _foreign_keys(wrong: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Yield the keys of another type: each call that uses one fails."""
    for key, (actual, expected) in sorted(wrong.items())[:_SHOWN]:
        text = (
            f"{key} is a {actual}, not a {expected}: another program wrote it, and calls that use it fail. Stop that "
            "program and rename the key; peerjob makes a new one. To queue again what only this key listed, export the "
            "namespace and import it into another one"
        )
        yield Finding("keys", Severity.FAIL, text)
    if len(wrong) > _SHOWN:
        yield Finding("keys", Severity.FAIL, f"{len(wrong) - _SHOWN} more keys are of another type")


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
