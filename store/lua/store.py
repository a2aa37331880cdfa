"""The store on Redis or Valkey: all commands, over the driver of the URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError
from peerjob.model.extras import needs_extra
from peerjob.model.record import StoreLimits
from peerjob.store.calls import RETRY_FOR, answer_within
from peerjob.store.rules import check_layout
from peerjob.store.url import redact

from .check.capabilities import capabilities_of
from .client.address import Address, parse_address
from .client.blocking_driver import BlockingDriver
from .client.credentials import Credentials
from .client.driver import Driver, prefix
from .client.redis_driver import RedisDriver
from .commands.limit_commands import LuaLimitCommands
from .commands.need_checks import LuaNeedChecks
from .commands.node_commands import LuaNodeCommands
from .commands.queue_commands import LuaQueueCommands
from .commands.read_commands import LuaReadCommands
from .commands.retention_commands import LuaRetentionCommands
from .commands.schedule_commands import LuaScheduleCommands
from .commands.separate_clients import LuaElections, LuaLiveness
from .direct_calls import DirectCommands, LuaDirectCalls
from .scripts.rights import check_rights, checked_commands

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

OPEN_TIMEOUT = 4.5
_MAX_WIPED = 1_000


class LuaStore(
    LuaQueueCommands,
    LuaNodeCommands,
    LuaScheduleCommands,
    LuaReadCommands,
    LuaRetentionCommands,
    LuaLimitCommands,
    LuaNeedChecks,
):
    """One namespace on one server or cluster."""

    def __init__(
        self,
        address: Address,
        driver: Driver,
        make_separate_driver: Callable[[], Driver],
        *,
        clock: Clock,
        limits: StoreLimits,
        retry_for: float,
        credentials: Credentials | None,
    ) -> None:
        super().__init__(driver, clock=clock, limits=limits, retry_for=retry_for)
        self._address = address
        self._retry_for = retry_for
        self._make_separate_driver = make_separate_driver
        self._credentials = credentials
        self._capabilities = Capabilities(engine=address.scheme, durability="none")
        self._direct: BlockingDriver | None = None

    @property
    def url(self) -> str:
        return self._driver.url

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def local_objects(self) -> dict[str, Any] | None:
        return None

    def direct_calls(self) -> LuaDirectCalls | None:
        # confirmations wait on the event loop, and the connections of valkey-glide are its own
        if self._address.durability is not None or not isinstance(self._driver, RedisDriver):
            return None
        if self._direct is None:
            self._direct = BlockingDriver(self._address, self._driver, credentials=self._credentials)
        commands = DirectCommands(self._direct, clock=self._clock, limits=self._limits)
        return LuaDirectCalls(commands, self._retry_for)

    async def open(self) -> None:
        if self._credentials is not None:
            self._credentials.live_here()
        try:
            async with answer_within(OPEN_TIMEOUT, url=self.url):
                await self._driver.open()
                self._capabilities = await capabilities_of(self._driver, self._address)
                keys = prefix(self._driver.namespace)
                ((layout, denied, missing),) = await self._driver.run(("open", (checked_commands(keys),)))
                check_rights(denied, missing, url=self.url, user=self._driver.user, prefix=keys)
                check_layout(layout.decode(), namespace=self._driver.namespace, url=self.url)
                self._layout = int(layout)
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await self._driver.close()
            raise

    async def wipe(self) -> int:
        await self._driver.open()
        cursor, removed = b"0", 0
        while True:
            reply = await self._run("wipe", cursor, _MAX_WIPED)
            cursor, removed = reply[0], removed + int(reply[1])
            if cursor == b"0":
                return removed

    async def close(self) -> None:
        await self._driver.close()
        direct, self._direct = self._direct, None
        if direct is not None:
            await direct.close()
        if self._credentials is not None:
            await self._credentials.close()

    def liveness(self) -> LuaLiveness:
        return LuaLiveness(self.url, self._make_separate_driver, clock=self._clock)

    def elections(self) -> LuaElections:
        return LuaElections(self.url, self._make_separate_driver, clock=self._clock)


def lua_store(
    url: str,
    *,
    namespace: str,
    clock: Clock,
    limits: StoreLimits,
    retry_for: float = RETRY_FOR,
    credentials: CredentialProvider | None = None,
) -> LuaStore:
    """The store that a redis or valkey URL names, not opened yet; `+glide` in the scheme chooses valkey-glide."""
    address = parse_address(url)
    given = None if credentials is None else _credentials_of(credentials, address, clock)

    def make_driver() -> Driver:
        if address.library == "glide":
            with needs_extra("valkey", redact(url)):
                from .client.glide_driver import GlideDriver

            return GlideDriver(address, namespace=namespace)
        return make_separate_driver()

    def make_separate_driver() -> Driver:
        # Do not use GLIDE for the lease and the leadership: all GLIDE clients of a process stop with the event loop of
        # the first client.
        return RedisDriver(address, namespace=namespace, credentials=given)

    return LuaStore(
        address,
        make_driver(),
        make_separate_driver,
        clock=clock,
        limits=limits,
        retry_for=retry_for,
        credentials=given,
    )


def _credentials_of(provider: CredentialProvider, address: Address, clock: Clock) -> Credentials:
    expected = ""
    if address.library == "glide":
        expected = "a store URL without +glide: only connections of redis-py ask a provider"
    elif address.username or address.password:
        expected = "a store URL without a user and a password"
    if expected:
        raise OptionError("credentials", type(provider).__name__, expected)
    return Credentials(provider, url=address.url, clock=clock)
