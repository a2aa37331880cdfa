"""Draws what a program does with durable bodies: steps, waits, signals, children and their needs."""

from __future__ import annotations

import random
from typing import Any

from .fire_generator import HOUR, KINDS
from .limit_generator import LimitGenerator

FLOWING = 0.5
"""The share of programs with durable bodies."""
FLOW_LENGTH = 1.5
"""How many times longer these programs are: a wait takes several calls."""
FLOW_WEIGHTS = {"spawn": 9, "signal": 5, "restore": 3, "settle": 0.5}
FLOW_SHARES = {
    "claim": 1.5,
    "clear": 0.3,
    "clear_instances": 0.5,
    "leave": 0.5,
    **dict.fromkeys(("add_activity", "add_audit", "campaign", "instruct", "publish_descriptors", "publish_kinds"), 0.3),
    **dict.fromkeys(("fire", "put_schedule", "clear_history", "clear_logs", "resign", "enqueue"), 0.5),
}
"""How much rarer or more frequent other verbs are in these programs."""
FLOW_RACERS = ("spawn", "spawn", "signal", "restore", "commit")
STEPS = ("charge", "ü/1", "mail")
SIGNALS = ("approval", "payment/ü")
NEEDS_NOW = 0.5
"""The share of suspended bodies that wait for children."""

Given = dict[str, Any]


class FlowGenerator(LimitGenerator):
    """Draws durable bodies. The other draws of a program do not depend on them."""

    def __init__(self, chance: random.Random, seed: int) -> None:
        super().__init__(chance, seed)
        flown = self._flown = random.Random(f"flows {seed}")
        self.is_flowing = flown.random() < FLOWING

    def durable(self, given: Given) -> Given:
        """An outcome, perhaps with steps, needs and a wait."""
        flown = self._flown
        if not self.is_flowing:
            return given
        given = dict(given)
        if given["action"] != "release" and flown.random() < 0.35:
            given["action"] = flown.choice(("suspend", "suspend", "report"))
            given.pop("delay", None)
        if flown.random() < 0.3:
            given["steps"] = self._steps()
        if given["action"] in ("report", "suspend") and flown.random() < NEEDS_NOW:
            given["needs"] = [self._need() for _ in range(flown.choice((1, 2, 4)))]
            if "steps" in given:
                # *Choice*: whether the needs of an outcome count that another value for a step refuses
                given["steps"] = {"beside needs": 3}
        if given["action"] == "suspend":
            given["wait"] = self._wait(needs="needs" in given)
        return given | ({"linked": flown.random() < 0.5} if flown.random() < 0.2 else {})

    def held(self, given: Given) -> Given:
        """A call of a node. In these programs, it is mostly one that holds claims."""
        return given | {"holder": True} if self.is_flowing and self._flown.random() < 0.9 else given

    def eager(self, given: Given) -> Given:
        """A claim. In these programs, it mostly takes instances of all kinds."""
        if not self.is_flowing or self._flown.random() < 0.3:
            return given
        return given | {"kinds": dict.fromkeys(KINDS, 5), "limit": self._flown.choice((1, 2, 5))}

    def lasting(self, given: Given) -> Given:
        """A join. In these programs, few leases are over at once."""
        if self.is_flowing and self._flown.random() < 0.7:
            given.pop("over", None)
        return given

    def _steps(self) -> Given:
        flown = self._flown
        names = flown.sample((*STEPS, f"!{SIGNALS[0]}"), flown.choice((1, 1, 2)))
        return {name: flown.choice((0, 3, 3, 3, 400)) for name in names}

    def _wait(self, *, needs: bool) -> Given:
        flown = self._flown
        wait: Given = {}
        if needs and flown.random() < 0.9:
            wait["needs"] = True
        if flown.random() < 0.5 or not wait:
            wait["signals"] = flown.sample(SIGNALS, flown.choice((1, 1, 2)))
        if flown.random() < 0.3:
            wait["until"] = flown.choice((-2, 3, HOUR))
        return wait

    def _need(self) -> Given:
        return {"of": self._flown.choice(("children",) * 9 + ("any",)), "pick": self._flown.randrange(8)}

    def _spawn(self) -> Given:
        flown = self._flown
        children = [self._child() for _ in range(flown.choice((1, 1, 2, 3, 5)))]
        given = {
            "node": flown.randrange(3),
            "of": flown.choice(("held",) * 12 + ("past", "any")),
            "pick": flown.randrange(8),
            "children": children,
        }
        return self.held(given)

    def _child(self) -> Given:
        """A new child, or a part of one that is known."""
        flown = self._flown
        given: Given = {"needs": [self._need() for _ in range(flown.choice((0, 0, 1, 1, 2, 3)))]}
        if flown.random() < 0.25:
            given["more"] = True
        if flown.random() < 0.3:
            return given | {"known": flown.randrange(8)}
        work = self.work()
        work.pop("key", None)
        return given | {"work": work}

    def _signal(self) -> Given:
        flown = self._flown
        given: Given = {
            "pick": flown.randrange(8),
            "name": flown.choice(SIGNALS),
            "size": flown.choice((3, 3, 3, 0, 9)),
        }
        return given | ({"waiting": True} if flown.random() < 0.6 else {})

    def _restore(self) -> Given:
        return {"works": [self._moved() for _ in range(self._flown.choice((1, 1, 2, 3)))]}

    def _moved(self) -> Given:
        """An instance of another store, or a further part of one."""
        flown = self._flown
        given: Given = {"open": flown.random() < 0.4}
        if flown.random() < 0.5:
            given["steps"] = self._steps()
        if flown.random() < 0.3:
            return given | {"known": flown.randrange(8)}
        work = self.work()
        work.pop("delay", None)
        given |= {"work": {"due": -2, **work}}
        if flown.random() < 0.5:
            given["under"] = [flown.random() < 0.9, flown.randrange(8)]
            if flown.random() < 0.4:
                given |= {"state": flown.choice(("Completed", "Cancelled", "Terminated")), "result": 300, "error": 3}
        elif flown.random() < 0.4:
            given["wait"] = self._wait(needs=False)
        return given

    def _settle(self) -> Given:
        return {}
