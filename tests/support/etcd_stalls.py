"""Stalls of an etcd: its disk or its processor is slow, while this process is not."""

import base64
import contextlib
import http.client
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from support.stalls import TOLD, Span, now_us

STEP = 0.05
HANG = 5.0
"""Seconds from which on an etcd hangs, as tests let it. A machine is not slow for so long, so this is no stall."""
_PUT = json.dumps({"key": base64.b64encode(b"stalls").decode(), "value": ""})


class EtcdStalls:
    """Notes, in a thread of its own, each small write that the etcd of a URL answers late; other URLs have none.

    An etcd that is away has no stalls: a test took it away.
    """

    def __init__(self, url: str | None) -> None:
        parts = urlsplit(url or "")
        self._endpoints: Sequence[str] = parts.netloc.split(",") if parts.scheme == "etcd" else ()
        self._spans: list[Span] = []
        self._asked_us: int | None = None
        """When the write that is under way was sent."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls-of-etcd", daemon=True)

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
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self._write_to(http.client.HTTPConnection(endpoint, timeout=HANG))
            self._over.wait(STEP)

    def _write_to(self, connection: http.client.HTTPConnection) -> None:
        """Write on one connection, until the etcd is away."""
        with contextlib.closing(connection):
            connection.connect()
            while not self._over.wait(STEP):
                self._asked_us = asked_us = now_us()
                try:
                    connection.request("POST", "/v3/kv/put", _PUT)
                    connection.getresponse().read()
                    self._spans += _late(asked_us, now_us())
                finally:
                    self._asked_us = None


def _late(asked_us: int, answered_us: int) -> list[Span]:
    return [(asked_us, answered_us)] if TOLD < (answered_us - asked_us) / 1_000_000 < HANG else []
