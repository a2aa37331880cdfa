"""Measures throughput, latency, cost and memory on servers that it starts itself.

Every line is a JSON object; a table with the targets stands at the end. Medians of interleaved rounds.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import measures
from files import SqliteFile
from measures import Target
from parts import PARTS, Row, medians
from support.etcd import EtcdServer
from support.servers import GlideServer, MissingServerError, RedisServer, ServerProcess, ValkeyServer

SERVERS: dict[str, Callable[[], ServerProcess | SqliteFile]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "valkey+glide": GlideServer,
    "etcd": EtcdServer,
    "sqlite": lambda: SqliteFile("full"),
    "sqlite-normal": lambda: SqliteFile("normal"),
}


async def main(engines: list[str], rounds: int, chosen: list[str]) -> None:
    rows: list[Row] = []
    if "memory" in engines:
        rate = (await medians(measures.memory_store, rounds))["per_second"]
        rows.append(Row("schedule, run and commit", "memory", rate, "jobs/s", 10_000))
        tell(rows)
    for engine in engines:
        if engine not in SERVERS:
            continue
        try:
            server = SERVERS[engine]()
        except MissingServerError as missing:
            print(json.dumps({"engine": engine, "skipped": str(missing)}), flush=True)
            continue
        server.start()
        try:
            etcd = server if isinstance(server, EtcdServer) else None
            file = server.path if isinstance(server, SqliteFile) else None
            pid = None if isinstance(server, SqliteFile) else server.child.pid
            target = Target(engine=engine, url=server.url, pid=pid, etcd=etcd, file=file)
            for part in chosen:
                found = await PARTS[part](target, rounds)
                tell(found)
                rows += found
        finally:
            server.close()
    show(rows)


def tell(rows: list[Row]) -> None:
    for row in rows:
        print(json.dumps({**row.__dict__, "reached": row.reached}), flush=True)


def show(rows: list[Row]) -> None:
    table = Table(title="peerjob benchmark: medians of one run, servers and clients on this machine")
    for column in ("", "engine", "measured", "target", ""):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for row in rows:
        sign = "≥" if row.best == "high" else "≤"
        goal = "" if row.target is None else f"{sign} {_number(row.target)} {row.unit}"
        mark = {True: "ok", False: "short", None: ""}[row.reached]
        table.add_row(row.what, row.engine, f"{_number(row.value)} {row.unit}", goal, mark)
    Console(width=120).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--engines",
        default="memory,redis,valkey,etcd,sqlite,sqlite-normal",
        help="which, with commas (default: all but valkey+glide)",
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per figure (default: 3)")
    given = parser.parse_args()
    chosen = given.only.split(",")
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    uvloop.run(main(given.engines.split(","), given.rounds, chosen))
