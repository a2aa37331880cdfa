"""A rolling upgrade on real servers."""

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from support.builds import newer_store
from support.two_builds import TwoBuilds


@pytest.mark.usefixtures("patient")
class OnServer(TwoBuilds):
    """Two releases on the server that a URL names."""

    url: str

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return open_store(self.url, namespace=namespace, clock=SystemClock(), limits=limits)

    def make_later(self, namespace: str, limits: StoreLimits) -> Store:
        return newer_store(self.url, namespace=namespace, clock=SystemClock(), limits=limits)


class TestRedis(OnServer):
    """Redis."""

    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url


class TestValkey(OnServer):
    """Valkey."""

    @pytest.fixture(autouse=True)
    def _url(self, valkey_url: str) -> None:
        self.url = valkey_url


class TestEtcd(OnServer):
    """etcd."""

    short_ttl = 1.0

    @pytest.fixture(autouse=True)
    def _url(self, etcd_url: str) -> None:
        self.url = etcd_url


class TestSQLite(OnServer):
    """SQLite."""

    @pytest.fixture(autouse=True)
    def _url(self, sqlite_url: str) -> None:
        self.url = sqlite_url
