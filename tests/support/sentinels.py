"""A primary with replicas, and the sentinels that watch them."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import redis

from support.etcd import Certificates
from support.servers import SERVERS, Server, ServerKind, ServerProcess, free_port, tls_scheme
from support.waiting import LOOK, PATIENCE

NAME = "mymaster"
PASSWORD, SENTINEL_PASSWORD = "of-the-servers", "of-the-sentinels"
DOWN_AFTER = 2.5
"""Seconds, more than a machine stands still: a store does not open while a sentinel says that the primary is down."""
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A new replica is served without waiting for others."""


class SentinelProcess(ServerProcess):
    """One sentinel."""

    ready = r"\+monitor master"

    kind = "sentinel"

    def __init__(self, kind: ServerKind, primary: int, *, quorum: int, tls: Certificates | None) -> None:
        super().__init__()
        self._binary = SERVERS[kind].binary()
        self._monitored = f"127.0.0.1 {primary} {quorum}"
        self._tls = tls

    @classmethod
    def binary(cls) -> Path:
        """A sentinel runs the program of a server, which `__init__` finds."""
        return Path()

    def options(self, port: int) -> Sequence[str]:
        lines = [
            f"port {0 if self._tls else port}",
            "bind 127.0.0.1",
            f"dir {self._home.name}",
            f"sentinel monitor {NAME} {self._monitored}",
            f"sentinel down-after-milliseconds {NAME} {round(DOWN_AFTER * 1000)}",
            f"sentinel failover-timeout {NAME} 3000",
            f"sentinel parallel-syncs {NAME} 2",
            f"sentinel auth-pass {NAME} {PASSWORD}",
            f"requirepass {SENTINEL_PASSWORD}",
        ]
        if self._tls:
            words = tls_words(self._tls)
            lines += [
                f"tls-port {port}",
                *(f"{name} {value}" for name, value in zip(words[::2], words[1::2], strict=True)),
            ]
        config = Path(self._home.name, "sentinel.conf")
        if not config.exists():  # the sentinel writes its state there
            config.write_text("\n".join([*lines, ""]))
        return [str(config), "--sentinel"]

    def hurry(self) -> None:
        """Find the replicas and the other sentinels sooner. Faster votes would split, and be repeated seconds later."""
        periods = ("info", "publish")
        self._run("SENTINEL", "DEBUG", *(word for name in periods for word in (f"{name}-period", "100")))

    def ask(self, *words: str) -> dict[str, str]:
        """A map that the sentinel answers."""
        flat = cast("list[str]", self._run(*words))
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _run(self, *words: str) -> object:
        files = {"ssl": True, "ssl_ca_certs": str(self._tls.ca)} if self._tls else {}
        options: dict[str, Any] = {"password": SENTINEL_PASSWORD, "decode_responses": True, "protocol": 2, **files}
        with redis.Redis(port=self.port, **options) as client:
            run = cast("Callable[..., object]", client.execute_command)  # pyright: ignore[reportUnknownMemberType]
            return run(*words)

    def wait_until_it_knows(self, replicas: int, others: int) -> None:
        """Wait until the sentinel has found the replicas and the other sentinels."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            known = self.ask("SENTINEL", "MASTER", NAME)
            if (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (replicas, others):
                return
            time.sleep(LOOK)
        raise AssertionError("the sentinel does not know all others")


class WatchedServers:
    """A primary and its replicas, watched by sentinels; servers and sentinels have passwords of their own."""

    def __init__(
        self, kind: ServerKind, *, replicas: int = 2, sentinels: int = 3, tls: Certificates | None = None
    ) -> None:
        self._kind: ServerKind = kind
        self._tls = tls
        self._counts = (replicas, sentinels)
        self._cleanup = contextlib.ExitStack()
        self.servers: list[Server] = []
        self.sentinels: list[SentinelProcess] = []

    @property
    def url(self) -> str:
        """The URL that a node takes as its store."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        scheme = f"{tls_scheme(self._kind) if self._tls else self._kind}+sentinel"
        tls = f"&ca_certs={self._tls.ca}" if self._tls else ""
        return f"{scheme}://:{PASSWORD}@{hosts}/{NAME}?db=0{tls}&sentinel_password={SENTINEL_PASSWORD}"

    def with_options(self, options: str) -> str:
        """The URL with more options."""
        return self.url.replace("?db=0", f"?db=0&{options}")

    def primary(self) -> Server:
        """The server that is the primary by the word of the first sentinel."""
        return self._primary_of(self.sentinels[0])

    def agreed_primary(self) -> Server | None:
        """The server that is the primary by the word of each sentinel; None while they differ.

        A sentinel that has not heard of a failover makes the new primary a replica of the old one, as soon as that runs
        again. If it has restarted without its data, all data is lost. So a test restarts it only after all agree.
        """
        first, *others = map(self._primary_of, self.sentinels)
        return first if all(one is first for one in others) else None

    def _primary_of(self, sentinel: SentinelProcess) -> Server:
        port = int(sentinel.ask("SENTINEL", "MASTER", NAME)["port"])
        return next(server for server in self.servers if port in (server.port, server.tls_port))

    def __enter__(self) -> Self:
        replicas, sentinels = self._counts
        try:
            for _ in range(1 + replicas):
                self._add_server()
            for setting in ("masterauth", "requirepass"):
                for server in self.servers:
                    server.command("CONFIG", "SET", setting, PASSWORD)
            for _ in range(sentinels):
                first = self.servers[0]
                sentinel = SentinelProcess(
                    self._kind, first.tls_port or first.port, quorum=sentinels // 2 + 1, tls=self._tls
                )
                self._cleanup.callback(sentinel.close)
                self.sentinels.append(sentinel.start())
                sentinel.hurry()
            for sentinel in self.sentinels:
                sentinel.wait_until_it_knows(replicas, sentinels - 1)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def _add_server(self) -> None:
        config: list[str] = [*AT_ONCE]
        port = free_port() if self._tls else 0
        if self._tls:
            config += ["--tls-port", str(port), *tls_words(self._tls, "--")]
        if self.servers:
            first = self.servers[0]
            config += ["--replicaof", f"127.0.0.1 {first.tls_port or first.port}"]
        server = SERVERS[self._kind](config=config)
        server.tls_port = port
        self._cleanup.callback(server.close)
        self.servers.append(server.start())
        if len(self.servers) > 1:
            # a replica counts only after its first acknowledgement
            assert self.servers[0].command("WAIT", len(self.servers) - 1, 50_000) == len(self.servers) - 1

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()


def tls_words(tls: Certificates, dashes: str = "") -> list[str]:
    """The settings of servers and sentinels that use TLS among each other, too."""
    files = {"tls-cert-file": tls.server_cert, "tls-key-file": tls.server_key, "tls-ca-cert-file": tls.ca}
    settings = {**{name: str(path) for name, path in files.items()}, "tls-replication": "yes", "tls-auth-clients": "no"}
    return [word for name, value in settings.items() for word in (f"{dashes}{name}", value)]
