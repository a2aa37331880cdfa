"""Draws the limits of a program: of its kinds, and of their keys."""

from __future__ import annotations

import random
from typing import Any

from .fire_generator import HOUR, KINDS, FireGenerator
from .program import Op

LIMITED = 0.5
"""The share of programs with limits."""
RATED = 0.3
"""The share of those that have rates. These have no races, and no call that is given up.

*Choice*: an engine may charge more than it gives, if another command changes an instance that it has selected.
"""
CHANGED = 0.3
"""The share of instances that bring another concurrency of their key, as those of another build of the code do."""
SLEEPING = 0.5
"""The share of programs with limits but without rates that begin with idle nodes."""
LIMIT_KEYS = ("x", "y", "\u00fc/%")
LIMIT_WEIGHTS = {"publish_limits": 1, "set_limit": 2.5, "pause_kind": 2, "throttle": 1.5, "check_limits": 1}

Given = dict[str, Any]


class LimitGenerator(FireGenerator):
    """Draws limits. Each kind keeps the names of its limits, and the concurrency of its keys."""

    def __init__(self, chance: random.Random, seed: int) -> None:
        super().__init__(chance, seed)
        drawn = self._drawn = random.Random(f"limits {seed}")
        self.is_limited = drawn.random() < LIMITED
        self.is_rated = self.is_limited and drawn.random() < RATED
        self._sleeping = random.Random(f"sleepers {seed}")
        self._names = {kind: drawn.choice(((), ("l",), ("l", "m"), ("m",))) for kind in KINDS}
        self._keys = {kind: drawn.choice((0, 1, 1, 2)) for kind in KINDS}

    def sleepers(self) -> list[Op]:
        """Two idle nodes that share the kinds, and an instance of each kind."""
        drawn = self._sleeping
        if self.is_rated or drawn.random() > SLEEPING:
            return []
        kinds, cut = drawn.sample(KINDS, len(KINDS)), drawn.choice((1, 2))
        claims = [{"kinds": dict.fromkeys(some, 5), "limit": 5} for some in (kinds[:cut], kinds[cut:])]
        works = [{"n": 5_000_000 + place, "kind": kind} for place, kind in enumerate(drawn.sample(KINDS, len(KINDS)))]
        return [
            *(Op("claim", claim | {"node": node}) for node, claim in enumerate(claims)),
            Op("enqueue", {"works": works}),
        ]

    def work(self) -> Given:
        given = super().work()
        concurrency = self._keys[given["kind"]] if self.is_limited else 0
        if concurrency and self._drawn.random() < CHANGED:
            concurrency = self._drawn.choice((1, 2, 3))
        if concurrency and self._drawn.random() < 0.9:
            given |= {"limit_key": self._drawn.choice(LIMIT_KEYS), "key_concurrency": concurrency}
        return given

    def _publish_limits(self) -> Given:
        kinds = {kind: {"names": [*self._names[kind]], "keys": self._keys[kind]} for kind in KINDS}
        return {"kinds": kinds, "numbers": {name: self._numbers() for name in ("l", "m")}}

    def _numbers(self) -> Given:
        drawn = self._drawn
        numbers: Given = {"concurrency": drawn.choice((1, 2, 3, 5))}
        if self.is_rated and drawn.random() < 0.6:
            numbers = numbers if drawn.random() < 0.5 else {}
            numbers |= {"period_us": HOUR * 1_000_000, "burst": drawn.choice((1, 2, 4))}
        return numbers

    def _set_limit(self) -> Given:
        drawn = self._drawn
        if drawn.random() < 0.4:
            return {"kind": drawn.choice(KINDS), "numbers": {"concurrency": drawn.choice((0, 1, 2, 3))}}
        numbers = {} if drawn.random() < 0.3 else self._numbers()
        return {"name": drawn.choice(("l", "m")), "numbers": numbers, "note": drawn.choice(("", "note \u00fc"))}

    def _pause_kind(self) -> Given:
        return {"kind": self._drawn.choice(KINDS), "paused": self._drawn.random() < 0.4, "note": "why"}

    def _throttle(self) -> Given:
        drawn = self._drawn
        return {
            "name": drawn.choice(("l", "m", "unknown")),
            "seconds": drawn.choice((0, 3, HOUR)),
            "shorten": drawn.random() < 0.5,
        }

    def _check_limits(self) -> Given:
        return {}
