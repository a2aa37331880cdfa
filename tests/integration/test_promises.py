"""What stores keep, where no other test shows it: cells of the table in docs/guarantees.md."""

import re
import shutil
from pathlib import Path

import pytest

from peerjob import Job, Node, UnknownInstanceError
from support.processes import ChildProcess
from support.servers import StartServer
from support.waiting import until

_WAL = re.compile(r"\d+ +(?P<call>pwrite64|fdatasync)\(\d+<[^>]*-wal>")
_TOLD = re.compile(r"\d+ +write\(1<")
_SYNCED = re.compile(r"\d+ +(?:fdatasync\(\d+<[^>]*-wal>|<\.\.\. fdatasync resumed>).*= 0$")


def nothing() -> None:
    pass


NOTHING = Job("nothing", nothing)


async def test_a_store_in_memory_ends_with_its_node() -> None:
    async with Node("memory://", jobs=[NOTHING], workers=0) as node:
        instance = await node.schedule(NOTHING)
    async with Node("memory://", jobs=[NOTHING], workers=0) as node:
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance(instance.id)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_crash_loses_what_came_after_the_last_snapshot(
    kind: str, start_server: StartServer, namespace: str
) -> None:
    server = start_server("redis" if kind == "redis" else "valkey", config=("--save", "3600 1000000"))
    async with Node(server.url, namespace=namespace, jobs=[NOTHING], workers=0) as node:
        before = await node.schedule(NOTHING)
        server.command("SAVE")
        after = await node.schedule(NOTHING)
        server.kill()
        server.start()
        assert (await node.lookup_instance(before.id)).id == before.id
        with pytest.raises(UnknownInstanceError):
            await node.lookup_instance(after.id)


@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_a_write_to_a_file_is_acknowledged_when_the_disk_has_it(sync: str, tmp_path: Path) -> None:
    """With `sync=normal`, some are acknowledged before: otherwise the other half would prove nothing."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace on the PATH (Debian: apt-get install strace)")
    trace = tmp_path / "trace"
    calls = ("-e", "trace=pwrite64,fdatasync,write", "-o", str(trace))
    wrapped = (strace, "-DDD", "-f", "-q", "-y", "-s", "0", *calls, "--")
    url = f"sqlite://{tmp_path / 'peerjob.db'}?sync={sync}"
    with ChildProcess.python(
        "support.sqlite_process", "write", url, "one", output=tmp_path / "log", wrapper=wrapped
    ) as writer:
        await writer.line("wrote 40$")
        writer.kill()
        await until(lambda: bool(re.search(r"\+\+\+ killed", trace.read_text(errors="replace"))))

    acknowledged, unsynced = _acknowledged(trace)
    assert acknowledged > 40
    assert (unsynced == 0) is (sync == "full")


def _acknowledged(trace: Path) -> tuple[int, int]:
    """How many lines the process printed, and before how many of them its last write to the file was not synced."""
    told = unsynced = 0
    dirty = False
    for line in trace.read_text(errors="replace").splitlines():
        if _SYNCED.match(line):
            dirty = False
        elif (match := _WAL.match(line)) and match["call"] == "pwrite64":
            dirty = True
        elif _TOLD.match(line):
            told += 1
            unsynced += dirty
    return told, unsynced
