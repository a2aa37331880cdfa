"""UUIDv7 ids that ascend within a process (RFC 9562, section 6.2, method 1)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from uuid import UUID

from .clock import Clock, to_datetime
from .errors import OptionError

MAX_SKEW_US = 86_400_000_000
"""The largest difference between the time in an id that a caller chose and the time of the node, in microseconds."""


OUTBOX_MARK = "0b0c5"
"""The hexadecimal digits with which the last group of the id of a row of an outbox begins. They are random in other
ids, of which one in a million has them."""
OUTBOX_MARK_AT = 24
"""The position of these digits in the text of an id."""
_VARIANTS = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}
"""By a hexadecimal digit: the one with its last two bits and the variant of an id."""


def is_outbox_id(id: str) -> bool:
    """Whether an id has the mark of an outbox: a relay may enqueue the instance again for a day."""
    return id.startswith(OUTBOX_MARK, OUTBOX_MARK_AT)


class IdSource:
    """Makes UUIDv7 ids as text, strictly ascending in each thread, even within a millisecond.

    The 12 bits of rand_a and the top 14 bits of rand_b are a counter, which starts at a random value. When it begins
    again at 0, the ids continue in the next millisecond.

    It needs no lock: a signal handler can interrupt the making of an id, and wait for a thread that makes another one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = itertools.count(clock.random.getrandbits(24))
        self._head = 0, 0, ""
        """A millisecond, the first 12 bits of the counter, and their text, which the next ids mostly have, too."""

    def take(self, count: int = 1) -> list[str]:
        """Return the next `count` ids in order, as text of 36 characters."""
        millis, counters = self._clock.time_us() // 1000, self._count
        drawn = self._clock.random.getrandbits(48 * count).to_bytes(6 * count).hex()
        ids: list[str] = []
        for at in range(0, 12 * count, 12):
            counter = next(counters) & 0x3FFFFFF
            last, high, head = self._head
            if millis > last or counter >> 14 != high or not counter:
                head = self._next_head(millis, counter)
            ids.append(f"{head}{0x8000 | counter & 0x3FFF:x}-{drawn[at : at + 12]}")
        return ids

    def restart(self) -> None:
        """Take the time of the clock for the next id, even if that is earlier than the last id."""
        self._head = 0, 0, ""

    def one(self) -> str:
        """Return the next id, in less time than `take` needs for one."""
        millis, counter = self._clock.time_us() // 1000, next(self._count) & 0x3FFFFFF
        last, high, head = self._head
        if millis > last or counter >> 14 != high or not counter:
            head = self._next_head(millis, counter)
        tail = (0x8000 | counter & 0x3FFF) << 48 | self._clock.random.getrandbits(48)
        return head + tail.to_bytes(8).hex("-", 6)

    def _next_head(self, millis: int, counter: int) -> str:
        """Return the text up to the last 14 bits of the counter, which the next ids mostly have, too."""
        last, _, _ = self._head
        millis = max(millis, last if counter else last + 1)
        high, time = counter >> 14, f"{millis:012x}"
        head = f"{time[:8]}-{time[8:]}-{0x7000 | high:04x}-"
        self._head = millis, high, head
        return head


class OutboxIdSource(IdSource):
    """Makes the ids of rows of an outbox, which have its mark."""

    def take(self, count: int = 1) -> list[str]:
        """As in `IdSource`."""
        return [
            f"{id[:OUTBOX_MARK_AT]}{OUTBOX_MARK}{id[OUTBOX_MARK_AT + len(OUTBOX_MARK) :]}" for id in super().take(count)
        ]

    def one(self) -> str:
        """As in `IdSource`."""
        return self.take()[0]


def id_text(uuid: str | UUID) -> str:
    """Return the stored text of an id; raises ValueError if it is not a UUID."""
    return str(uuid) if isinstance(uuid, UUID) else str(UUID(uuid))


def checked_id(uuid: object, option: str = "uuid") -> str:
    """The stored text of an id; raises OptionError, which names the option, for a value that is no UUID."""
    try:
        return id_text(uuid)  # type: ignore[arg-type]  # id_text() raises for a value of another type
    except (ValueError, AttributeError, TypeError):
        raise OptionError(option, uuid, "a UUID") from None


def checked_new_id(uuid: object, now_us: int, option: str = "uuid") -> str:
    """The stored text of an id that a caller chose for a new instance; raises OptionError unless it is a recent UUIDv7.

    An id contains the time of its instance, which lookups and retention use. So it must be close to now.
    """
    id = checked_id(uuid, option)
    if UUID(id).version != 7:
        raise OptionError(option, id, "a UUIDv7 of about now")
    if abs(id_time_us(id) - now_us) > MAX_SKEW_US:
        made, now = _minute(id_time_us(id)), _minute(now_us)
        expected = (
            f"a UUIDv7 of about now, less than a day from the clock of the node (the id says {made}, the clock {now})"
        )
        raise OptionError(option, id, expected)
    return id


def _minute(at_us: int) -> str:
    try:
        return f"{to_datetime(at_us):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "after the year 9999"


def hashed_id(at_us: int, text: str) -> str:
    """Return the UUIDv7 with this time, to the millisecond, and with the hash of a text as its other bits."""
    time = f"{at_us // 1000:012x}"
    return _hashed(f"{time[:8]}-{time[8:]}", text)


def derived_id(request: str, source: str) -> str:
    """Return the id of what a request makes of an old instance: the same for the same pair of ids, in no order.

    It has the time of the request, a UUIDv7.
    """
    return hashed_id(id_time_us(id_text(request)), f"{id_text(request)} {id_text(source)}")


def child_id(parent: str, name: str) -> str:
    """Return the id of the child of an instance with this name."""
    return child_ids(parent, (name,))[0]


def child_ids(parent: str, names: Iterable[str]) -> list[str]:
    """Return the ids of the children of an instance with these names: each run of the parent makes the same ones."""
    time = parent[:13]
    return [_hashed(time, f"{parent} {name}") for name in names]


def _hashed(time: str, text: str) -> str:
    """Return the UUIDv7 with this time, its first 13 characters, and with the hash of a text as its other bits."""
    digits = hashlib.sha256(text.encode()).hexdigest()
    return f"{time}-7{digits[:3]}-{_VARIANTS[digits[4]]}{digits[5:8]}-{digits[8:20]}"


def id_time_us(uuid: str) -> int:
    """Return the creation time of a UUIDv7 in microseconds, with a resolution of a millisecond."""
    return int(uuid[:8] + uuid[9:13], 16) * 1000
