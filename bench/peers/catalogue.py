"""The peers: what each is installed from, how its worker is started, and what it keeps in this configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

ServiceKind = Literal["redis", "valkey", "etcd", "postgres", "sqlite", "memory"]
Commands = Callable[[int, int], list[list[str]]]
"""From a number of processes and of slots in each: the commands to start. `@` stands for the folder of programs."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    name: str
    requirements: tuple[str, ...]
    """What pip installs; `.` is this checkout."""
    program: str
    worker: Commands
    jobs: int
    """How many jobs a drain has: some seconds of work."""
    service: ServiceKind = "redis"
    drain_slots: int = 10
    """How many jobs a process runs at a time in a drain: 1 where each running job needs a process of its own."""
    blocking: tuple[str, ...] | None = None
    """The arguments of the program for a producer that blocks; None if the peer has only asynchronous calls."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Settings that the peer takes from the environment."""
    keeps: str
    setting: str
    """What differs from the peer's defaults, for the page."""
    reference: bool = False
    """No job queue, but a bound for those."""

    @property
    def venv(self) -> str:
        """The name of its venv: the stores of a version of peerjob share one."""
        return self.name.partition(" ")[0]

    @property
    def called(self) -> tuple[str, ...]:
        """What selects it: `peerjob` and `redis` both select `peerjob redis://`."""
        return (self.venv, self.service) if self.venv.startswith("peerjob") else (self.name,)

    @property
    def inside(self) -> bool:
        """Its jobs run in the process that enqueues them."""
        return self.service == "memory"


def _program(name: str) -> Commands:
    """Start `use_NAME.py work` once for each process."""
    return lambda processes, slots: [["@python", f"use_{name}.py", "work"]] * processes


