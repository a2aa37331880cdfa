"""Leases in the file. Their time is CLOCK_BOOTTIME, which passes while the machine sleeps, and which no user sets.

A lease carries the id of the machine's boot. After a boot, the time starts again from zero, and no process of before
lives: all leases of an earlier boot have ended.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from peerjob.model.clock import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NEVER = 1 << 62


class Leases:
    """The leases, through one connection."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._run = connection.execute
        self._clock = clock
        self._boot = _boot_id()
        self.changed = True
        """Whether the end of a lease may have changed; the caller sets it back."""

    def now_us(self) -> int:
        return round(self._clock.elapsed() * 1_000_000)

    def first_end_us(self) -> int:
        """When the first lease ends; NEVER without leases."""
        boot, now_us = self._boot, self.now_us()
        # a lease without a boot id that has longer to go than its time is of an earlier boot
        (end,) = self._run(
            "SELECT min(CASE WHEN boot = ? AND ends <= ? + ttl THEN ends ELSE 0 END) FROM lease", (boot, now_us)
        ).fetchone()
        return NEVER if end is None else int(end)

    def end_due(self) -> int:
        """Delete the leases that have ended, and their keys; how many leases there were."""
        self.changed = True
        now_us = self.now_us()
        ended = self._run(
            "SELECT id FROM lease WHERE NOT (boot = ? AND ends > ? AND ends <= ? + ttl)", (self._boot, now_us, now_us)
        ).fetchall()
        for (lease,) in ended:
            self.revoke(lease)
        return len(ended)

    def grant(self, lease: int, ttl_us: int) -> None:
        self.changed = True
        self._run("INSERT INTO lease VALUES (?, ?, ?, ?)", (lease, self._boot, self.now_us() + ttl_us, ttl_us))

    def keepalive(self, lease: int) -> bool:
        """Extend a lease to its full time; False if it has ended."""
        self.changed = True
        return self._run("UPDATE lease SET ends = ? + ttl WHERE id = ?", (self.now_us(), lease)).rowcount > 0

    def revoke(self, lease: int) -> None:
        """End a lease, and delete its keys."""
        self._run("DELETE FROM kv WHERE lease = ? AND lease != 0", (lease,))
        self._run("DELETE FROM lease WHERE id = ?", (lease,))

    def remaining_us(self, lease: int) -> int:
        """Microseconds that a lease has left; 0 if it has ended."""
        row = self._run("SELECT ends FROM lease WHERE id = ? AND boot = ?", (lease, self._boot)).fetchone()
        return 0 if row is None else max(0, int(row[0]) - self.now_us())

    def exists(self, lease: int) -> bool:
        return bool(self._run("SELECT EXISTS (SELECT 1 FROM lease WHERE id = ?)", (lease,)).fetchone() == (1,))


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
