"""Providers of credentials that answer late, fail, or belong to another event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from peerjob import Node
from peerjob.model.errors import OptionError, StoreCredentialsError, StoreUnavailableError
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import open_store
from peerjob.store.lua.client import credentials as credentials_module
from peerjob.store.lua.client.credentials import ASK_AGAIN, ASK_EVERY, Credentials
from support.shifted import MovedClock
from support.waiting import PATIENCE, until

URL = "redis://cache.example"


class Provider(CredentialProvider):
    """Gives passwords with a number, or what a test says."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.loops = list[asyncio.AbstractEventLoop]()
        self.release = asyncio.Event()
        self.release.set()

    async def get_credentials_async(self) -> Any:
        self.loops.append(asyncio.get_running_loop())
        await self.release.wait()
        answer = self.answers.pop(0) if self.answers else ("jobs", str(len(self.loops)))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


Make = Callable[[Provider], Credentials]


@pytest.fixture
async def make(clock: MovedClock) -> AsyncGenerator[Make]:
    made = list[Credentials]()

    def one(provider: Provider) -> Credentials:
        made.append(Credentials(provider, url=URL, clock=clock))
        return made[-1]

    yield one
    for each in made:
        await each.close()


async def test_new_connections_share_an_answer_while_it_is_new(clock: MovedClock, make: Make) -> None:
    provider = Provider()
    provider.release.clear()
    credentials = make(provider)
    waiting = [asyncio.create_task(credentials.current()) for _ in range(5)]
    await until(lambda: provider.loops)
    provider.release.set()
    assert await asyncio.gather(*waiting) == [("jobs", "1")] * 5
    assert credentials.user == "jobs"
    clock.moved += ASK_EVERY - 1
    assert await credentials.current() == ("jobs", "1")
    clock.moved += 1
    assert await credentials.current() == ("jobs", "2")


async def test_an_open_connection_does_not_wait_for_the_provider(clock: MovedClock, make: Make) -> None:
    provider = Provider()
    credentials = make(provider)
    await credentials.current()
    clock.moved += ASK_EVERY
    provider.release.clear()
    assert [credentials.renewed() for _ in range(3)] == [("jobs", "1")] * 3
    provider.release.set()
    await until(lambda: credentials.renewed() == ("jobs", "2"))
    assert len(provider.loops) == 2


async def test_a_failed_question_leaves_the_latest_answer_and_is_repeated(
    clock: MovedClock, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Provider(OSError("no route"), ("jobs", "a"), OSError("no route"))
    credentials = make(provider)
    with pytest.raises(StoreUnavailableError, match=r"the provider of credentials failed: OSError.*no route"):
        await credentials.current()
    assert await credentials.current() == ("jobs", "a")
    clock.moved += ASK_EVERY
    assert await credentials.current() == ("jobs", "a")
    assert "the provider of credentials for redis://cache.example failed" in caplog.text
    clock.moved += ASK_AGAIN
    assert await credentials.current() == ("jobs", "4")


async def test_a_provider_that_never_answers_is_an_outage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_module, "ANSWER_WITHIN", 0.01)
    provider = Provider()
    provider.release.clear()
    with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.01 s"):
        await make(provider).current()


@pytest.mark.parametrize("answer", [None, "password", ("a", "b", "c"), (), ("jobs", b"secret"), ["jobs", "secret"]])
async def test_an_answer_that_is_none_is_told_without_its_secret(answer: object, make: Make) -> None:
    with pytest.raises(StoreCredentialsError, match=r"expected \(password,\) or \(user, password\)") as raised:
        await make(Provider(answer)).current()
    assert "secret" not in str(raised.value)


async def test_an_empty_user_is_the_default_user(make: Make) -> None:
    """`AUTH` takes no empty user."""
    credentials = make(Provider(("", "secret"), ("", "")))
    assert await credentials.current() == ("secret",)
    assert credentials.user is None
    assert await credentials.instead_of(("secret",)) == ("",)


async def test_a_refusal_asks_once_for_all_connections(make: Make) -> None:
    provider = Provider()
    credentials = make(provider)
    refused = await credentials.current()
    answers = await asyncio.gather(*(credentials.instead_of(refused) for _ in range(5)))
    assert answers == [("jobs", "2")] * 5
    assert await credentials.instead_of(refused) == ("jobs", "2")


async def test_the_provider_runs_on_the_event_loop_of_the_store(make: Make) -> None:
    """The thread of a lease has another loop, on which the connections of a provider would not work."""
    provider = Provider()
    credentials = make(provider)
    credentials.live_here()
    found = list[object]()

    async def elsewhere() -> None:
        found.append(await credentials.current())
        found.append(await credentials.instead_of(("jobs", "1")))

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not thread.is_alive())
    assert found == [("jobs", "1"), ("jobs", "2")]
    assert provider.loops == [asyncio.get_running_loop()] * 2


def test_the_provider_follows_a_store_that_is_opened_on_another_loop() -> None:
    provider = Provider()
    credentials = Credentials(provider, url=URL, clock=MovedClock())

    async def once() -> object:
        return await credentials.instead_of(("jobs", "0"))

    assert asyncio.run(once()) == ("jobs", "1")

    async def again() -> object:
        return await credentials.instead_of(("jobs", "1"))

    assert asyncio.run(again()) == ("jobs", "2")


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("memory://", "none, except with a store on Redis or Valkey"),
        ("etcd://localhost", "none, except with a store on Redis or Valkey"),
        ("redis://user@localhost", "a store URL without a user and a password"),
        ("redis://:secret@localhost", "a store URL without a user and a password"),
        ("valkey+glide://localhost", r"a store URL without \+glide"),
    ],
)
def test_a_store_that_asks_no_provider_refuses_it(store: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as raised:
        Node(store, credentials=UsernamePasswordCredentialProvider("jobs", "hidden"))
    assert raised.value.option == "credentials"
    assert "hidden" not in str(raised.value)


def test_only_a_store_by_url_takes_a_provider() -> None:
    store = open_store("memory://", namespace="jobs", clock=MovedClock(), limits=StoreLimits())
    with pytest.raises(OptionError, match="none, except with a store by URL"):
        Node(store, credentials=UsernamePasswordCredentialProvider("jobs", "hidden"))
    with pytest.raises(OptionError, match="a CredentialProvider of redis-py"):
        Node("redis://localhost", credentials=cast("Any", "hidden"))


def test_a_coordinator_takes_a_provider_unless_its_url_has_credentials() -> None:
    provider = UsernamePasswordCredentialProvider("jobs", "hidden")
    for coordinator in ("redis://user:secret@localhost", "redis://localhost", "memory://"):
        Node("redis://localhost", coordinator=coordinator, credentials=provider)
    for store in ("memory://", "valkey+glide://localhost", "redis://:secret@localhost"):
        Node(store, coordinator="redis://localhost", credentials=provider)
        with pytest.raises(OptionError) as raised:
            Node(store, coordinator="redis://:secret@localhost", credentials=provider)
        assert raised.value.option == "credentials"


async def test_a_thread_without_an_event_loop_has_the_latest_credentials_after_the_loop_of_the_provider_ended(
    make: Make, clock: MovedClock
) -> None:
    credentials = make(Provider())
    loop = asyncio.new_event_loop()

    async def first() -> None:
        credentials.live_here()
        await credentials.current()

    def play() -> object:
        loop.run_until_complete(first())
        loop.close()
        clock.moved += ASK_EVERY
        return credentials.renewed()

    assert await asyncio.to_thread(play) == ("jobs", "1")
