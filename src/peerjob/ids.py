"""UUIDv7 identifiers that grow within a process (RFC 9562, section 6.2, method 1)."""

from __future__ import annotations

import threading
from uuid import UUID

from .clock import Clock


class IdSource:
    """Makes UUIDv7 text ids that are strictly increasing, also within one millisecond.

    The 12 bits of rand_a and the top 14 bits of rand_b form a counter that starts at a random value each
    millisecond; a counter that runs over borrows from the next millisecond.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._millis = 0
        self._counter = 0

    def take(self, count: int = 1) -> list[str]:
        """The next `count` ids, in order, as 36-character text."""
        bits = self._clock.random.getrandbits
        with self._lock:
            millis = self._clock.time_us() // 1000
            if millis > self._millis:
                self._millis, self._counter = millis, bits(24)
            ids: list[str] = []
            for _ in range(count):
                self._counter += 1
                if self._counter >= 1 << 26:
                    self._millis, self._counter = self._millis + 1, bits(24)
                counter = self._counter
                head = f"{self._millis:012x}"
                tail = f"{bits(48):012x}"
                ids.append(f"{head[:8]}-{head[8:]}-{0x7000 | counter >> 14:04x}-{0x8000 | counter & 0x3FFF:04x}-{tail}")
            return ids

    def one(self) -> str:
        """The next id."""
        return self.take(1)[0]


def id_text(uuid: str | UUID) -> str:
    """The stored text of an id that a user gave; raises ValueError when it is no UUID."""
    return str(uuid) if isinstance(uuid, UUID) else str(UUID(uuid))


def id_time_us(uuid: str) -> int:
    """The creation time in a UUIDv7, in microseconds (its resolution is a millisecond)."""
    return int(uuid[:8] + uuid[9:13], 16) * 1000
