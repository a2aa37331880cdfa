"""When an etcd counts as full. No etcd that the tests start reports its quota, so these statuses are made here."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from peerjob.store.etcd.address import DEFAULT_QUOTA
from peerjob.store.etcd.api import etcd
from peerjob.store.etcd.client import EtcdClient
from peerjob.store.etcd.space import FULL_FROM, FreeSpace
from peerjob.testing.clock import VirtualClock

MIB = 1 << 20


@pytest.mark.parametrize(
    ("reported", "given", "quota"),
    [(8 * MIB, 64 * MIB, 8 * MIB), (8 * MIB, 0, 8 * MIB), (0, 64 * MIB, 64 * MIB), (0, 0, DEFAULT_QUOTA)],
    ids=["the server's own", "only the server's", "that of the URL", "the default"],
)
async def test_the_quota_that_the_server_reports_counts_first(
    clock: VirtualClock, reported: int, given: int, quota: int
) -> None:
    used = [0]

    async def status(name: str, request: Any) -> Any:
        return etcd.StatusResponse(dbSize=used[0], dbSizeQuota=reported)

    address = SimpleNamespace(quota=given, url="etcd://here")
    client = SimpleNamespace(address=address, call=status, out_of_space=False)
    space = FreeSpace(cast(EtcdClient, client), clock)
    for size, full in ((round(FULL_FROM * quota) - 1, False), (round(FULL_FROM * quota) + 1, True)):
        used[0] = size
        await space.check()
        assert space.full is full
