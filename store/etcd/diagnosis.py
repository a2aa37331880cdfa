"""The health of an etcd as a store of jobs, from the status of its members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreCredentialsError, StoreError, StorePermissionError, StoreUnavailableError
from peerjob.model.findings import Finding, Severity
from peerjob.store.kv.format.keys import Keys

from .address import DEFAULT_QUOTA, EtcdAddress, parse_address
from .api import etcd
from .client import EtcdClient
from .space import FULL_FROM

_MIN_VERSION = (3, 5)
_WARN_SHARE = 0.6
"""If at least this share of the quota is in use, the diagnosis warns."""
_MANY_REVISIONS = 10_000
_LOOSE_BYTES = 100 << 20
"""If the database file has at least this many free bytes, the diagnosis advises a defragmentation."""


async def diagnose_etcd(url: str, namespace: str, clock: Clock) -> list[Finding]:
    """See `peerjob.store.drivers.diagnose`."""
    address = parse_address(url)
    findings: list[Finding] = []
    failed: StoreError | None = None
    statuses: list[Any] = []
    for target in address.endpoints:
        client = EtcdClient(replace(address, endpoints=(target,)), clock)
        try:
            await client.open()
            status = await client.call("status", etcd.StatusRequest())
            findings += _member(target, status, address)
            if not statuses:
                findings.append(await _compaction(client, namespace, status))
            statuses.append(status)
        except (StoreCredentialsError, StorePermissionError) as error:
            findings.append(Finding("server", Severity.WARN, f"{target} does not tell its status: {error}"))
        except StoreUnavailableError as error:
            failed = error
            findings.append(Finding("server", Severity.FAIL, f"{target} does not answer: {error.reason}"))
        finally:
            await client.close()
    if failed is not None and len(findings) == len(address.endpoints) and not statuses:
        raise failed
    if len({status.header.cluster_id for status in statuses}) > 1:
        findings.append(Finding("server", Severity.FAIL, "the members are of different clusters"))
    return findings


def _member(target: str, status: Any, address: EtcdAddress) -> Iterator[Finding]:
    name = f"etcd {status.version} at {target}"
    if tuple(int(part) for part in status.version.split(".")[:2]) < _MIN_VERSION:
        yield Finding("server", Severity.FAIL, f"{name}: 3.5 or newer is needed")
    elif not status.leader:
        yield Finding("server", Severity.FAIL, f"{name} has no leader: a majority of the members must run")
    else:
        yield Finding("server", Severity.OK, name)
    for text in status.errors:
        yield Finding("alarm", Severity.FAIL, f"{target}: {text}; make room (compact, defragment) and disarm the alarm")
    yield _quota(target, status, address)
    loose = status.dbSize - status.dbSizeInUse
    if loose > _LOOSE_BYTES and loose > status.dbSize / 2:
        yield Finding(
            "fragmentation", Severity.WARN, f"{target}: {loose:,} of {status.dbSize:,} bytes are free; defrag"
        )


def _quota(target: str, status: Any, address: EtcdAddress) -> Finding:
    told = status.dbSizeQuota or address.quota
    quota = told or DEFAULT_QUOTA
    share = status.dbSize / quota
    text = f"{target}: {share:.0%} of {quota:,} bytes in use"
    if not told:
        text += " (the default of etcd, which does not report its quota; set ?quota= in the URL if it differs)"
    if share >= FULL_FROM:
        return Finding("quota", Severity.FAIL, f"{text}: new instances are refused; compact, defragment, or raise it")
    return Finding("quota", Severity.WARN if share >= _WARN_SHARE else Severity.OK, text)


async def _compaction(client: EtcdClient, namespace: str, status: Any) -> Finding:
    """Return whether etcd compacts old revisions.

    etcd does not report the setting, so try to read the first revision, of a key that each node may read.
    """
    revision = status.header.revision
    first = etcd.TxnRequest(success=[{"request_range": {"key": Keys(namespace).layout.encode(), "revision": 1}}])
    try:
        await client.call("txn", first.SerializeToString())
    except (StoreUnavailableError, StoreCredentialsError, StorePermissionError):
        raise
    except StoreError:
        return Finding("compaction", Severity.OK, f"old revisions are compacted (now at {revision:,})")
    if revision < _MANY_REVISIONS:
        return Finding("compaction", Severity.OK, f"nothing to compact yet (at revision {revision:,})")
    advice = "start etcd with --auto-compaction-mode periodic --auto-compaction-retention 1m"
    return Finding("compaction", Severity.WARN, f"none of {revision:,} revisions was ever compacted; {advice}")
