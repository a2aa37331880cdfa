"""Draws races of one node: at once, it leaves, joins, hands back, claims or returns, and a peer reaps it."""

from __future__ import annotations

import random
from typing import Any

from .fire_generator import KINDS

SHARE = 0.4
"""The share of races that are of one node."""
_ENDS = ("leave", "leave", "reap", "reap", "join", "return")
_OTHERS = ("claim", "claim", "take", "take", "hand back", "complete", "cancel")

Given = dict[str, Any]


def node_race(chance: random.Random, nodes: int) -> Given:
    """A race of a node and a peer. Before it, the node gets claims; its lease can be over."""
    node = chance.randrange(nodes)
    peer = (node + chance.randrange(1, nodes)) % nodes
    first = chance.choice(_ENDS)
    rest = [verb for verb in dict.fromkeys((*_ENDS, *chance.sample(_OTHERS, len(_OTHERS)))) if verb != first]
    drawn = [first, *chance.sample(rest, chance.choice((1, 1, 2)))]
    # what a node sends before its process returns has its earlier incarnation
    drawn.sort(key=lambda verb: verb == "return")
    lapsed = chance.random() < (0.9 if {"reap", "return"} & {*drawn} else 0.2)
    return {
        "ops": [_op(verb, node, peer, chance) for verb in drawn],
        "node": node,
        "peer": peer,
        "claims": chance.choice((1, 1, 2, 3)),
        "started": chance.random() < 0.5,
        "lapsed": lapsed,
    }


def _op(verb: str, node: int, peer: int, chance: random.Random) -> list[Any]:
    claim: Given = {"kinds": dict.fromkeys(KINDS, 5), "limit": chance.choice((1, 1, 2))}
    outcome: Given = {"of": "held", "pick": chance.randrange(3)}
    join: Given = {"node": node, "kinds": [*KINDS]}
    match verb:
        case "leave":
            return ["leave", {"node": node}]
        case "reap":
            return ["reap", {"node": peer, "limit": 100}]
        case "join":
            return ["join", join | {"new": False}]
        case "return":
            return ["join", join | {"new": True, "previous": True}]
        case "claim":
            return ["claim", claim | {"node": node}]
        case "take":
            return ["claim", claim | {"node": peer}]
        case "cancel":
            return ["cancel", {"picks": [-1 - chance.randrange(3)]}]
        case _:
            return ["commit", {"node": node, "outcomes": [outcome | {"action": verb.replace(" ", "_")}]}]
