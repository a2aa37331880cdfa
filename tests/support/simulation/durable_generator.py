"""Draws what a random program does with durable bodies: their plans, the signals that they get, and flows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .durable import KINDS

SHARE = 0.5
"""The share of programs with durable bodies."""
OFTEN = 0.4
"""The share of the operations of such a program that are about durable bodies."""
VERBS = {"spawn": 3, "signal": 3, "settle": 3, "steps": 3, "require_layout": 3, "turn": 3, "renew": 2}
"""Verbs of the store that a fault may name in these programs, beside the others."""
SIGNALS = ("approval", "zahlung/ü")
MAX_DEPTH = 2
"""How deep the children of children go."""

ACTIONS = {
    "step": 22,
    "steps": 4,
    "beside": 4,
    "wait": 12,
    "suspend": 8,
    "start": 16,
    "map": 5,
    "gather": 10,
    "ended": 4,
    "fail": 6,
    "do": 6,
    "stop": 1,
}
"""What a durable body does, and how often."""
DEEDS = ("sleep 0.1", "sleep 1", "ignore 2", "progress", "lines 3", "owner")

Given = dict[str, Any]
Action = list[Any]


@dataclass
class _Drawn:
    """A plan of a body, as far as it is drawn."""

    depth: int
    signals: list[str]
    """Those that the plan does not use yet."""
    plan: list[Action] = field(default_factory=list[Action])
    started: list[str] = field(default_factory=list[str])
    """The names of its children."""


class DurableGenerator:
    """Draws with a generator of its own, so that the other draws of a program do not depend on it."""

    def __init__(self, seed: int, node: Callable[[], int], kinds: int) -> None:
        self.chance = random.Random(f"durable {seed}")
        self.is_durable = self.chance.random() < SHARE
        self._node = node
        self._kinds = kinds

    def draws(self) -> bool:
        """Whether the next operation is about durable bodies."""
        return self.is_durable and self.chance.random() < OFTEN

    def draw(self, made: Callable[[random.Random, Sequence[str]], int]) -> tuple[str, Given]:
        """An operation; `made` picks an earlier one by its verbs."""
        rng = self.chance
        verb = rng.choices(
            ("order", "flow", "signal", "cancel", "run_now", "retry", "history", "tree", "clear_instances"),
            (12, 4, 14, 4, 1, 2, 1, 1, 1),
        )[0]
        given: Given = {"node": self._node()}
        if verb == "order":
            return verb, given | self._call("d", 0)
        if verb == "flow":
            return verb, given | self._flow()
        if verb == "clear_instances":
            return verb, given | {"older": 1}
        given["of"] = made(rng, ("order", "order", "flow"))
        if verb == "signal":
            given |= {"name": rng.choice(SIGNALS), "value": rng.choice((True, True, False)), "deep": rng.random() < 0.3}
        return verb, given

    # -- calls and plans

    def _call(self, sort: str, depth: int) -> Given:
        rng = self.chance
        options: Given = {"max_retries": rng.choice((0, 2, 2, 3))}
        if rng.random() < 0.3:
            options["backoff"] = rng.choice((0, 0.1, 1))
        if rng.random() < 0.1:
            options["timeout"] = rng.choice((1, 3))
        if rng.random() < 0.15:
            options["retention"] = rng.choice((0, 2))
        if rng.random() < 0.1:
            options["tags"] = ["red"]
        if sort == "k":
            plan: Any = [
                *rng.choices(("return", "sleep 0.1", "sleep 1", "fail", "stop"), (50, 20, 10, 10, 4)),
                "return",
            ]
            return {"kind": f"k{rng.randrange(self._kinds)}", "plan": plan, "options": options}
        return {"kind": f"d{rng.randrange(KINDS)}", "plan": self._plan(depth), "options": options}

    def _child(self, depth: int) -> Given:
        return self._call("d" if depth < MAX_DEPTH and self.chance.random() < 0.3 else "k", depth + 1)

    def _plan(self, depth: int) -> list[Action]:
        rng = self.chance
        drawn = _Drawn(depth, list(SIGNALS))
        for number in range(rng.choice((1, 2, 2, 3, 4, 6))):
            verb = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            act: Callable[[_Drawn, str], None] = getattr(self, f"_draw_{verb}")
            act(drawn, f"{verb}/{number}")
        return drawn.plan

    def _draw_step(self, drawn: _Drawn, name: str) -> None:
        how, seconds = self.chance.choice(("", "", "", "fails")), self.chance.choice((0, 0, 0.1, 1))
        drawn.plan.append(["step", name, how, seconds])

    def _draw_steps(self, drawn: _Drawn, name: str) -> None:
        drawn.plan.append(["steps", [f"{name}/{place}" for place in range(3)], self.chance.choice((0, 0.1))])

    def _draw_beside(self, drawn: _Drawn, name: str) -> None:
        if drawn.signals:
            names, seconds = [f"{name}/{place}" for place in range(2)], self.chance.choice((0, 0.5))
            drawn.plan.append(["beside", names, seconds, drawn.signals.pop(), self._timeout()])

    def _draw_wait(self, drawn: _Drawn, _: str) -> None:
        if drawn.signals:
            drawn.plan.append(["wait", drawn.signals.pop(), self._timeout()])

    def _draw_suspend(self, drawn: _Drawn, name: str) -> None:
        drawn.plan.append(["suspend", name, self.chance.choice((0, 0.3, 2, 10))])

    def _draw_start(self, drawn: _Drawn, name: str) -> None:
        names = [f"{name}/{place}" for place in range(self.chance.choice((1, 1, 3)))]
        drawn.plan += [["start", one, self._child(drawn.depth)] for one in names]
        drawn.started += names

    def _draw_map(self, drawn: _Drawn, name: str) -> None:
        calls = [self._child(drawn.depth) for _ in range(self.chance.choice((0, 1, 2, 5)))]
        drawn.plan.append(["map", name, calls])

    def _draw_gather(self, drawn: _Drawn, _: str) -> None:
        chosen = self.chance.sample(drawn.started, self.chance.randint(0, len(drawn.started)))
        drawn.plan.append(["gather", chosen, self.chance.choice(("goes on", "goes on", "raises"))])

    def _draw_ended(self, drawn: _Drawn, _: str) -> None:
        if drawn.started:
            drawn.plan.append(["ended", self.chance.choice(drawn.started)])

    def _draw_fail(self, drawn: _Drawn, _: str) -> None:
        drawn.plan.append(["fail", self.chance.choice((1, 1, 2))])

    def _draw_do(self, drawn: _Drawn, _: str) -> None:
        drawn.plan.append(["do", self.chance.choice(DEEDS)])

    def _draw_stop(self, drawn: _Drawn, _: str) -> None:
        drawn.plan.append(["stop"])

    def _timeout(self) -> float | None:
        return self.chance.choice((None, None, 0.3, 3, 20))

    # -- flows

    def _flow(self) -> Given:
        rng = self.chance
        members: list[Given] = []
        for number in range(rng.choice((0, 1, 2, 4, 8, 15))):
            member = self._call("d" if rng.random() < 0.4 else "k", MAX_DEPTH)
            places = rng.sample(range(number), min(number, rng.choice((0, 1, 1, 2, 3))))
            hows = ("output", "ended", "after") if member["kind"].startswith("d") else ("after",)
            members.append(
                member
                | {
                    "needs": [[place, rng.choice(hows)] for place in places],
                    "when": rng.choice(("completed", "completed", "ended")),
                    "optional": rng.random() < 0.2,
                }
            )
        return {"members": members, "tags": rng.choice(([], ["red"]))}
