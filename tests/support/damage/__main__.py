"""Play the cases of a store: PYTHONPATH=tests .venv/bin/python -m support.damage etcd --class '^own' --damage empty."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from support.etcd import SHORT_LEASES, EtcdServer
from support.servers import RedisServer, Server, ValkeyServer

from .logs import case_logs
from .matrix import AT_ONCE, plan, play, share
from .values import Etcd, Holder, Redis, Sqlite

STORES = ("redis", "valkey", "etcd", "sqlite")


@contextmanager
def holder_of(store: str) -> Generator[Holder]:
    """A store with a server or a folder of its own."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory(prefix="peerjob-damage-", dir="/dev/shm") as folder:
            yield Sqlite(Path(folder))
        return
    server: Server | EtcdServer
    if store == "etcd":
        server = EtcdServer(config=SHORT_LEASES)
    else:
        server = RedisServer() if store == "redis" else ValkeyServer()
    try:
        server.start()
        with closing(Etcd(server.url) if store == "etcd" else Redis(server.url)) as holder:
            yield holder
    finally:
        server.close()


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=STORES)
    parser.add_argument("--class", dest="name", default="", help="a regular expression that the class must match")
    parser.add_argument("--damage", default="", help="the same for the damage")
    parser.add_argument("--count", type=int, default=0, help="so many cases, chosen by the seed; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--list", action="store_true", help="print the cases only")
    chosen = parser.parse_args()
    failed = 0
    with holder_of(chosen.store) as holder, case_logs() as logs:
        cases = [
            case
            for case in await plan(holder, "planx")
            if re.search(chosen.name, case.name) and re.search(chosen.damage, case.damage)
        ]
        if chosen.count:
            cases = share(cases, chosen.count, chosen.seed)
        if chosen.list:
            print(*cases, sep="\n")
        else:
            began = time.monotonic()
            async for verdict in play(holder, cases, logs, prefix="d", at_once=chosen.at_once):
                failed += bool(verdict.problems)
                if verdict.problems:
                    print(verdict, flush=True)
            print(f"{len(cases)} cases, {failed} failed, {time.monotonic() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
