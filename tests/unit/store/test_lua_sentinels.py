"""Sentinels that refuse, hang, lag or answer nonsense, beside others that answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from peerjob.model.errors import StoreCommandError, StoreCredentialsError, StoreError, StoreUnavailableError
from peerjob.store.lua.client import sentinel as sentinel_module
from peerjob.store.lua.client.address import parse_address
from peerjob.store.lua.client.sentinel import Sentinels
from peerjob.store.url import Host
from support.listening import listening
from support.servers import free_port
from support.waiting import PATIENCE

NEW, OLD = Host("127.0.0.1", 1), Host("127.0.0.1", 2)
HANG = b""
WRONG_PASSWORD = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
UNKNOWN_NAME = b"-ERR No such master with that name\r\n"
NO_SENTINEL = b"-ERR unknown command 'SENTINEL', with args beginning with: 'MASTER' 'jobs'\r\n"
NONSENSE = b"*2\r\n$2\r\nip\r\n$1\r\nx\r\n"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is late, however busy the machine is."""
    monkeypatch.setattr(sentinel_module, "ASK_TIMEOUT", PATIENCE)


def knows(primary: Host, *, epoch: int = 2, flags: str = "master") -> bytes:
    """The answer of a sentinel that monitors a primary."""
    fields = {"ip": primary.name, "port": primary.port, "config-epoch": epoch, "flags": flags}
    words = [str(word) for pair in (fields | {"quorum": 2, "num-slaves": 1}).items() for word in pair]
    return f"*{len(words)}\r\n{''.join(map(_bulk, words))}".encode()


def _bulk(word: str) -> str:
    return f"${len(word)}\r\n{word}\r\n"


def switched(text: str) -> bytes:
    """A message of the channel +switch-master."""
    return f"*3\r\n{_bulk('message')}{_bulk('+switch-master')}{_bulk(text)}".encode()


@asynccontextmanager
async def sentinel(answer: bytes, messages: Sequence[bytes] = ()) -> AsyncGenerator[str]:
    """A sentinel that gives one answer to each question, and sends its subscribers some messages."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words: list[bytes] = []
            for _ in range(int(head[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip())
            match words[0].upper():
                case b"SENTINEL":
                    writer.write(answer)
                case b"SUBSCRIBE":
                    writer.write(f"*3\r\n{_bulk('subscribe')}{_bulk('+switch-master')}:1\r\n".encode())
                    writer.writelines(messages)
                case _:
                    writer.write(b"+OK\r\n")

    async with listening(serve) as port:
        yield f"127.0.0.1:{port}"


async def asking(cleanup: AsyncExitStack, *answers: bytes | None, messages: Sequence[bytes] = ()) -> Sentinels:
    """Sentinels with these answers; None for a sentinel that cannot be reached."""
    hosts = [
        f"127.0.0.1:{free_port()}" if one is None else await cleanup.enter_async_context(sentinel(one, messages))
        for one in answers
    ]
    return Sentinels(parse_address(f"redis+sentinel://{','.join(hosts)}/jobs"), connect_timeout=PATIENCE)


@pytest.mark.parametrize(
    "other",
    [WRONG_PASSWORD, UNKNOWN_NAME, NO_SENTINEL, NONSENSE, HANG, None, knows(OLD, epoch=1), knows(NEW, flags="s_down")],
)
async def test_one_sentinel_that_refuses_or_lags_does_no_harm(other: bytes | None) -> None:
    async with AsyncExitStack() as cleanup:
        for place in range(3):
            answers: list[bytes | None] = [knows(NEW), knows(NEW)]
            answers.insert(place, other)
            assert await (await asking(cleanup, *answers)).primary() == NEW


@pytest.mark.parametrize(
    ("refusal", "error"),
    [(WRONG_PASSWORD, StoreCredentialsError), (UNKNOWN_NAME, StoreError), (NO_SENTINEL, StoreCommandError)],
)
async def test_a_majority_of_refusals_is_told_and_fewer_are_an_outage(refusal: bytes, error: type[StoreError]) -> None:
    async with AsyncExitStack() as cleanup:
        with pytest.raises(error) as refused:
            await (await asking(cleanup, refusal, refusal, None)).primary()
        assert type(refused.value) is error
        with pytest.raises(StoreUnavailableError, match="no sentinel answers"):
            await (await asking(cleanup, refusal, None, None)).primary()


@pytest.mark.parametrize("flags", ["master,s_down", "master,s_down,o_down", "master,disconnected"])
async def test_a_primary_that_all_sentinels_miss_is_an_outage(flags: str) -> None:
    async with AsyncExitStack() as cleanup:
        with pytest.raises(StoreUnavailableError, match="wait for a failover of 127"):
            await (await asking(cleanup, *[knows(OLD, flags=flags)] * 3)).primary()


async def test_a_failover_is_heard_after_a_message_that_cannot_be_read() -> None:
    messages = [
        switched(f"others {OLD.name} {OLD.port} {OLD.name} {OLD.port}"),
        switched(f"jobs {OLD.name} {OLD.port} {NEW.name} {NEW.port}"),
        switched("jobs nonsense"),
    ]
    heard: asyncio.Queue[Host] = asyncio.Queue()
    async with AsyncExitStack() as cleanup, asyncio.timeout(PATIENCE):
        sentinels = await asking(cleanup, knows(OLD), messages=messages)
        following = asyncio.create_task(sentinels.follow(heard.put))
        try:
            assert [await heard.get() for _ in range(4)] == [OLD, NEW, OLD, NEW]
        finally:
            following.cancel()
