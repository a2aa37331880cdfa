"""Draws random programs. The same seed draws the same program."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from peerjob.model.record import MAX_BATCH_BYTES, Action, StoreLimits

from .fire_generator import HOUR, KINDS, OUTCOMES, TIMELY_WEIGHTS
from .flow_generator import FLOW_LENGTH, FLOW_RACERS, FLOW_SHARES, FLOW_WEIGHTS, FlowGenerator
from .limit_generator import LIMIT_WEIGHTS
from .node_races import SHARE, node_race
from .program import Op, Program

OPERATIONS = 60
LARGE = 0.06
"""The share of programs with large arguments."""
NODES = 3
ENDINGS = ("complete", "complete", "complete", "terminate", "time_out", "cancel")
RETURNS = ("retry", "snooze", "hand_back")
REPEATED = 0.12
"""The share of calls whose answer is lost, so that the caller sends them again."""
ALIKE = 0.3
"""The share of new batches whose instances differ only in id: Redis has a script of its own for them."""
CANCELLED = 0.04
"""The share of calls that are given up while they are under way, and then sent again."""
WEIGHTS = {
    "enqueue": 16,
    "claim": 14,
    "claim_on_hint": 2,
    "commit": 16,
    "turn": 8,
    "cancel": 5,
    "run_now": 3,
    "add_lines": 2,
    "watch_final": 2,
    "watch_changes": 0.5,
    "join": 4,
    "leave": 1.5,
    "renew": 4,
    "reap": 3,
    "instruct": 1,
    "publish_kinds": 1,
    "publish_descriptors": 1,
    "add_audit": 0.7,
    "add_activity": 0.7,
    "put_schedule": 3,
    "remove_schedule": 0.7,
    "fire": 7,
    "campaign": 1,
    "resign": 0.5,
    "expire": 2,
    "clear_instances": 0.8,
    "clear_history": 0.6,
    "clear_logs": 0.6,
    "clear": 0.15,
    "again": 3,
    "late": 2,
    "damage": 0.5,
    "race": 5,
    "rounds": 0.15,
    "check": 4,
    "idle": 3,
    "pass": 1.5,
}

RACERS = ("commit", "commit", "claim", "cancel", "run_now", "enqueue", "reap", "add_lines", "fire")

TURNING = 0.3
"""The share of commits and claims of a race that are a turn, and of joins that are a renewal."""
RENEWING = 0.2
"""The share of races with a further renewal."""

Given = dict[str, Any]


class Generator(FlowGenerator):
    """Draws one program."""

    def __init__(self, seed: int) -> None:
        super().__init__(random.Random(f"oracle {seed}"), seed)
        self._seed = seed
        rng = self._random
        self._focus = {verb: weight * rng.choice((0.3, 1, 1, 3)) for verb, weight in WEIGHTS.items()}
        if self.is_timely:
            self._focus |= TIMELY_WEIGHTS
        if self.is_limited:
            # an engine may find the key of a damaged instance later, when it checks all of them
            self._focus |= LIMIT_WEIGHTS | {"damage": 0}
        if self.is_flowing:
            self._focus |= FLOW_WEIGHTS | {"damage": 0}
            self._focus |= {verb: self._focus[verb] * share for verb, share in FLOW_SHARES.items()}
        if self.is_rated:
            self._focus["race"] = 0
        self._batches = random.Random(f"batches {seed}")
        self._nodes = random.Random(f"nodes {seed}")
        self._turns = random.Random(f"turns {seed}")
        self._hours = 0
        # some programs reach the limit of bytes of a claim with three instances
        if random.Random(f"sizes {seed}").random() < LARGE:
            self.largest = MAX_BATCH_BYTES * 2 // 5

    def program(self, operations: int = OPERATIONS) -> Program:
        """The program, with so many operations and the joins before them."""
        limits = self._limits()
        # *Choice*: of two records with the same nominal time, either is the earliest, and leaves a full ledger first
        self.outcomes = ("fired", "triggered") if limits.max_fires < 1_000 else OUTCOMES
        ops = [Op("join", self._join_of(number, new=True)) for number in range(NODES)]
        if self.is_limited:
            ops += [Op("publish_limits", self._publish_limits()), *self.sleepers()]
        if self.is_flowing:
            ops.append(Op("require_layout"))
        operations = round(operations * FLOW_LENGTH) if self.is_flowing else operations
        while len(ops) < operations + NODES:
            (verb,) = self._random.choices(list(self._focus), list(self._focus.values()))
            ops.append(Op(verb, self._given(verb), self._how()))
            ops += self._sequel(verb)
        return Program(seed=self._seed, limits=limits, ops=tuple(ops))

    def _limits(self) -> StoreLimits:
        rng = self._random
        return StoreLimits(
            retention_us=rng.choice((86_400, 86_400, HOUR)) * 1_000_000,
            max_final_per_kind=rng.choice((100_000, 100_000, 2, 5)),
            max_log_lines=rng.choice((1_000, 1_000, 3, 7)),
            max_log_bytes=rng.choice((1 << 20, 1 << 20, 40, 200)),
            max_fires=rng.choice((1_000, 1_000, 3)),
        )

    def _sequel(self, verb: str) -> list[Op]:
        """What shows the effect of a call that other calls rarely show."""
        also = self._also
        match verb:
            case "clear_logs" if also.random() < 0.8:
                lines = self._add_lines() | {"logged": True}
                again = {**lines, "logs": [{"size": 30, "level": 2}, {"size": 3, "level": 2}]}
                return [Op("add_lines", lines), Op("clear_logs"), Op("add_lines", again), Op("add_lines", again)]
            case "check_limits" if not self.is_rated:
                return [Op("stray", {"node": also.randrange(NODES), "pick": also.randrange(8)})]
            case _:
                return []

    def _how(self) -> str:
        drawn = self._random.random()
        given_up = 0 if self.is_rated else CANCELLED
        return "repeated" if drawn < REPEATED else "cancelled" if drawn < REPEATED + given_up else ""

    def _given(self, verb: str) -> Given:
        drawer: Callable[[], Given] = getattr(self, f"_{verb}")
        return drawer()

    # -- instances

    def _enqueue(self) -> Given:
        rng = self._random
        works = [self.work() for _ in range(rng.choice((1, 1, 1, 2, 3, 6)))]
        if self._batches.random() < ALIKE:
            shared = {name: works[0][name] for name in works[0].keys() & {"kind", "spec", "priority", "kept"}}
            works = [shared | {"n": work["n"]} for work in works]
        return {"works": works, "node": rng.choice(("", "caller", "node-1"))}

    def _claim(self) -> Given:
        rng = self._random
        kinds = {kind: rng.choice((0, 1, 2, 5, 5)) for kind in KINDS if rng.random() < 0.85}
        given: Given = {"node": self.number(NODES), "kinds": kinds, "limit": rng.choice((0, 1, 1, 2, 3, 10))}
        return self.eager(given | self.some(suspects=(False, 0.15), idle=(False, 0.15)))

    def _claim_on_hint(self) -> Given:
        return self._claim()

    def _commit(self) -> Given:
        outcomes = [self._outcome() for _ in range(self._random.choice((1, 1, 2, 4)))]
        return self.held({"node": self.number(NODES), "outcomes": outcomes})

    def _turn(self) -> Given:
        given = self._commit()
        if self._random.random() < 0.2:
            given["outcomes"] = []
        return given | (self._claim() | {"node": given["node"]} if self._random.random() < 0.85 else {})

    def _outcome(self) -> Given:
        rng = self._random
        kind = rng.random()
        action = rng.choice(ENDINGS) if kind < 0.5 else rng.choice(RETURNS) if kind < 0.72 else "report"
        if rng.random() < 0.06:
            action = rng.choice([str(one) for one in Action if one is not Action.SUSPEND])
        given: Given = {"of": rng.choice(("held",) * 8 + ("past", "any")), "pick": rng.randrange(8), "action": action}
        if action in ("retry", "snooze"):
            given["delay"] = rng.choice((0, 0, HOUR, 3))
        if action != "report":
            given |= self.some(result=(rng.choice((0, 10, 300)), 0.4), error=(rng.choice((0, 10, 300)), 0.3))
        given |= self.some(
            progress=(rng.choice((1, 20, 300)), 0.25),
            started=(True, 0.4),
            note=(rng.choice((3, 40, 200)), 0.3),
            logs=(self._lines(), 0.3),
        )
        return self.durable(given)

    def _lines(self) -> list[Given]:
        rng = self._random
        return [
            {"size": rng.choice((0, 3, 30, 120)), "level": rng.choice((1, 2, 4, 8)), "at": rng.randrange(1, 9)}
            | self.some(node=("node-1", 0.2), fields=({"a": 1, "b": "ü"}, 0.2), attempt=(2, 0.2))
            for _ in range(rng.choice((1, 1, 2, 5)))
        ]

    def _cancel(self) -> Given:
        return {"picks": self._picks()} | self.some(by=("caller", 0.5))

    def _picks(self) -> list[int]:
        rng = self._random
        return [rng.randrange(40) for _ in range(rng.choice((1, 1, 2, 4)))]

    def _run_now(self) -> Given:
        return {"picks": self._picks()}

    def _add_lines(self) -> Given:
        return {"pick": self._random.randrange(40), "logs": self._lines()}

    def _watch_final(self) -> Given:
        return {"node": self.number(NODES), "picks": self._picks()}

    def _watch_changes(self) -> Given:
        return {"node": self.number(NODES), "ttl": 60}

    # -- nodes

    def _join(self) -> Given:
        rng = self._random
        return self._join_of(self.number(NODES), new=rng.random() < 0.8)

    def _join_of(self, node: int, *, new: bool) -> Given:
        rng = self._random
        kinds = [kind for kind in KINDS if rng.random() < 0.85]
        given: Given = {"node": node, "kinds": kinds, "new": new}
        return self.lasting(
            given
            | self.some(
                over=(True, 0.3 if new else 0.15),
                previous=(True, 0.4),
                workers=(0, 0.1),
                intake=(rng.choice(("", "draining", "drained")), 0.1),
                hash=("other", 0.1),
                name=("node-ü", 0.1),
            )
        )

    def _leave(self) -> Given:
        return {"node": self.number(NODES)}

    def _renew(self) -> Given:
        return {"node": self.number(NODES)} | self.some(held=(self._random.choice(("less", "more")), 0.3))

    def _reap(self) -> Given:
        return {"node": self.number(NODES), "limit": self._random.choice((1, 2, 100, 100))}

    def _instruct(self) -> Given:
        return {"node": self.number(NODES), "drain": self._random.random() < 0.5} | self.some(workers=(7, 0.3))

    def _campaign(self) -> Given:
        return {"node": self.number(NODES)}

    def _resign(self) -> Given:
        return {"node": self.number(NODES)}

    # -- catalogue, audit log, activity

    def _publish_kinds(self) -> Given:
        return {"kinds": self._random.sample((*KINDS, "other"), self._random.choice((1, 2)))}

    def _publish_descriptors(self) -> Given:
        rng = self._random
        return {
            "descriptors": [
                {"kind": kind, "version": rng.randrange(6), "schema": rng.random() < 0.5}
                for kind in rng.sample(KINDS, rng.choice((1, 2)))
            ]
        }

    def _add_audit(self) -> Given:
        return {"verbs": [self._random.choice(("Cancel", "Schedule")) for _ in range(self._random.choice((1, 3)))]}

    def _add_activity(self) -> Given:
        rng = self._random
        rows = {kind: [rng.randrange(5) for _ in range(5)] for kind in rng.sample((*KINDS, ""), rng.choice((1, 2)))}
        return {"slot": -rng.choice((0, 0, 1, 2)), "rows": rows}

    # -- retention

    def _expire(self) -> Given:
        return {"limit": self._random.choice((1, 100, 100))}

    def _clear_instances(self) -> Given:
        return self._filter() | self.some(limit=(1, 0.3))

    def _clear_history(self) -> Given:
        return self._filter()

    def _clear_logs(self) -> Given:
        return self._filter()

    def _filter(self) -> Given:
        rng = self._random
        return self.some(
            before=(rng.choice((50, 90)), 0.3), after=(rng.choice((50, 150)), 0.3), older_than=("70s", 0.2)
        )

    def _clear(self) -> Given:
        return {}

    # -- verbs of the oracle

    def _again(self) -> Given:
        return {"back": self._random.choice((1, 2, 3, 5))}

    def _late(self) -> Given:
        return {"pick": self._random.randrange(40)}

    def _damage(self) -> Given:
        return {"pick": self._random.randrange(40)}

    def _race(self) -> Given:
        rng = self._random
        ops = [self._racer() for _ in range(rng.choice((2, 2, 3)))]
        if any(verb in ("commit", "cancel", "reap") for verb, _ in ops):
            # *Choice*: a child is added in parts; if the claim of its parent ends between them, it can stay open
            ops = [op for op in ops if op[0] != "spawn"]
        # *Choice*: two reaps at once share the claims of a dead incarnation in any way
        later_reaps = [op for op in ops if op[0] == "reap"][1:]
        given: Given = {"ops": [op for op in ops if op not in later_reaps], "pick": rng.randrange(8)}
        given = node_race(self._nodes, NODES) if self._nodes.random() < SHARE else given
        return self._with_turn(given)

    def _with_turn(self, given: Given) -> Given:
        """A race in which a node can send a turn instead of a commit or a claim, and renew its lease."""
        drawn, turns = self._turns, list[list[Any]]()
        for op in given["ops"]:
            verb, of = op
            if verb in ("commit", "claim") and not turns and drawn.random() < TURNING:
                claim = {"kinds": dict.fromkeys(KINDS, 5), "limit": drawn.choice((1, 1, 2)), "suspects": True}
                held = {
                    "of": "held",
                    "pick": drawn.randrange(3),
                    "action": drawn.choice((*ENDINGS, *RETURNS, "report")),
                }
                op[:] = ["turn", claim | {"outcomes": [held]} | of]
                turns.append(op)
            elif verb == "join" and not of["new"] and drawn.random() < TURNING:
                op[:] = ["renew", {"node": of["node"]}]
        if len(given["ops"]) < 3 and drawn.random() < RENEWING:
            node = given.get("node", drawn.randrange(NODES))
            given["ops"].insert(drawn.randrange(2), ["renew", {"node": node} | drawn.choice(({}, {"held": "more"}))])
        return given

    def _racer(self) -> list[Any]:
        """A call of a race. Its instance is that of the race."""
        rng = self._random
        verb = rng.choice(RACERS + FLOW_RACERS * self.is_flowing)
        given = self._given(verb)
        match verb:
            case "commit":
                given["outcomes"] = [self._outcome()]
            case "claim":
                given["limit"] = 1
            case "cancel" | "run_now":
                given["picks"] = given["picks"][:1]
            case "enqueue":
                given["works"] = given["works"][:1]
            case "reap":
                given["limit"] = 100
            case "spawn":
                given["children"] = given["children"][:1]
            case "fire":
                given["fires"] = given["fires"][:1]
            case _:
                pass
        return [verb, given]

    def _rounds(self) -> Given:
        return {"node": self.number(NODES), "times": self._random.choice((5, 28)), "note": self._random.choice((0, 40))}

    def _check(self) -> Given:
        return {"seed": self._random.randrange(1_000_000)}

    def _idle(self) -> Given:
        return {}

    def _pass(self) -> Given:
        self._hours += 1
        return {"seconds": self._random.choice((4, 4, 4, 2 * HOUR, 25 * HOUR))}


def generate(seed: int, operations: int = OPERATIONS) -> Program:
    """The program of a seed."""
    return Generator(seed).program(operations)
