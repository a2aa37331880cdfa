"""A process that works on the file of a SQLite store, to be killed and stopped by tests.

`write NAME` writes until it is killed: each transaction adds one to a counter that all processes share, and one key of
its own; it prints each number that was acknowledged, and its stalls. `hold` takes the turn to write, and keeps a
transaction open. `fork` forks while its store is open, and `forks` does so many times in a row. `refused` opens a
folder that its user may not write.

`stranger` prints which files another user can open, and `member` shares a file as a user of a group: both need root.
"""

import asyncio
import codecs
import os
import select
import sys
import time
from pathlib import Path

from peerjob.model.clock import SystemClock
from peerjob.model.errors import OptionError, StoreError
from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Transaction, mod_of
from peerjob.store.sqlite.address import parse_address
from peerjob.store.sqlite.driver import SqliteKeyValue
from peerjob.store.sqlite.requests import request_of
from peerjob.store.sqlite.session import Session
from peerjob.store.sqlite.watch import SqliteWatch
from support.stalls import Stalls, tell

NOBODY = 65534
GROUP = 54321
COUNTER = "test/counter"


async def write(url: str, name: str) -> None:
    kv = SqliteKeyValue(parse_address(url), SystemClock())
    await kv.open()
    number = 0
    print("writes", flush=True)
    with Stalls(tell=tell):
        while True:
            (entry,) = await kv.get([COUNTER])
            count = 0 if entry is None else int(entry.value)
            # a commit of a job deletes its claim
            ops: list[Op] = [
                Put(COUNTER, b"%d" % (count + 1)),
                Put(f"test/by/{name}/{number:08d}", b"x" * 300),
                Delete("test/claim"),
            ]
            applied = await kv.txn([Transaction([Compare(COUNTER, mod=mod_of(entry))], ops)])
            if applied.answers[0] is not None:
                # in one piece, as `tell` does in another thread
                print(f"wrote {number}\n", end="", flush=True)
                number += 1


async def hold(url: str) -> None:
    address = parse_address(url)
    session = Session(address.path, url, SystemClock())
    assert session.lock.take()
    print("holds", flush=True)
    time.sleep(600)  # noqa: ASYNC251  # nothing else runs here


async def lease(url: str) -> None:
    kv = SqliteKeyValue(parse_address(url), SystemClock())
    await kv.open()
    await kv.txn([Transaction([], [Put("test/leased", b"", await kv.grant(1_000_000))])])
    print("leases", flush=True)
    time.sleep(600)  # noqa: ASYNC251  # nothing else runs here


def fork(url: str) -> None:
    parent = SqliteKeyValue(parse_address(url), SystemClock())
    with asyncio.Runner() as runner:
        runner.run(parent.open())
        runner.run(parent.txn([Transaction([], [Put("test/before", b"")])]))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.events.set_event_loop(None)
                asyncio.run(_in_child(parent, url))
                status = 0
            finally:
                os._exit(status)
        runner.run(parent.txn([Transaction([], [Put("test/parent", b"")])]))
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        found = runner.run(parent.get(["test/before", "test/parent", "test/child"]))
        print("found", sum(entry is not None for entry in found))
        runner.run(parent.close())


def forks(url: str) -> None:
    kv = SqliteKeyValue(parse_address(url), SystemClock())
    with asyncio.Runner() as runner:
        runner.run(kv.open())
        children = []
        for _ in range(50):
            children.append(os.fork())
            if children[-1] == 0:
                os._exit(0)
        for child in children:
            os.waitpid(child, 0)
        runner.run(kv.txn([Transaction([], [Put("test/parent", b"")])]))
        runner.run(kv.close())
    print("forked")


async def _in_child(inherited: SqliteKeyValue, url: str) -> None:
    try:
        await inherited.get(["test/before"])
    except StoreError as error:
        print(error, flush=True)
    await inherited.close()
    own = SqliteKeyValue(parse_address(url), SystemClock())
    await own.open()
    await own.txn([Transaction([], [Put("test/child", b"")])])
    (entry,) = await own.get(["test/before"])
    assert entry is not None
    await own.close()


async def refused(url: str) -> None:
    path = parse_address(url).path
    path.parent.chmod(0o555)
    if os.getuid() == 0:
        os.setuid(NOBODY)
    try:
        await SqliteKeyValue(parse_address(url), SystemClock()).open()
    except OptionError as error:
        print(error, path.exists())


def stranger(folder: str) -> None:
    names = sorted(os.listdir(folder))  # noqa: PTH208
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    for name in names:
        try:
            os.close(os.open(Path(folder, name), os.O_RDONLY))
        except PermissionError:
            continue
        print(f"opened {name}")
    print("tried", *names, flush=True)


async def member(url: str, user: str) -> None:
    # the other user may not read Python's own files
    codecs.lookup("ascii")
    os.setgroups([GROUP])
    os.setgid(int(user))
    os.setuid(int(user))
    session = Session(parse_address(url).path, url, SystemClock())
    assert session.lock.take()
    session.register([SqliteWatch(("test/",), 0, lambda _: None)])
    own = Transaction([], [Put(f"test/{user}", b"")])
    put = request_of(lambda shared, _: shared.apply([own], None, ()), writes=True, durable=False)
    session.write([put], [])
    session.lock.give()
    assert put.error is None
    print("wrote", flush=True)
    poll = select.poll()
    poll.register(session.socket or -1, select.POLLIN)
    poll.poll()
    print("heard", session.heard(), flush=True)
    time.sleep(600)  # noqa: ASYNC251  # nothing else runs here


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    match verb:
        case "write":
            asyncio.run(write(*arguments))
        case "hold":
            asyncio.run(hold(*arguments))
        case "lease":
            asyncio.run(lease(*arguments))
        case "stranger":
            stranger(*arguments)
        case "member":
            asyncio.run(member(*arguments))
        case "refused":
            asyncio.run(refused(*arguments))
        case "forks":
            forks(*arguments)
        case _:
            fork(*arguments)
