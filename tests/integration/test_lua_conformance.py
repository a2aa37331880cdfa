"""The store's contract over Redis and Valkey."""

import pytest

from peerjob.clock import SystemClock
from peerjob.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.lua.store import lua_store
from peerjob.testing.store_conformance import StoreConformance


class OnServer(StoreConformance):
    url = ""

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        return lua_store(self.url, namespace=namespace, clock=SystemClock(), limits=limits)


class TestRedis(OnServer):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url


class TestValkey(OnServer):
    @pytest.fixture(autouse=True)
    def server(self, valkey_url: str) -> None:
        self.url = valkey_url