def _celery(processes: int, slots: int) -> list[list[str]]:
    quiet = ["--loglevel=warning", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [["@celery", "-A", "use_celery", "worker", f"--concurrency={processes * slots}", *quiet]]


def _dramatiq(processes: int, slots: int) -> list[list[str]]:
    return [["@dramatiq", "use_dramatiq", f"--processes={processes}", f"--threads={slots}"]]


def _huey(processes: int, slots: int) -> list[list[str]]:
    return [["@huey_consumer", "use_huey.huey", "--worker-type=thread", f"--workers={slots}", "--quiet"]] * processes


def _rq(processes: int, slots: int) -> list[list[str]]:
    count = processes * slots
    options = ["--worker-class=rq.SimpleWorker", "--quiet", "--url=@url"]
    return [["@rq", "worker-pool", f"--num-workers={count}", *options, "default"]]


def _taskiq(processes: int, slots: int) -> list[list[str]]:
    options = [f"--max-async-tasks={slots}", "--log-level=WARNING"]
    return [["@taskiq", "worker", "use_taskiq:broker", f"--workers={processes}", *options]]


def before(source: Path, commit: str) -> tuple[Peer, ...]:
    """What peerjob was at a commit of the repository `source`, on Redis and on Valkey."""
    return tuple(
        replace(
            peer,
            name=f"peerjob-{commit} {peer.service}://",
            requirements=(f"git+{source.as_uri()}@{commit}", "hiredis", "uvloop"),
            setting=f"as `{peer.name}`, at commit {commit}",
        )
        for peer in PEERS
        if peer.name in ("peerjob redis://", "peerjob valkey://")
    )


def _peerjob(name: str, service: ServiceKind, jobs: int, setting: str) -> Peer:
    return Peer(
        name=f"peerjob {name}",
        # each store in one venv; a worker imports only the client of its own
        requirements=(".[cluster]", "hiredis"),
        program="use_peerjob.py",
        worker=_program("peerjob"),
        blocking=("sync",),
        jobs=jobs,
        service=service,
        keeps="result, arguments, history",
        setting=setting,
    )


PEERS: tuple[Peer, ...] = (
    Peer(
        name="bare",
        requirements=("redis[hiredis]", "uvloop"),
        program="use_bare.py",
        worker=_program("bare"),
        jobs=40_000,
        keeps="nothing",
        setting="LPUSH and BRPOP with redis-py, asyncio and uvloop: no job queue, but a bound",
        reference=True,
    ),
    _peerjob("redis://", "redis", 40_000, "defaults, uvloop"),
    _peerjob("valkey://", "valkey", 40_000, "defaults, uvloop"),
    _peerjob("etcd://", "etcd", 8_000, "defaults, uvloop; etcd syncs each write to disk"),
    _peerjob("sqlite://", "sqlite", 16_000, "defaults, uvloop; each commit is synced to disk"),
    _peerjob("memory://", "memory", 40_000, "defaults, uvloop; the jobs run in the process that schedules them"),
    Peer(
        name="celery",
        requirements=("celery[redis]", "hiredis"),
        program="use_celery.py",
        blocking=(),
        worker=_celery,
        jobs=8_000,
        drain_slots=1,
        keeps="nothing",
        setting="prefork; no results, prefetch 128, no gossip, no mingle, no heartbeat",
    ),
    Peer(
        name="rq",
        requirements=("rq", "hiredis"),
        program="use_rq.py",
        blocking=(),
        worker=_rq,
        jobs=6_000,
        drain_slots=1,
        keeps="nothing",
        setting="worker-pool of SimpleWorker, which does not fork for each job; result_ttl=0",
    ),
    Peer(
        name="arq",
        requirements=("arq", "hiredis", "uvloop"),
        program="use_arq.py",
        worker=_program("arq"),
        jobs=8_000,
        keeps="nothing",
        setting="uvloop; keep_result=0, poll_delay=0.001 (default 0.5)",
    ),
    Peer(
        name="taskiq",
        requirements=("taskiq[uv,orjson]", "taskiq-redis", "hiredis"),
        program="use_taskiq.py",
        worker=_taskiq,
        jobs=8_000,
        keeps="the stream of messages; no result",
        setting="RedisStreamBroker, uvloop, orjson; no results",
    ),
    Peer(
        name="dramatiq",
        requirements=("dramatiq[redis]", "hiredis"),
        program="use_dramatiq.py",
        blocking=(),
        worker=_dramatiq,
        jobs=16_000,
        keeps="nothing",
        env={"dramatiq_queue_prefetch": "100"},
        setting="Redis broker, ten threads, dramatiq_queue_prefetch=100 (default 20); no results",
    ),
    Peer(
        name="huey",
        requirements=("huey[redis]", "hiredis"),
        program="use_huey.py",
        blocking=(),
        worker=_huey,
        jobs=16_000,
        keeps="nothing",
        # more threads only fight for the interpreter
        drain_slots=1,
        setting="RedisHuey; one thread in drains, as by default, else ten; no results",
    ),
    Peer(
        name="saq",
        # saq 0.26 imports typing_extensions without asking for it
        requirements=("saq[redis,hiredis]", "uvloop", "typing_extensions"),
        program="use_saq.py",
        worker=_program("saq"),
        jobs=8_000,
        keeps="nothing",
        setting="Redis, uvloop; ttl=-1",
    ),
    Peer(
        name="streaq",
        requirements=("streaq", "uvloop"),
        program="use_streaq.py",
        worker=_program("streaq"),
        jobs=12_000,
        keeps="the result, for a second",
        setting="uvloop; ttl=1 s, the least",
    ),
    Peer(
        name="docket",
        requirements=("pydocket", "hiredis", "uvloop"),
        program="use_docket.py",
        worker=_program("docket"),
        jobs=6_000,
        keeps="nothing",
        setting="uvloop; execution_ttl=0, minimum_check_interval=1 ms (default 250)",
    ),
    Peer(
        name="procrastinate",
        requirements=("procrastinate", "psycopg[binary,pool]", "uvloop"),
        program="use_procrastinate.py",
        blocking=("sync",),
        worker=_program("procrastinate"),
        jobs=3_000,
        service="postgres",
        keeps="nothing",
        setting="psycopg 3, uvloop; delete_jobs=successful. PostgreSQL syncs each commit to disk",
    ),
)
