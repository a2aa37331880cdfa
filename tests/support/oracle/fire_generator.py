"""Draws what a program does with schedules, and the instances of a program."""

from __future__ import annotations

import random
from typing import Any

KINDS = ("a", "b", "c/ü")
TAGS = ("red", "green", "ü/%")
KEYS = ("k", "l", "kü")
SCHEDULES = ("s", "s/ü", "t")
OVERLAPS = ("allow", "skip", "queue", "replace")
STRETCHES = ("missed", "coalesced", "skipped", "paused")
"""*Choice*: a store keeps the record of the last stretch only. A call has none that a later fire of it follows: its
repeat may find the schedule changed."""
OUTCOMES = ("fired",) * 6 + ("triggered", "backfilled") * 2 + STRETCHES
HOUR = 3_600
SMALL_LARGEST = 5_000
BULKS, BULKS_OF_LARGE = 0.1, 0.7
"""The shares of calls that fire many times of one schedule; in programs with large arguments, these are large."""
TIMELY = 0.4
"""The share of programs about schedules: most of their fires are done, and the instances run, end and wait in slots."""
TIMELY_WEIGHTS = {"fire": 30, "put_schedule": 3, "claim": 16, "commit": 20, "cancel": 5, "enqueue": 6, "race": 6}

Given = dict[str, Any]


class FireGenerator:
    """Draws instances, schedules and fires."""

    def __init__(self, chance: random.Random, seed: int) -> None:
        self._random = chance
        self._also = random.Random(f"also {seed}")
        self._fired = random.Random(f"minutes {seed}")
        self.is_timely = self._fired.random() < TIMELY
        self._serial = 0
        self._term = 1
        self.outcomes: tuple[str, ...] = OUTCOMES
        self.largest = SMALL_LARGEST
        """Bytes of the largest arguments."""

    @property
    def is_large(self) -> bool:
        """Whether a few instances reach the limit of bytes of a call."""
        return self.largest > SMALL_LARGEST

    def number(self, below: int) -> int:
        """A number from 0 on."""
        return self._random.randrange(below)

    def some(self, **options: tuple[Any, float]) -> Given:
        """Some of the options, each with its probability."""
        return {name: value for name, (value, share) in options.items() if self._random.random() < share}

    def work(self) -> Given:
        """An instance."""
        rng = self._random
        self._serial += 1
        given: Given = {"n": self._serial, "kind": rng.choice(KINDS), "spec": rng.choice((0, 8, 8, 300, self.largest))}
        when = rng.random()
        if when < 0.15:
            given["due"] = rng.choice((-HOUR, -2, HOUR))
        elif when < 0.35:
            given["delay"] = rng.choice((0, 3, HOUR, HOUR))
        return given | self.some(
            age=(rng.choice((0.001, 60, 100)), 0.3),
            priority=(rng.choice((-(2**31), -1, 0, 9, 2**31 - 1)), 0.4),
            key=(rng.choice(KEYS), 0.2),
            tags=(rng.sample(TAGS, rng.choice((1, 2, 3))), 0.4),
            kept=(rng.choice((0.000_001, 2, HOUR)), 0.3),
            max_crashes=(rng.choice((0, 1)), 0.3),
            attempts=(3, 0.05),
            crashes=(rng.choice((1, 2)), 0.1),
            losses=(rng.choice((1, 2)), 0.1),
        )

    def _put_schedule(self) -> Given:
        rng = self._random
        given: Given = {
            "name": rng.choice(SCHEDULES),
            "kind": rng.choice(KINDS),
            "next": rng.choice((0, 0, 0, 5, None)),
            "definition": rng.randrange(3),
        }
        account = {"count": rng.choice((1, 4)), "outcome": rng.choice(("paused", "missed"))}
        return given | self.some(
            paused=(True, 0.2),
            note=("note ü", 0.2),
            expected=(False, 0.2),
            back=(-2, 0.1),
            wrong_next=(True, 0.1),
            trimmed=(-4, 0.1),
            account=(account, 0.2),
        )

    def _remove_schedule(self) -> Given:
        return {"name": self._random.choice(SCHEDULES)} | self.some(back=(self._random.choice((-1, -2)), 0.5))

    def _fire(self) -> Given:
        rng = self._random
        given: Given = {"fires": []}
        for fire in [self._one() for _ in range(rng.choice((1, 1, 1, 2, 3)))]:
            if not any(one["name"] == fire["name"] and one["outcome"] in STRETCHES for one in given["fires"]):
                given["fires"].append(fire)
        if self._also.random() < (BULKS_OF_LARGE if self.is_large else BULKS):
            given["fires"] = self._bulk()
        if rng.random() < 0.5:
            self._term += rng.choice((0, 0, 1))
            given |= {"coordinator": rng.choice(("x", "x", "y")), "term": self._term - rng.choice((0, 0, 0, 1))}
        return self._timed(given) | self.some(node=("leader", 0.5))

    def _timed(self, given: Given) -> Given:
        """A call that fires. In programs about schedules, these exist, and most instances are due at once.

        *Choice*: a store can let the instance of one fire pass the gate of its key before it looks at the next fire. So
        a call has one instance of a key at most.
        """
        fired, keys = self._fired, set[tuple[str, str]]()
        for work in [one["work"] for one in given["fires"] if "work" in one]:
            key = (work["kind"], work.get("limit_key", ""))
            if key in keys:
                work.pop("limit_key", None)
                work.pop("key_concurrency", None)
            keys.add(key)
        if not self.is_timely or fired.random() < 0.1:
            return given
        for one in given["fires"]:
            for name in ("due", "delay", "kept") if "work" in one and fired.random() < 0.8 else ():
                one["work"].pop(name, None)
            if one["outcome"] == "backfilled" and fired.random() < 0.5:
                one["at_last"] = True
        return given | {"ready": True}

    def _bulk(self) -> list[Given]:
        """Fires of the next times of one schedule."""
        name, size = self._also.choice(SCHEDULES[:2]), {"spec": self.largest} if self.is_large else {}
        count = 6 if self.is_large else self._also.choice((3, 6))
        return [{"name": name, "outcome": "fired", "work": self.work() | size} for _ in range(count)]

    def _one(self) -> Given:
        rng = self._random
        outcome = rng.choice(self.outcomes)
        overlap = rng.choice(OVERLAPS if self.outcomes is OUTCOMES else ("allow",))
        given: Given = {"name": rng.choice(SCHEDULES[:2]), "outcome": outcome, "overlap": overlap}
        if outcome in ("fired", "triggered", "backfilled"):
            given["work"] = self.work()
            if rng.random() < 0.7:
                given["work"].pop("key", None)
        else:
            given |= self.some(count=(rng.choice((2, 3)), 0.6), reason=(rng.choice(("why", "ü")), 0.5))
        if outcome == "triggered":
            given["number"] = rng.randrange(-20, 60)
            if self.outcomes is OUTCOMES and self._also.random() < 0.6:
                given["at_last"] = True
        elif outcome == "backfilled":
            given["number"] = rng.randrange(-6, 12)
        return given | self.some(
            later=(rng.choice((1, -1)), 0.05),
            back=(-2, 0.05),
            last=(True, 0.04),
            queue_limit=(rng.choice((2, 3)), 0.4),
        )
