"""Makes random programs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .durable_generator import VERBS as DURABLE_VERBS
from .durable_generator import DurableGenerator
from .program import Op, Program

OPERATIONS = 200
"""Fewest operations of a program, faults not counted."""
MIN_FAULTS = 5
HOWS = ("lost answer", "error", "late", "repeated")
VERBS = {
    "enqueue": 2,
    "claim": 1,
    "commit": 1,
    "turn": 1,
    "cancel": 3,
    "run_now": 3,
    "renew": 3,
    "reap": 3,
    "join": 3,
    "leave": 5,
    "fire": 2,
    "fires": 4,
    "put_schedule": 3,
    "remove_schedule": 4,
    "get_schedules": 2,
    "changed_schedules": 3,
    "campaign": 2,
    "resign": 6,
    "changed": 2,
    "lookup": 3,
    "get": 3,
    "logs": 5,
    "watch_final": 4,
    "add_lines": 5,
    "watch_changes": 4,
    "next_hints": 3,
    "claim_on_hint": 4,
    "publish_kinds": 3,
    "health": 3,
    "due": 3,
    "nodes": 2,
    "expire": 18,
    "clear_instances": 6,
    "clear_history": 5,
    "clear_logs": 5,
}
"""Verbs of the store that a fault may name, and how often each is named: the rare calls more often."""
OVERLAPS = ("allow", "skip", "queue", "replace")
MISFIRES = ("skip", "run_once", "run_all")
TAGS = ("red", "green", "blue", "t" * 200, "ümlaut/%")

READS = ("lookup", "lookup_tag", "history", "logs", "count", "stats", "nodes", "fires", "due", "watch", "say")
CLEARS = ("clear_instances", "clear_history", "clear_logs")
MAKERS = ("schedule", "schedule_many", "trigger_schedule", "retry")

Given = dict[str, Any]


class Generator:
    """Draws one program from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._nodes = self._random.choice((1, 2, 3, 3, 3, 4))
        self._kinds = self._random.choice((1, 2, 3, 5, 8, 8, 20, 64, 200, 500) if self._chance(0.3) else (1, 3, 5, 8))
        self._priorities = self._random.sample((-(2**31), -1, 0, 1, 10, 2**31 - 1), self._random.choice((1, 2, 2, 4)))
        self._schedules = 0
        self._ops: list[Op] = []
        self._skews = self._chance(0.3)
        self._away: set[int] = set()
        self._frozen: set[int] = set()
        self._cut: set[int] = set()
        self._durable = DurableGenerator(seed, self._any_node, self._kinds)
        self._calls: dict[str, Callable[[], tuple[str, Given]]] = {
            "cancel": self._cancel,
            "run_now": self._run_now,
            "put_schedule": self._add_schedule,
            "remove_schedule": partial(self._on_schedule, "remove_schedule"),
            "get_schedules": partial(self._on_schedule, "pause_schedule"),
            "publish_kinds": self._register,
            "watch_final": self._wait,
            "get": partial(self._reading, "history"),
            "health": partial(self._reading, "stats"),
            "add_lines": partial(self._reading, "say"),
            "watch_changes": partial(self._reading, "watch"),
            **{verb: partial(self._reading, verb) for verb in ("lookup", "logs", "nodes", "fires", "due")},
            **{verb: partial(self._clearing, verb) for verb in CLEARS},
        }
        """Verb of the store → a call of a user that makes nodes call it."""

    def program(self) -> Program:
        """The program; the same each time it is drawn from the same seed."""
        rng = self._random
        faults = MIN_FAULTS + rng.randrange(16)
        at = set(rng.sample(range(20, OPERATIONS + faults), faults))
        for number in range(OPERATIONS + faults):
            if self._all_away and self._chance(0.5):
                self._ops.append(Op(0.0, *self._returned()))
            elif self._ops and self._ops[-1].verb == "fail" and self._chance(0.7):
                self._strike(self._ops[-1].given["verb"])
            gap = round(rng.expovariate(1 / 0.15), 3) if rng.random() < 0.7 else 0.0
            if number in at:
                verb, given = self._fault()
            elif self._durable.draws():
                verb, given = self._durable.draw(self._made_by)
            else:
                verb, given = self._draw()
            self._ops.append(Op(gap, verb, given))
        return Program(
            seed=self._seed,
            nodes=self._nodes,
            workers=rng.choice((1, 2, 4, 10)),
            ttl=rng.choice((1.0, 2.0, 5.0)),
            kinds=self._kinds,
            **self._limits(),
            durable=self._durable.is_durable,
            latency=rng.choice((0.0, 0.0, 0.001, 0.02)),
            ops=tuple(self._ops),
        )

    def _limits(self) -> Given:
        """The limits of a program: of its kinds together, and of their keys."""
        drawn = random.Random(f"limits {self._seed}")
        if self._kinds > 8 or drawn.random() < 0.4:
            return {}
        return {
            "concurrency": drawn.choice((0, 2, 3, 6)),
            "rate": drawn.choice(("", "", "50/s")),
            "key_concurrency": drawn.choice((0, 1, 1, 2)),
        }

    # -- operations

    def _draw(self) -> tuple[str, Given]:
        weights: dict[Callable[[], tuple[str, Given]], int] = {
            self._schedule: 40,
            self._many: 4,
            self._cancel: 8,
            self._cancel_kind: 1,
            self._run_now: 6,
            self._retry: 3,
            self._add_schedule: 5,
            self._change_schedule: 4,
            self._act_on_schedule: 9,
            self._backfill: 2,
            self._resize: 3,
            self._drain: 1,
            self._read: 10,
            self._wait: 4,
            self._clear: 3,
            self._unregister: 1,
            self._register: 2,
        }
        return self._random.choices(list(weights), list(weights.values()))[0]()

    def _schedule(self) -> tuple[str, Given]:
        return "schedule", {"node": self._node(), **self._work()}

    def _many(self) -> tuple[str, Given]:
        return "schedule_many", {
            "node": self._node(),
            "works": [self._work() for _ in range(self._random.randrange(2, 12))],
        }

    def _work(self) -> Given:
        rng = self._random
        options: Given = {}
        if self._chance(0.4):
            options["priority"] = rng.choice(self._priorities)
        if self._chance(0.3):
            options["after"] = round(rng.choice((0.001, 0.5, 1, 3, 10)) * rng.random(), 3)
        if self._chance(0.15):
            options["key"] = rng.choice(("a", "b", "ключ", "k" * 1000))
        if self._chance(0.2):
            options["tags"] = rng.sample(TAGS, rng.randrange(1, 4))
        if self._chance(0.5):
            options["max_retries"] = rng.choice((0, 1, 2, 3))
        if self._chance(0.3):
            options["backoff"] = rng.choice((0, 0.1, 1))
        if self._chance(0.2):
            options["timeout"] = rng.choice((0.5, 1, 3))
        if self._chance(0.05):
            options["max_crashes"] = rng.choice((0, 1))
        if self._chance(0.05):
            options["retention"] = rng.choice((0, 2))
        if self._chance(0.1):
            options["on_store_loss"] = "continue"
        given: Given = {"kind": rng.randrange(self._kinds), "plan": self._plan(), "options": options}
        if self._chance(0.01):
            given["size"] = rng.choice((1_000, 60_000, 1_000_000))
        return given

    def _plan(self) -> list[str]:
        """What the body does in its first run, its second, and so on; the last entry counts for all that follow."""
        rng = self._random
        steps: list[str] = rng.choices(
            (
                "return",
                "sleep 0.1",
                "sleep 1",
                "sleep 4",
                "fail",
                "stop",
                "again 0.2",
                "snooze 0.3",
                "ignore 2",
                "finish 1",
                "partly 2",
                "lines 3",
                "progress",
                "owner",
                "large",
                "child",
            ),
            (30, 15, 10, 4, 10, 1, 3, 4, 3, 2, 2, 4, 4, 3, 1, 2),
            k=rng.choice((1, 1, 2, 3)),
        )
        # the last step ends in every run, so that each program comes to rest
        return [*steps, "return"] if steps[-1] in ("again 0.2", "snooze 0.3") else steps

    def _cancel(self) -> tuple[str, Given]:
        return "cancel", {"node": self._node(), "of": self._made()}

    def _run_now(self) -> tuple[str, Given]:
        return "run_now", {"node": self._node(), "of": self._made()}

    def _cancel_kind(self) -> tuple[str, Given]:
        return "cancel_kind", {"node": self._node(), "kind": self._random.randrange(self._kinds)}

    def _retry(self) -> tuple[str, Given]:
        return "retry", {"node": self._node(), "of": self._made()}

    def _add_schedule(self) -> tuple[str, Given]:
        self._schedules += 1
        return "add_schedule", {"node": self._node(), "name": self._schedules - 1, **self._recurrence()}

    def _change_schedule(self) -> tuple[str, Given]:
        return "add_schedule", {"node": self._node(), "name": self._name(), **self._recurrence()}

    def _recurrence(self) -> Given:
        rng = self._random
        options: Given = {"overlap": rng.choice(OVERLAPS), "misfire": rng.choice(MISFIRES)}
        if self._chance(0.6):
            options["every"] = rng.choice((1, 1.5, 2, 5))
        else:
            options["cron"] = rng.choice(("* * * * * *", "*/2 * * * * *", "*/7 * * * * *", "* * * * *"))
        if self._chance(0.3):
            options["queue_limit"] = rng.choice((1, 2, 5))
        if self._chance(0.2):
            options["misfire_limit"] = rng.choice((1, 3, 100))
        if self._chance(0.15):
            options["start_deadline"] = rng.choice((0.5, 3))
        if self._chance(0.15):
            options["jitter"] = 0.5
        if self._chance(0.2):
            options["max_retries"] = 1
        return {"kind": rng.randrange(self._kinds), "plan": self._plan(), "options": options}

    def _act_on_schedule(self) -> tuple[str, Given]:
        verb = self._random.choices(
            ("pause_schedule", "resume_schedule", "trigger_schedule", "remove_schedule"), (3, 4, 4, 1)
        )[0]
        return self._on_schedule(verb)

    def _on_schedule(self, verb: str) -> tuple[str, Given]:
        return verb, {"node": self._node(), "name": self._name()}

    def _backfill(self) -> tuple[str, Given]:
        return "backfill", {"node": self._node(), "name": self._name(), "back": self._random.choice((3, 8, 20))}

    def _resize(self) -> tuple[str, Given]:
        return "resize", {"node": self._node(), "workers": self._random.choice((1, 2, 5, 20))}

    def _drain(self) -> tuple[str, Given]:
        return "drain", {"node": self._node()}

    def _read(self) -> tuple[str, Given]:
        return self._reading(self._random.choice(READS))

    def _reading(self, verb: str) -> tuple[str, Given]:
        kind = self._random.randrange(self._kinds)
        return verb, {"node": self._node(), "of": self._made(), "kind": kind, "name": self._name()}

    def _wait(self) -> tuple[str, Given]:
        return "wait", {"node": self._node(), "of": self._made(), "timeout": self._random.choice((0.5, 3))}

    def _clear(self) -> tuple[str, Given]:
        return self._clearing(self._random.choice(CLEARS))

    def _clearing(self, verb: str) -> tuple[str, Given]:
        return verb, {"node": self._node(), "older": self._random.choice((1, 5))}

    def _unregister(self) -> tuple[str, Given]:
        return "unregister", {"node": self._node(), "kind": self._random.randrange(self._kinds)}

    def _register(self) -> tuple[str, Given]:
        return "register", {"node": self._node(), "kind": self._random.randrange(self._kinds)}

    # -- faults

    def _fault(self) -> tuple[str, Given]:
        rng = self._random
        ways: list[tuple[int, Callable[[], tuple[str, Given]]]] = [(10, self._fail), (3, self._slow)]
        present = [node for node in range(self._nodes) if node not in self._away | self._frozen]
        if present:
            ways += [(4, lambda: self._end("kill", present)), (2, lambda: self._end("stop", present))]
            ways += [(3, lambda: self._freeze(present)), (4, lambda: self._partition(present))]
            if self._skews:
                ways += [(3, lambda: self._skew(present))]
        if self._away:
            ways += [(5, lambda: self._back("restart", self._away))]
        if self._frozen:
            ways += [(5, lambda: self._back("thaw", self._frozen))]
        if self._cut:
            ways += [(3, lambda: self._back("heal", self._cut))]
        return rng.choices([way for _, way in ways], [share for share, _ in ways])[0]()

    def _fail(self) -> tuple[str, Given]:
        rng = self._random
        return "fail", {"verb": self._verb(), "how": rng.choice(HOWS), "times": rng.choice((1, 1, 2, 5))}

    def _verb(self) -> str:
        if self._durable.draws():
            return self._durable.chance.choices(list(DURABLE_VERBS), list(DURABLE_VERBS.values()))[0]
        return self._random.choices(list(VERBS), list(VERBS.values()))[0]

    def _slow(self) -> tuple[str, Given]:
        return "slow", {"verb": self._verb(), "by": self._random.choice((0.05, 0.4, 2.0))}

    def _end(self, verb: str, present: list[int]) -> tuple[str, Given]:
        node = self._random.choice(present)
        self._away.add(node)
        self._cut.discard(node)
        return verb, {"node": node}

    def _freeze(self, present: list[int]) -> tuple[str, Given]:
        node = self._random.choice(present)
        self._frozen.add(node)
        return "freeze", {"node": node}

    def _partition(self, present: list[int]) -> tuple[str, Given]:
        node = self._random.choice(present)
        self._cut.add(node)
        return "partition", {"node": node, "from_": self._random.choice(("store", "store", "coordinator", "both"))}

    def _skew(self, present: list[int]) -> tuple[str, Given]:
        return "skew", {"node": self._random.choice(present), "by": self._random.choice((-30, -2, -0.3, 0, 0.3, 2, 30))}

    def _strike(self, verb: str) -> None:
        """Make the call that has a fault before it, or do two things while such a call is on its way again."""
        if (calls := self._calls.get(verb)) is not None:
            self._ops.append(Op(0.0, *calls()))
            return
        if self._durable.is_durable and verb in DURABLE_VERBS:
            self._ops.append(Op(0.0, *self._durable.draw(self._made_by)))
            return
        present = [node for node in range(self._nodes) if node not in self._away | self._frozen]
        if verb in ("leave", "resign") and present:
            self._ops.append(Op(0.0, *self._end("stop", present)))
            return
        if verb == "join" and self._away:
            self._ops.append(Op(0.0, *self._back("restart", self._away)))
            return
        self._ops.append(Op(0.0, *self._schedule()))
        gap = self._random.choice((0.0, 0.005, 0.02))
        if len(present) > 1 and self._chance(0.3):
            self._ops.append(Op(gap, *self._end("kill", present)))
        else:
            self._ops.append(Op(gap, "cancel", {"node": self._node(), "of": len(self._ops) - 1}))

    def _back(self, verb: str, those: set[int]) -> tuple[str, Given]:
        node = self._random.choice(sorted(those))
        those.discard(node)
        return verb, {"node": node}

    def _returned(self) -> tuple[str, Given]:
        return self._back("restart", self._away) if self._away else self._back("thaw", self._frozen)

    @property
    def _all_away(self) -> bool:
        return len(self._away | self._frozen) == self._nodes

    # -- what operations name

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _node(self) -> int:
        return self._random.randrange(self._nodes)

    def _name(self) -> int:
        return self._random.randrange(max(1, self._schedules))

    def _any_node(self) -> int:
        """A node, by the generator of durable bodies."""
        return self._durable.chance.randrange(self._nodes)

    def _made(self) -> int:
        return self._made_by(self._random, MAKERS)

    def _made_by(self, chance: random.Random, verbs: Sequence[str]) -> int:
        """The number of an earlier operation that makes instances, a late one more often."""
        makers = [number for number, op in enumerate(self._ops) if op.verb in verbs]
        if not makers:
            return 0
        return makers[max(0, len(makers) - 1 - int(chance.expovariate(1 / 8)))]


def generate(seed: int) -> Program:
    """The program of a seed."""
    return Generator(seed).program()
