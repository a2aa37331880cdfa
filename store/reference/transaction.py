"""One command at one moment: its time and its limits, and what all commands do with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from peerjob.model.record import MAX_HISTORY, Hint, StoreLimits, Transition
from peerjob.model.state import State

from .choices import Choices
from .state import Edge, InstanceData, Namespace, NodeData, Remembered, wants

T = TypeVar("T")

REMEMBERED_US = 3_600_000_000
"""Time for which an answer and an ended incarnation are remembered: longer than any call is repeated."""


@dataclass(frozen=True)
class Settled:
    """An end that others wait for."""

    id: str
    state: State | None
    """The final state; None for an instance that is gone."""
    final: bool = False
    """Whether the instance became final, which lets its children go."""
    over: bool = False
    """Whether the instance is over, which ends what needs it."""
    edges: tuple[Edge, ...] = ()
    """What needs it, if that came after its end."""


@dataclass
class ReferenceTransaction:
    """One command. It ends before the next one begins, so it is atomic."""

    state: Namespace
    now_us: int
    limits: StoreLimits
    choices: Choices = field(default_factory=Choices)
    ended: int = 0
    """How many instances outcomes and reaps have ended in this transaction."""
    gates: dict[tuple[str, str], set[str]] = field(default_factory=dict[tuple[str, str], set[str]])
    """Kind and key from which an instance left → the instances that came to the key in this transaction."""
    queued: Counter[str] = field(default_factory=Counter[str])
    """Kind with limits → how many instances came to its queue."""
    opened: set[str] = field(default_factory=set[str])
    """The shared limits that were full and whose claims ended, or that were changed."""
    settling: list[Settled] = field(default_factory=list[Settled])
    """What has ended in this transaction, and is not followed up yet; see `edges.settle`."""
    namespace: str = ""
    rings: bool = False
    """Whether the command left something that a caller waits for: a hint, or another leader."""

    # -- requests

    def idempotent(self, caller: str, command: str, request: str, run: Callable[[], T]) -> T:
        """Run a command, or give the answer of its first run if the same request comes again."""
        known = self.answered(caller, command, request)
        if known is not None:
            return cast("T", known.answer)
        answer = run()
        self.remember(caller, command, request, answer)
        return answer

    def answered(self, caller: str, command: str, request: str) -> Remembered | None:
        """The remembered answer to a request."""
        known = self.state.answers.get((caller, command))
        return known if known is not None and known.request == request and known.until_us > self.now_us else None

    def remember(self, caller: str, command: str, request: str, answer: object) -> None:
        """Remember an answer. A caller has one unanswered request for each command, so the last answer is enough."""
        self.state.answers[caller, command] = Remembered(request, answer, self.now_us + REMEMBERED_US)

    # -- nodes

    def node(self, incarnation: str) -> NodeData | None:
        """An incarnation that joined and has not ended."""
        node = self.state.nodes.get(incarnation)
        return None if node is None or node.ended else node

    def name(self, incarnation: str) -> str:
        """The name of an incarnation, for histories; "" if it is unknown."""
        node = self.state.nodes.get(incarnation)
        return "" if node is None else node.info.name

    def hint(self, incarnation: str, what: str, id: str = "") -> None:
        """Leave a hint for an incarnation; equal hints are one."""
        node, hint = self.node(incarnation), Hint(what, id)
        if node is not None and hint not in node.hints:
            node.hints.append(hint)
            self.rings = True

    def hint_all(self, what: str, id: str = "") -> None:
        """Leave a hint for each live incarnation."""
        for incarnation, node in self.state.nodes.items():
            if node.alive(self.now_us):
                self.hint(incarnation, what, id)

    def wake(self, *kinds: str, but: str = "") -> bool:
        """Wake one idle node that can take one of these kinds; False if there is none."""
        for incarnation, node in self.state.nodes.items():
            if incarnation != but and node.alive(self.now_us) and node.idle is not None and wants(node.idle, kinds):
                node.idle = None
                self.hint(incarnation, "work")
                return True
        return False

    # -- instances

    def changed(self, instance: InstanceData) -> None:
        """Tell the incarnations that watch all changes."""
        for incarnation, node in self.state.nodes.items():
            if node.hears_changes_until_us > self.now_us:
                self.hint(incarnation, "change", instance.id)

    def transition(self, instance: InstanceData, state: State, node: str, note: str = "") -> None:
        """Change the state, and append to the history, whose times never go back."""
        history = instance.history
        at_us = max(history[-1].at_us, self.now_us) if history else self.now_us
        instance.state = state
        history.append(Transition(state, at_us, node, note))
        if len(history) > MAX_HISTORY + 1:
            first, second = history[:2]
            history[:2] = [Transition(second.state, second.at_us, second.node, second.note, first.count + second.count)]
        self.changed(instance)
