"""Stalls of a server: its disk or its processor is slow, while this process is not."""

import base64
import contextlib
import http.client
import json
import math
import threading
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import redis

from support.stalls import TOLD, Span, now_us

STEP = 0.05
HANG = 5.0
"""Seconds from which on a server hangs, as tests let it. A machine is not slow for so long, so this is no stall."""
_PUT = json.dumps({"key": base64.b64encode(b"stalls").decode(), "value": ""})


class ServerStalls:
    """Notes, in a thread of its own, each small call that an etcd, a Redis or a Valkey answers late.

    Other URLs have no stalls. A server that is away has none, because a test took it away. Nor has a Redis that works
    meanwhile: then the scripts of the nodes are slow.
    """

    def __init__(self, url: str | None) -> None:
        parts = urlsplit(url or "")
        is_redis = parts.scheme in ("redis", "valkey", "valkey+glide")
        self._talk = self._ask if is_redis else self._write
        self._endpoints: Sequence[str] = parts.netloc.split(",") if is_redis or parts.scheme == "etcd" else ()
        self._spans: list[Span] = []
        self._asked_us: int | None = None
        """When the call that is under way was sent."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls-of-server", daemon=True)

    def spans(self) -> list[Span]:
        """Each stall so far; one that lasts still counts until now."""
        asked_us, answered_us = self._asked_us, now_us()
        lasting = [] if asked_us is None else _late(asked_us, answered_us)
        return [*self._spans, *lasting]

    def __enter__(self) -> Self:
        if self._endpoints:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._endpoints:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            for endpoint in self._endpoints:
                with contextlib.suppress(OSError, http.client.HTTPException, redis.RedisError):
                    self._talk(endpoint)
            self._over.wait(STEP)

    def _write(self, endpoint: str) -> None:
        """Write to an etcd on one connection, until the etcd is away."""
        with contextlib.closing(http.client.HTTPConnection(endpoint, timeout=HANG)) as connection:
            connection.connect()
            while not self._over.wait(STEP):
                with self._calling() as asked_us:
                    connection.request("POST", "/v3/kv/put", _PUT)
                    connection.getresponse().read()
                    self._spans += _late(asked_us, now_us())

    def _ask(self, endpoint: str) -> None:
        """Ask a Redis for its processor time on one connection, until the server is away."""
        host, _, port = endpoint.rpartition(":")
        with redis.Redis(host=host, port=int(port), socket_timeout=HANG) as client:
            worked = math.inf  # not known before the first answer, which can be late, too
            while not self._over.wait(STEP):
                with self._calling() as asked_us:
                    before, worked = worked, _processor_seconds(client)
                    answered_us = now_us()
                    if (answered_us - asked_us) / 1_000_000 - (worked - before) > TOLD:
                        self._spans += _late(asked_us, answered_us)

    @contextlib.contextmanager
    def _calling(self) -> Generator[int]:
        self._asked_us = asked_us = now_us()
        try:
            yield asked_us
        finally:
            self._asked_us = None


def _processor_seconds(client: redis.Redis) -> float:
    told = cast("dict[str, float]", client.info("cpu"))  # pyright: ignore[reportUnknownMemberType]
    return told["used_cpu_user"] + told["used_cpu_sys"]


def _late(asked_us: int, answered_us: int) -> list[Span]:
    return [(asked_us, answered_us)] if TOLD < (answered_us - asked_us) / 1_000_000 < HANG else []
