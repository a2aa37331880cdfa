"""The free space of an etcd: new instances are refused before etcd refuses the writes of running ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreCredentialsError, StoreError, StorePermissionError

from .address import DEFAULT_QUOTA
from .api import etcd
from .client import EtcdClient

_LOGGER = logging.getLogger("peerjob.store")
FULL_FROM = 0.8
"""If at least this share of the quota is in use, the store refuses new instances."""
_CHECK_EVERY = 0.25


class FreeSpace:
    """Checks the space while instances are added, and while etcd is full."""

    def __init__(self, client: EtcdClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._full = False
        self._checked = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether to refuse new instances, as of the last check."""
        if self._task is None and self._clock.elapsed() - self._checked > _CHECK_EVERY:
            self._task = self._client.start(self._follow(), name="check the space of etcd")
        return self._full or self._client.out_of_space

    async def check(self) -> None:
        """Ask the member in use how much of its quota is used."""
        # A user without the right to read the status learns that etcd is full from a refused write.
        with contextlib.suppress(StoreCredentialsError, StorePermissionError):
            self._remember(await self._client.call("status", etcd.StatusRequest()))
        self._checked = self._clock.elapsed()

    async def _follow(self) -> None:
        try:
            while True:
                with contextlib.suppress(StoreError):
                    await self.check()
                if not self._full:
                    return
                await asyncio.sleep(_CHECK_EVERY)
        finally:
            self._task = None

    def _remember(self, status: Any) -> None:
        address = self._client.address
        # etcd 3.5 does not report a quota (dbSizeQuota is 0), so the quota of the URL or the default is used.
        quota = status.dbSizeQuota or address.quota or DEFAULT_QUOTA
        alarm = any("NOSPACE" in text for text in status.errors)
        full = alarm or status.dbSize >= FULL_FROM * quota
        if full and not self._full:
            _LOGGER.warning(
                "etcd at %s takes no new instances: it uses %d of %d bytes%s",
                address.url,
                status.dbSize,
                quota,
                ", and has raised NOSPACE" if alarm else "",
            )
        elif self._full and not full:
            _LOGGER.warning("etcd at %s takes new instances again", address.url)
        self._full = full
        self._client.out_of_space = alarm
